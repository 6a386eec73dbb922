// How the inputs and outputs of Megatron's modules lie on the ranks of a pipeline stage, so that
// whole tensors can be handed to them and got back.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>
#include <vector>

#include "engine/forward/module.h"
#include "engine/parallel/group.h"
#include "engine/parallel/team.h"

namespace weighbridge::engine {

// `part` of `parts` ranks' heads: fewer heads than ranks are held by several of them.
Range HeadsOf(int64_t heads, int64_t part, int64_t parts);

class Distribution {
 public:
  // `groups`: the stage's query groups; of fewer than ranks each is on several of them.
  Distribution(const TeamShape& shape, int64_t groups)
      : shape_(shape), same_keys_(groups < shape.tp ? shape.tp / groups : 1) {}

  // The ranks, counted in their stage, that run `module`: experts have tokens of all ranks, the
  // rest is run by one of the data-parallel replicas.
  std::vector<int64_t> RanksOf(const ModuleInfo& module) const;
  // What `rank` holds of the module's inputs, batch first as the module takes them.
  std::vector<at::Tensor> Inputs(const ModuleInfo& module, std::span<const at::Tensor> whole,
                                 int64_t rank) const;
  // The module's outputs from what RanksOf() gave, in that order. `like` is its first input.
  std::vector<at::Tensor> Outputs(const ModuleInfo& module,
                                  std::span<const std::vector<at::Tensor>> parts,
                                  const at::Tensor& like) const;

 private:
  enum class Spread { kWhole, kHeads, kSequence, kTokens };
  Spread SpreadOf(const ModuleInfo& module, Slot slot) const;
  at::Tensor Part(const at::Tensor& whole, Spread spread, int64_t rank) const;
  at::Tensor Join(const std::vector<at::Tensor>& parts, Spread spread,
                  const at::Tensor& like) const;

  TeamShape shape_;
  int64_t same_keys_;  // ranks that hold the same key and value head
};

}  // namespace weighbridge::engine
