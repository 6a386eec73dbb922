#include "checks/canonical.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include "checks/copies.h"
#include "checks/hf_part.h"
#include "checks/inventory.h"
#include "checks/megatron_binding.h"
#include "checks/rank_copies.h"

namespace weighbridge {
namespace {

constexpr int64_t kBlockBytes = 256 << 10;

template <typename T>
void Append(std::vector<T> from, std::vector<T>& to) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

Result<CanonicalTensors> CanonicalTensors::OfHf(const Model& primary, const Model& stored,
                                                const Checkpoint& hf,
                                                const CanonicalOptions& options) {
  CanonicalTensors out(primary, stored);
  WB_RETURN_IF_ERROR(out.CheckSameParameters());
  WB_TRY(Inventory inventory, TakeInventory(stored, hf));
  out.hf_ = &hf;
  out.source_ = std::make_unique<HfParameters>(HfParameters::OfUsable(stored, hf));
  WB_RETURN_IF_ERROR(out.Collect(inventory.usable));
  JudgedCopies copies = JudgeCopies(hf, inventory, options.headers_only);
  for (const CheckpointNote& note : hf.notes()) out.notes_.push_back({note.id, note.message});
  Append(std::move(inventory.rows), out.rows_);
  Append(std::move(inventory.causes), out.causes_);
  Append(std::move(inventory.notes), out.notes_);
  Append(std::move(copies.rows), out.rows_);
  Append(std::move(copies.causes), out.causes_);
  return out;
}

Result<CanonicalTensors> CanonicalTensors::OfMegatron(const Model& primary, const Model& stored,
                                                      const MegatronCheckpoint& megatron,
                                                      const CanonicalOptions& options) {
  CanonicalTensors out(primary, stored);
  WB_RETURN_IF_ERROR(out.CheckSameParameters());
  if (!options.headers_only) WB_RETURN_IF_ERROR(RequireEqualCopies(megatron, options.threads));
  MegatronBinding binding = BindMegatron(stored, megatron.metadata(), options.without_mtp);
  WB_TRY(JudgedCopies copies,
         JudgeTiedCopy(megatron, binding, options.headers_only, options.threads));
  for (const RankFault& fault : megatron.faults()) {
    out.causes_.push_back({fault.id,
                           Proof::kStructural,
                           Origin::kCheckpoint,
                           {fault.where},
                           fault.message,
                           fault.message,
                           ""});
  }
  Append(std::move(binding.rows), out.rows_);
  Append(std::move(binding.causes), out.causes_);
  Append(std::move(binding.notes), out.notes_);
  Append(std::move(copies.rows), out.rows_);
  Append(std::move(copies.causes), out.causes_);
  std::vector<const Parameter*> there;
  for (const BoundParameter& b : binding.bound) there.push_back(b.parameter);
  out.source_ = std::make_unique<MegatronParameters>(
      MegatronParameters::OfBound(megatron, std::move(binding)));
  WB_RETURN_IF_ERROR(out.Collect(there));
  return out;
}

Status CanonicalTensors::CheckSameParameters() const {
  const auto &a = primary_->parameters(), &b = stored_->parameters();
  const bool same = a.size() == b.size() &&
                    std::equal(a.begin(), a.end(), b.begin(), [](const auto& x, const auto& y) {
                      return x.rule == y.rule && x.layer == y.layer && x.expert == y.expert;
                    });
  if (same) return {};
  return Fail(ErrorKind::kInternal, "inventory", "two expansions of a model are not alike");
}

Status CanonicalTensors::Collect(const std::vector<const Parameter*>& there) {
  struct Found {
    CanonicalTensor tensor;
    std::vector<Part> parts;
    std::set<const TensorInfo*> from;  // what the parts are stored in
  };
  std::map<std::string, Found> by_name;
  for (const Parameter* stored : there) {
    const auto index = static_cast<size_t>(stored - stored_->parameters().data());
    const Parameter& p = primary_->parameters()[index];
    const bool as_it_is = hf_ != nullptr && stored->storage == &stored->rule->storage[0];
    WB_TRY(const TransformPlan transform, primary_->Plan(p));
    for (size_t i = 0; i < transform.sources.size(); ++i) {
      const auto& [shape, begin, numel, run, stride] = transform.sources[i];
      Found& found = by_name[p.hf[i]];
      const DType dtype = source_->StoredDType(*stored);
      if (!found.parts.empty() && found.tensor.stored != dtype) {
        return Fail(ErrorKind::kUnsupported, "mixed-dtypes",
                    fmt::format("its parts are {} and {}", ShortName(found.tensor.stored),
                                ShortName(dtype)),
                    p.hf[i]);
      }
      found.tensor.shape = shape;
      found.tensor.stored = dtype;
      found.tensor.declared = p.rule->dtype;
      if (as_it_is) found.tensor.hf = hf_->Find(p.hf[i]);
      found.parts.push_back({index, i, begin, numel});
      found.from.insert(hf_ != nullptr && i < stored->hf.size() ? hf_->Find(stored->hf[i])
                                                                : nullptr);
    }
  }
  for (auto& [name, found] : by_name) {
    std::sort(found.parts.begin(), found.parts.end(),
              [](const Part& a, const Part& b) { return a.begin < b.begin; });
    int64_t covered = 0;
    for (const Part& part : found.parts) covered += part.numel;
    if (covered != Numel(found.tensor.shape)) continue;  // a row says which parameter is not there
    found.tensor.name = name;
    const TensorInfo* from = found.from.size() == 1 ? *found.from.begin() : nullptr;
    if (from != nullptr && hf_->Quantized(*from) != nullptr && Numel(from->shape) == covered) {
      found.tensor.quantized = from;
    }
    if (found.tensor.hf == nullptr) {
      found.tensor.first_part = static_cast<uint32_t>(parts_.size());
      found.tensor.parts = static_cast<uint32_t>(found.parts.size());
      Append(std::move(found.parts), parts_);
    }
    tensors_.push_back(std::move(found.tensor));
  }
  return {};
}

Status CanonicalTensors::Visit(
    const CanonicalTensor& tensor,
    const std::function<Status(std::span<const std::byte>)>& visit) const {
  const auto in_blocks = [&](std::span<const std::byte> bytes) -> Status {
    for (size_t at = 0; at < bytes.size(); at += kBlockBytes) {
      WB_RETURN_IF_ERROR(
          visit(bytes.subspan(at, std::min<size_t>(kBlockBytes, bytes.size() - at))));
    }
    return {};
  };
  std::vector<std::byte> block, scratch;
  const int64_t size = BitsOf(tensor.stored) / 8;
  if (tensor.hf != nullptr && tensor.quantized != nullptr) {
    for (int64_t at = 0; at < Numel(tensor.shape); at += kBlockBytes / size) {
      const int64_t n = std::min(kBlockBytes / size, Numel(tensor.shape) - at);
      block.resize(static_cast<size_t>(n * size));
      Dequantize(*Quantized(tensor), at, n, block.data());
      WB_RETURN_IF_ERROR(visit(block));
    }
    return {};
  }
  if (tensor.hf != nullptr) return in_blocks(hf_->Data(*tensor.hf));
  for (uint32_t i = 0; i < tensor.parts; ++i) {
    const Part& where = parts_[tensor.first_part + i];
    WB_TRY(const ParameterBytes bytes, source_->Open(stored_->parameters()[where.parameter]));
    WB_TRY(const HfPart part,
           HfPart::Open(*primary_, primary_->parameters()[where.parameter], where.source, bytes));
    // The parts are columns: they alternate.
    if (part.Following(0) < part.numel()) return VisitColumns(tensor, visit);
    if (const auto whole = part.InPlace()) {
      WB_RETURN_IF_ERROR(in_blocks(*whole));
      continue;
    }
    for (int64_t at = 0; at < part.numel(); at += kBlockBytes / size) {
      const int64_t n = std::min(kBlockBytes / size, part.numel() - at);
      block.resize(static_cast<size_t>(n * size));
      WB_RETURN_IF_ERROR(part.Read(at, tensor.stored, block, scratch));
      WB_RETURN_IF_ERROR(visit(block));
    }
  }
  return {};
}

Status CanonicalTensors::VisitColumns(
    const CanonicalTensor& tensor,
    const std::function<Status(std::span<const std::byte>)>& visit) const {
  std::deque<ParameterBytes> bytes;
  std::vector<HfPart> parts;
  for (uint32_t i = 0; i < tensor.parts; ++i) {
    const Part& where = parts_[tensor.first_part + i];
    WB_TRY(ParameterBytes opened, source_->Open(stored_->parameters()[where.parameter]));
    bytes.push_back(std::move(opened));
    WB_TRY(HfPart part, HfPart::Open(*primary_, primary_->parameters()[where.parameter],
                                     where.source, bytes.back()));
    parts.push_back(std::move(part));
  }
  std::vector<std::byte> block, scratch;
  const int64_t size = BitsOf(tensor.stored) / 8, rows = tensor.shape[0];
  for (int64_t row = 0; row < rows; ++row) {
    for (const HfPart& part : parts) {
      const int64_t columns = part.numel() / rows;
      block.resize(static_cast<size_t>(columns * size));
      WB_RETURN_IF_ERROR(part.Read(row * columns, tensor.stored, block, scratch));
      WB_RETURN_IF_ERROR(visit(block));
    }
  }
  return {};
}

}  // namespace weighbridge
