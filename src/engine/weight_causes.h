// The weights behind modules that gave another output: the search of `verify` (checks/diagnose) on
// their parameters, so that a layout or value that is wrong is named where it shows.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "checks/megatron_binding.h"
#include "checks/result.h"
#include "engine/compare_findings.h"
#include "family/model.h"
#include "family/shards.h"
#include "formats/checkpoint.h"
#include "formats/megatron_checkpoint.h"

namespace weighbridge {

struct ComparedWeights {
  const Model& model;
  const Checkpoint& hf;
  const MegatronCheckpoint& megatron;
  const MegatronBinding& binding;
  const Placement* placement = nullptr;  // of the ranks that ran it; nullptr: one process
  int threads = 0;
};

struct WeightCauses {
  std::vector<Cause> causes;
  std::set<const JudgedModule*> explained;  // by these
  // Of a module, the ranks whose shards of its weights differ.
  std::map<const JudgedModule*, std::set<RankId>> ranks;
  // Of the others with weights that differ: which, and what comes nearest.
  std::vector<std::string> unexplained;
};

// The module of which a parameter is part, as rows call it: "self_attention.linear_qkv" of
// "self_attention.linear_qkv.bias", "input_layernorm" of its layer_norm_weight.
std::string ModuleOf(const std::string& role);

// Errors: those of ParameterSource::Open and GatherElements.
Result<WeightCauses> FindWeightCauses(const ComparedWeights& weights,
                                      const std::vector<const JudgedModule*>& failed);

}  // namespace weighbridge
