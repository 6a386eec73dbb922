// The bytes of global Megatron parameters, wherever they come from: a Hugging Face checkpoint
// through the family's transforms, or the chunks of a Megatron checkpoint. What is written for
// ranks, and what is hashed for them, is cut from these.
#pragma once

#include <map>
#include <utility>

#include "base/result.h"
#include "checks/megatron_binding.h"
#include "checks/moves.h"
#include "family/model.h"
#include "formats/checkpoint.h"
#include "formats/megatron_checkpoint.h"
#include "mapping/plan.h"

namespace weighbridge {

// One global parameter, ready to be read with GatherElements.
struct ParameterBytes {
  Plan plan;  // walks the parameter, row-major, in sources.dtype, and names bytes of `sources`
  Sources sources;
  Op op = Op::kNone;  // from the sources' values to the parameter's
  Shape shape;

  // Walks the box of the parameter at `offsets` of `sizes`, row-major, in sources.dtype.
  Result<Plan> Box(const Shape& offsets, const Shape& sizes) const;
};

// Immutable; may be used from any thread.
class ParameterSource {
 public:
  virtual ~ParameterSource() = default;

  // In which the source stores it. `p` must be there (inventory and binding come first).
  virtual DType StoredDType(const Parameter& p) const = 0;
  // Errors: those of ParameterPlan::Create, of MegatronCheckpoint::Data.
  virtual Result<ParameterBytes> Open(const Parameter& p) const = 0;
};

// From Hugging Face. Model and checkpoint must outlive it.
class HfParameters final : public ParameterSource {
 public:
  // kCorrupt with a cause id when `hf` is not complete, or a copy of a tied tensor is not one.
  static Result<HfParameters> Create(const Model& model, const Checkpoint& hf);
  // Of a checkpoint that may lack some: only what the inventory calls usable may be asked for.
  static HfParameters OfUsable(const Model& model, const Checkpoint& hf) { return {model, hf}; }
  // What of a checkpoint that Create() read is no part of any parameter.
  const std::vector<LeftOut>& left_out() const { return left_out_; }
  DType StoredDType(const Parameter& p) const override;
  Result<ParameterBytes> Open(const Parameter& p) const override;

 private:
  HfParameters(const Model& model, const Checkpoint& hf) : model_(&model), hf_(&hf) {}
  const Model* model_;
  const Checkpoint* hf_;
  std::vector<LeftOut> left_out_;
};

// From a Megatron checkpoint. Model and checkpoint must outlive it.
class MegatronParameters final : public ParameterSource {
 public:
  // kCorrupt with a cause id when a parameter is missing or has another shape, and when there is
  // what no parameter explains; "replica-drift" when the files of ranks hold copies that differ
  // (they are read). `without_mtp`: MTP layers on disk are passed over.
  static Result<MegatronParameters> Create(const Model& model, const MegatronCheckpoint& megatron,
                                           bool without_mtp);
  // Of a checkpoint that may lack some: only what is bound may be asked for.
  static MegatronParameters OfBound(const MegatronCheckpoint& megatron, MegatronBinding binding) {
    return {megatron, std::move(binding)};
  }
  const MegatronBinding& binding() const { return binding_; }
  DType StoredDType(const Parameter& p) const override;
  Result<ParameterBytes> Open(const Parameter& p) const override;

 private:
  MegatronParameters(const MegatronCheckpoint& megatron, MegatronBinding binding);
  const BoundParameter& Bound(const Parameter& p) const { return binding_.bound[index_.at(&p)]; }

  const MegatronCheckpoint* megatron_;
  MegatronBinding binding_;
  std::map<const Parameter*, size_t> index_;  // into binding_.bound
};

// The bytes of `chunks`, in their order.
Result<std::vector<std::span<const std::byte>>> ChunkBytes(const MegatronCheckpoint& megatron,
                                                           std::span<const BoundChunk> chunks);

// Walks a tensor of `shape`, which the chunks tile, and names their bytes.
Result<Plan> JoinChunks(const Shape& shape, DType dtype, std::span<const BoundChunk> chunks);

}  // namespace weighbridge
