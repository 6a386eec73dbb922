// What the fuzzers of families and configs do with a model that was accepted.
#pragma once

#include <set>

#include "family/model.h"
#include "family/shards.h"

namespace weighbridge {

// Plans the first parameter of each rule, proves small plans, names and places all. Traps on a
// broken promise.
inline void Exercise(const Model& model) {
  std::set<const ParamRule*> seen;
  for (const Parameter& p : model.parameters()) {
    if (!seen.insert(p.rule).second) continue;
    if (model.MegatronName(p, Dialect::kTe).empty() ||
        model.MegatronPattern(p, Dialect::kLocal).empty()) {
      __builtin_trap();
    }
    const auto plan = model.Plan(p);
    if (!plan) continue;
    if (plan->layout.numel() != Numel(p.shape)) __builtin_trap();
    std::vector<SourceExtent> extents;
    for (const TransformSource& source : plan->sources) extents.push_back(source.extent());
    if (!ProveBijection(plan->layout, extents)) __builtin_trap();
    for (int size : {1, 2, 3}) {
      if (!CheckCut(p.shape, p.cut, size)) continue;
      const int ranks = p.cut.replicated() ? 1 : size;
      const std::vector<SourceExtent> local(static_cast<size_t>(ranks),
                                            {0, Numel(CutShape(p.shape, p.cut, size))});
      if (!ProveBijection(JoinLayout(p.shape, p.cut, size), local)) __builtin_trap();
    }
  }
  for (int pp : {1, 2}) {
    ParallelGrid grid;
    grid.pp = pp;
    grid.ep = pp;
    const auto placement = Placement::Create(model, grid);
    if (placement && placement->parameters().size() < model.parameters().size()) __builtin_trap();
  }
}

}  // namespace weighbridge
