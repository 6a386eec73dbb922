// What stands in the files of several ranks must be equal everywhere: replicated tensors, the ranks
// that share an expert or a shard.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "checks/result.h"
#include "formats/megatron_checkpoint.h"

namespace weighbridge {

// Where in the grid, for a report.
RankId RankOf(const RankPlace& place);

// A copy whose bytes are not those of the chunk that it repeats.
struct DriftedCopy {
  const ChunkCopy* copy = nullptr;
  RankPlace original, place;  // of the chunk, of the copy
  int64_t mismatched = 0;
  int64_t element = 0;           // the first that differs, in the copy's tensor
  std::string expected, actual;  // its values in the chunk and in the copy
};

// In the order of megatron.copies(). `progress` is called from any thread.
Result<std::vector<DriftedCopy>> FindDriftedCopies(const MegatronCheckpoint& megatron, int threads,
                                                   const std::function<void(uint64_t)>& progress);

// kCorrupt "replica-drift" names the first.
Status RequireEqualCopies(const MegatronCheckpoint& megatron, int threads);

}  // namespace weighbridge
