// What `import` and `convert` write in Megatron's legacy `torch` format: a file per rank, each
// tensor as the rank holds it in memory.
#pragma once

#include <nlohmann/json.hpp>

#include "base/result.h"
#include "checks/import.h"
#include "checks/parameter_source.h"
#include "family/model.h"
#include "family/shards.h"
#include "mapping/sharding.h"

namespace weighbridge {

// The fields that Megatron-LM records of a run, as far as the model and the grid decide them: those
// of TransformerConfig under the names of its arguments.
nlohmann::json MegatronArguments(const Model& model, const ParallelGrid& grid);

// The plan of PlanImport for options.format kTorch. Errors: those of PlanRankFiles; kUsage "grid"
// where the format has no name for a rank (ETP does not divide TP).
Result<ImportPlan> PlanRankImport(const Model& model, const Placement& placement,
                                  const ParameterSource& source, const ImportOptions& options);

}  // namespace weighbridge
