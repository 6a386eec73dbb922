// What every rank of a grid holds, judged against Hugging Face and hashed: `--ranks`.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/result.h"
#include "checks/parameter_source.h"
#include "checks/result.h"
#include "checks/shard_row.h"
#include "family/shards.h"
#include "formats/checkpoint.h"

namespace weighbridge {

struct RanksOptions {
  // The source is Hugging Face itself: ranks hold what an import gives them. Else they hold what
  // the source has, in its dtype.
  bool imported = false;
  Dialect dialect = Dialect::kTe;  // whose module names the rows have
  CastRule cast;
  bool strict_padding = false;
  int threads = 1;
  std::function<void(uint64_t bytes)> progress;  // called from any thread
};

struct JudgedRanks {
  // One per tensor and rank, replicas and copies included, by rank: pp, vpp, ep, etp, tp. `xxh3` is
  // that of the rank's whole tensor in memory: contiguous, under its module's name.
  std::vector<ResultRow> rows;
  std::vector<Cause> causes;
  std::vector<Note> notes;
};

// `there`: parameters of `placement`'s model that both `hf` and `source` have. A rank's tensor is
// cut from `source` and compared, along Megatron's own gathering rule, with what `hf` has. Threads
// take whole parameters; memory is that of their blocks, plus the rows. Errors: those of
// ShardPlan::Create and ParameterSource::Open.
Result<JudgedRanks> JudgeRanks(const Model& model, const Placement& placement, const Checkpoint& hf,
                               const ParameterSource& source,
                               const std::vector<const Parameter*>& there,
                               const RanksOptions& options);

// Adds rows with their bytes, causes (one per id) and notes to `report`.
void AddRanks(JudgedRanks judged, Report& report);

}  // namespace weighbridge
