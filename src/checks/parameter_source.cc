#include "checks/parameter_source.h"

#include <utility>

#include "base/threads.h"
#include "checks/copies.h"
#include "checks/inventory.h"
#include "checks/parameter_plan.h"
#include "checks/rank_copies.h"
#include "mapping/boxes.h"

namespace weighbridge {

Result<Plan> ParameterBytes::Box(const Shape& offsets, const Shape& sizes) const {
  if (sizes == shape) return plan;
  WB_TRY(const Plan cut, BoxPlan(shape, {offsets, sizes}, BitsOf(sources.dtype) / 8));
  return Compose(cut, plan);
}

Result<HfParameters> HfParameters::Create(const Model& model, const Checkpoint& hf) {
  WB_TRY(Inventory inventory, TakeInventory(model, hf));
  WB_RETURN_IF_ERROR(RequireNoCause(inventory.causes));
  WB_RETURN_IF_ERROR(RequireNoCause(JudgeCopies(hf, inventory, false).causes));
  HfParameters parameters(model, hf);
  parameters.left_out_ = std::move(inventory.left_out);
  return parameters;
}

DType HfParameters::StoredDType(const Parameter& p) const { return hf_->Find(p.hf[0])->dtype; }

Result<ParameterBytes> HfParameters::Open(const Parameter& p) const {
  WB_TRY(const ParameterPlan plan, ParameterPlan::Create(*model_, p, *hf_));
  return plan.bytes();
}

Result<MegatronParameters> MegatronParameters::Create(const Model& model,
                                                      const MegatronCheckpoint& megatron,
                                                      bool without_mtp) {
  if (!megatron.faults().empty()) {
    const RankFault& fault = megatron.faults().front();
    return Corrupt(fault.id, fault.message, megatron.path().string(),
                   "`weighbridge verify` lists all of them");
  }
  MegatronBinding binding = BindMegatron(model, megatron.metadata(), without_mtp);
  WB_RETURN_IF_ERROR(RequireNoCause(binding.causes, "`weighbridge verify` lists all of them"));
  WB_RETURN_IF_ERROR(RequireEqualCopies(megatron, DefaultThreads()));
  return MegatronParameters(megatron, std::move(binding));
}

MegatronParameters::MegatronParameters(const MegatronCheckpoint& megatron, MegatronBinding binding)
    : megatron_(&megatron), binding_(std::move(binding)) {
  for (size_t i = 0; i < binding_.bound.size(); ++i) index_[binding_.bound[i].parameter] = i;
}

DType MegatronParameters::StoredDType(const Parameter& p) const { return Bound(p).tensor->dtype; }

Result<ParameterBytes> MegatronParameters::Open(const Parameter& p) const {
  const BoundParameter& bound = Bound(p);
  ParameterBytes bytes;
  bytes.shape = p.shape;
  bytes.sources.dtype = bound.tensor->dtype;
  WB_TRY(const auto chunks, ChunkBytes(*megatron_, bound.chunks));
  for (const auto& chunk : chunks) bytes.sources.Add(chunk.data(), nullptr);
  WB_TRY(bytes.plan, JoinChunks(p.shape, bound.tensor->dtype, bound.chunks));
  return bytes;
}

Result<std::vector<std::span<const std::byte>>> ChunkBytes(const MegatronCheckpoint& megatron,
                                                           std::span<const BoundChunk> chunks) {
  std::vector<std::span<const std::byte>> out;
  for (const BoundChunk& c : chunks) {
    const auto size = static_cast<size_t>(BitsOf(c.tensor->dtype) / 8);
    WB_TRY(const auto data, megatron.Data(*c.tensor, *c.chunk));
    out.push_back(data.subspan(static_cast<size_t>(c.first_element) * size,
                               static_cast<size_t>(Numel(c.sizes)) * size));
  }
  return out;
}

Result<Plan> JoinChunks(const Shape& shape, DType dtype, std::span<const BoundChunk> chunks) {
  std::vector<TensorBox> boxes;
  for (const BoundChunk& c : chunks) boxes.push_back({c.offsets, c.sizes});
  return JoinBoxes(shape, boxes, BitsOf(dtype) / 8);
}

}  // namespace weighbridge
