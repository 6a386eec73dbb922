// What one rank of a parallel grid holds of a stage, and which ranks hold other values than Hugging
// Face gives them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "checks/parameter_source.h"
#include "checks/result.h"
#include "engine/describe.h"
#include "engine/stage_weights.h"
#include "family/shards.h"
#include "mapping/sharding.h"

namespace weighbridge {

// Ranks are numbered as the component does (engine/parallel/team.h).
RankId RankOf(const ParallelGrid& grid, int rank);

// "tp 1" of a grid that has nothing else; "pp 0, ep 1" ...
std::string Describe(const RankId& rank, const ParallelGrid& grid);

// Which pipeline rank holds a stage.
int PipelineRankOf(const Placement& placement, StageId stage);

// Whether the ranks can divide a layer's mixer as Megatron-Core asks. kUsage "grid".
Status CheckDivides(const nlohmann::json& spec, const ParallelGrid& grid);

// Along which axis tensor-parallel ranks cut the stage's matrices, by role.
nlohmann::json CutsOf(const Model& model, StageId stage);

// Like AddMegatronTensors, of what `rank` holds: its shards, and of the experts its own. Errors
// also kUsage "grid" for a parameter that the grid cannot cut.
Status AddShards(const Model& model, const ParameterSource& source, StageId stage,
                 const ParallelGrid& grid, const RankId& rank, const std::string& side,
                 StageTensors& out);

// The ranks whose shards of `p` differ, value for value in `actual`'s dtype; replicated parameters
// differ on all of their ranks or none. Errors: those of GatherElements.
Result<std::vector<RankId>> RanksThatDiffer(const Placement& placement,
                                            const ParameterSource& expected,
                                            const ParameterSource& actual, const Parameter& p);

}  // namespace weighbridge
