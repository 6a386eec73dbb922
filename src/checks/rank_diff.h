// A whole checkpoint against the files of a parallel run's ranks, without a family: what each rank
// holds must be its shard of the whole tensor. Which axis is cut is read off the shapes.
#pragma once

#include <string>

#include "checks/diff.h"
#include "checks/result.h"
#include "formats/checkpoint.h"
#include "formats/torch_legacy/reader.h"

namespace weighbridge {

// `whole` has global numbers of layers and experts under `prefix` (AsStateDict of a torch_dist
// checkpoint: ""; of the one file of a TP = PP = EP = 1 run: "mp_rank_00/"). One row per rank and
// tensor, and one for each whole tensor that no rank holds a part of; `transform` says how the rank
// is cut: "replicated", "axis 0", "axis 0 in 2 parts" (gate and up cut apart).
//
// A rank's shard that is not the one it should be is looked for among the other ranks' shards and
// cuts. Causes: tp-order (another rank's shard), tp-gate-up (gate and up cut as one block, or apart
// where they should not be), those of Diff, tensor-missing, tensor-extra, shape-mismatch.
// The report is concluded. Memory: the largest tensor of a rank.
Report DiffRanks(const Checkpoint& whole, const std::string& prefix,
                 const TorchLegacyCheckpoint& ranks, const DiffOptions& options);

}  // namespace weighbridge
