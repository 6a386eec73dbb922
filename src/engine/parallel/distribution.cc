#include "engine/parallel/distribution.h"

#include <algorithm>
#include <utility>

namespace weighbridge::engine {
namespace {

using at::Tensor;

bool IsOfHeads(Slot slot) {
  using enum Slot;
  constexpr Slot kSlots[] = {kQ, kK, kV, kGate, kQNormed, kKNormed, kQRotated, kKRotated, kContext};
  return std::find(std::begin(kSlots), std::end(kSlots), slot) != std::end(kSlots);
}

bool IsOfKeys(Slot slot) {
  return slot == Slot::kK || slot == Slot::kV || slot == Slot::kKNormed || slot == Slot::kKRotated;
}

}  // namespace

Range HeadsOf(int64_t heads, int64_t part, int64_t parts) {
  if (heads < parts) return {part * heads / parts, 1};
  return PartOf(heads, part, parts);
}

Distribution::Spread Distribution::SpreadOf(const ModuleInfo& module, Slot slot) const {
  if (slot == Slot::kIds) return Spread::kWhole;
  if (module.id == ModuleId::kExperts) return Spread::kTokens;
  if (IsOfHeads(slot)) return Spread::kHeads;
  return shape_.sequence_parallel ? Spread::kSequence : Spread::kWhole;
}

std::vector<int64_t> Distribution::RanksOf(const ModuleInfo& module) const {
  const int64_t count = module.id == ModuleId::kExperts ? shape_.width() : shape_.tp;
  std::vector<int64_t> ranks;
  for (int64_t rank = 0; rank < count; ++rank) ranks.push_back(rank);
  return ranks;
}

Tensor Distribution::Part(const Tensor& whole, Spread spread, int64_t rank) const {
  const int64_t tp = rank % shape_.tp;
  switch (spread) {
    case Spread::kWhole:
      return whole;
    case Spread::kHeads: {
      const Range heads = HeadsOf(whole.size(2), tp, shape_.tp);
      return whole.narrow(2, heads.begin, heads.count);
    }
    case Spread::kSequence: {
      const Range part = PartOf(whole.size(1), tp, shape_.tp);
      return whole.narrow(1, part.begin, part.count);
    }
    case Spread::kTokens: {
      // Without sequence parallelism the tensor-parallel ranks have the same tokens.
      const Tensor tokens = whole.flatten(0, 1);
      const Range part = shape_.sequence_parallel
                             ? PartOf(tokens.size(0), rank, shape_.width())
                             : PartOf(tokens.size(0), rank / shape_.tp, shape_.width() / shape_.tp);
      return tokens.narrow(0, part.begin, part.count).unsqueeze(0);
    }
  }
  return whole;
}

std::vector<Tensor> Distribution::Inputs(const ModuleInfo& module, std::span<const Tensor> whole,
                                         int64_t rank) const {
  std::vector<Tensor> parts;
  for (size_t i = 0; i < whole.size(); ++i) {
    parts.push_back(whole[i].defined() ? Part(whole[i], SpreadOf(module, module.in[i]), rank)
                                       : Tensor());
  }
  return parts;
}

Tensor Distribution::Join(const std::vector<Tensor>& parts, Spread spread,
                          const Tensor& like) const {
  if (spread == Spread::kWhole || parts.size() == 1) return parts.front();
  if (spread == Spread::kSequence) return at::cat(parts, 1);
  if (spread == Spread::kHeads) return at::cat(parts, 2);
  std::vector<Tensor> tokens;
  for (size_t rank = 0; rank < parts.size(); ++rank) {
    const bool repeats = !shape_.sequence_parallel && static_cast<int64_t>(rank) % shape_.tp != 0;
    if (!repeats) tokens.push_back(parts[rank].flatten(0, 1));
  }
  return at::cat(tokens).unflatten(0, {like.size(0), like.size(1)});
}

std::vector<Tensor> Distribution::Outputs(const ModuleInfo& module,
                                          std::span<const std::vector<Tensor>> parts,
                                          const Tensor& like) const {
  std::vector<Tensor> out;
  for (size_t i = 0; i < parts.front().size(); ++i) {
    const Spread spread = SpreadOf(module, module.out[i]);
    const size_t step = IsOfKeys(module.out[i]) ? static_cast<size_t>(same_keys_) : 1;
    std::vector<Tensor> pieces;
    for (size_t rank = 0; rank < parts.size(); rank += step) pieces.push_back(parts[rank][i]);
    out.push_back(pieces.front().defined() ? Join(pieces, spread, like) : Tensor());
  }
  return out;
}

}  // namespace weighbridge::engine
