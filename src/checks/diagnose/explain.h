// The search over all tensors of a checkpoint that differ: each on its own, then among each other
// (layers, experts, tensors in the wrong place), with equal findings grouped.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "checks/megatron_binding.h"
#include "checks/result.h"
#include "family/model.h"
#include "formats/checkpoint.h"
#include "formats/megatron_checkpoint.h"

namespace weighbridge {

struct DifferingTensors {
  const Model& model;
  const Checkpoint& hf;
  const MegatronCheckpoint& megatron;
  const MegatronBinding& binding;
  std::vector<const Parameter*> sources;  // whose tensors are there on the HF side
  std::vector<const Parameter*> usable;   // whose tensors are there on both sides
  std::vector<const Parameter*> differ;   // of them
};

struct Diagnosis {
  std::vector<Cause> causes;
  std::map<const Parameter*, std::string> why;  // one line for each that differs
};

// Errors: those of ParameterSource::Open.
Result<Diagnosis> ExplainDifferences(const DifferingTensors& input, int threads);

}  // namespace weighbridge
