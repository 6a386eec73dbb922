#include "checks/copies.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "checks/moves.h"
#include "tensor/compare.h"

namespace weighbridge {
namespace {

constexpr char kHint[] = "set tie_word_embeddings to what the weights are";

// Why the copy is none; "" when it is one.
std::string WhyNot(const Checkpoint& hf, const Inventory::Copy& copy, bool headers_only) {
  if (copy.original == nullptr) {
    return fmt::format("it must equal '{}', which is not there", copy.rule->same_as);
  }
  if (copy.original->shape != copy.copy->shape || copy.original->dtype != copy.copy->dtype) {
    return fmt::format("it must equal '{}', which has another shape or dtype", copy.rule->same_as);
  }
  if (headers_only) return "";
  if (EqualTensors(hf, *copy.copy, *copy.original)) return "";
  return fmt::format("it must equal '{}' bit for bit and does not", copy.rule->same_as);
}

Result<bool> ChunksEqual(const MegatronCheckpoint& megatron, const DistTensor& original,
                         const DistTensor& copy, bool headers_only, int threads) {
  if (original.shape != copy.shape || original.dtype != copy.dtype ||
      original.chunks.size() != copy.chunks.size()) {
    return false;
  }
  for (size_t c = 0; !headers_only && c < copy.chunks.size(); ++c) {
    const DistChunk &own = copy.chunks[c], &other = original.chunks[c];
    if (own.offsets != other.offsets || own.sizes != other.sizes) return false;
    WB_TRY(const auto a, megatron.Data(original, other));
    WB_TRY(const auto b, megatron.Data(copy, own));
    if (!BytesEqual(a, b, threads)) return false;
  }
  return true;
}

}  // namespace

JudgedCopies JudgeCopies(const Checkpoint& hf, const Inventory& inventory, bool headers_only) {
  JudgedCopies out;
  for (const Inventory::Copy& copy : inventory.copies) {
    ResultRow row;
    row.hf.push_back({copy.copy->name, copy.copy->shape, copy.copy->dtype});
    row.transform = copy.rule->tied ? "tied" : "copy";
    if (headers_only) row.metrics = NotCompared();
    row.bytes = copy.copy->nbytes;
    row.why = WhyNot(hf, copy, headers_only);
    if (!row.why.empty()) {
      row.status = RowStatus::kMismatch;
      out.causes.push_back({"tie-mismatch",
                            Proof::kStructural,
                            Origin::kCheckpoint,
                            {copy.copy->name},
                            row.why,
                            copy.rule->why,
                            kHint});
    } else {
      row.why = copy.rule->why;
    }
    const bool comparable = copy.original != nullptr && copy.original->shape == copy.copy->shape &&
                            copy.original->dtype == copy.copy->dtype;
    if (comparable) out.bytes += copy.copy->nbytes;
    out.rows.push_back(std::move(row));
  }
  return out;
}

Result<JudgedCopies> JudgeTiedCopy(const MegatronCheckpoint& megatron,
                                   const MegatronBinding& binding, bool headers_only, int threads) {
  JudgedCopies out;
  if (binding.tied_copy == nullptr) return out;
  const auto embedding =
      std::find_if(binding.bound.begin(), binding.bound.end(),
                   [](const BoundParameter& b) { return b.parameter->place == Place::kFirst; });
  const DistTensor& copy = *binding.tied_copy;
  ResultRow row;
  row.megatron = {copy.key, copy.shape, copy.dtype};
  row.transform = "tied";
  row.why = "the output layer is tied to the embedding";
  bool equal = false;
  if (embedding != binding.bound.end()) {
    WB_TRY(equal, ChunksEqual(megatron, *embedding->tensor, copy, headers_only, threads));
  }
  if (!equal) {
    row.status = RowStatus::kMismatch;
    row.why = "it must equal the embedding bit for bit and does not";
    out.causes.push_back(
        {"tie-mismatch", Proof::kExact, Origin::kCheckpoint, {copy.key}, row.why, copy.key, kHint});
  }
  out.rows.push_back(std::move(row));
  return out;
}

}  // namespace weighbridge
