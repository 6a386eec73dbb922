// `roundtrip`: HF -> every rank of a parallel grid -> HF, in one process and in blocks that stay in
// cache. Proves that the family fits the files: each HF element is used once, each Megatron element
// is written once, and cutting and joining restore every bit.
#pragma once

#include <functional>

#include "base/result.h"
#include "checks/result.h"
#include "family/model.h"
#include "formats/checkpoint.h"
#include "mapping/sharding.h"

namespace weighbridge {

struct RoundTripOptions {
  ParallelGrid grid;
  bool headers_only = false;        // --level L0
  bool ranks = false;               // rows of what each rank holds, with hashes
  Dialect dialect = Dialect::kTe;   // of their names
  int threads = 0;                  // 0: as many as the process may use
  int64_t memory_bytes = 64 << 20;  // blocks in flight, over all threads
  // Told from time to time how many bytes are done; called from any thread.
  std::function<void(uint64_t bytes)> progress;
};

// One row per HF tensor, in name order, or with `ranks` one per tensor and rank
// (checks/verify_ranks.h) after those of HF tensors that failed; causes, notes, unproven and
// details filled; not concluded. `model` was expanded with the inventory of `hf` and grid.tp.
Result<Report> RoundTrip(const Model& model, const Checkpoint& hf, const RoundTripOptions& options);

}  // namespace weighbridge
