// `verify`: judges two existing checkpoints, whoever wrote them. Each Megatron value must be the
// correctly rounded f(HF value), bit for bit; f is named by the family.
#pragma once

#include <functional>
#include <optional>

#include "base/ranks.h"
#include "base/result.h"
#include "checks/result.h"
#include "family/effects/runtime.h"
#include "family/model.h"
#include "formats/checkpoint.h"
#include "formats/megatron_checkpoint.h"

namespace weighbridge {

// --ranks: the rows are of what the ranks of a grid would hold.
struct RankCut {
  const Model* model = nullptr;  // expanded for grid.tp and, as pad_vocab, for StoredVocab
  ParallelGrid grid;
  Dialect dialect = Dialect::kTe;
};

struct VerifyOptions {
  bool headers_only = false;  // --level L0
  bool without_mtp = false;
  // Compare the two configs by effect, as this runtime computes; nullopt: weights alone.
  std::optional<RuntimeChoice> effects = RuntimeChoice();
  bool strict_padding = false;                   // padded vocabulary rows must be zero
  std::optional<DType> expect_dtype;             // a narrowing to this dtype is asked for
  const RankCut* ranks = nullptr;                // nullptr: one row per global parameter
  int threads = 0;                               // 0: as many as the process may use
  int64_t memory_bytes = 64 << 20;               // blocks in flight, over all threads
  Coordinator* coordinator = nullptr;            // divides the work; nullptr: one process
  std::function<void(uint64_t bytes)> progress;  // called from any thread
};

// One row per Megatron parameter, in name order, or per rank (checks/verify_ranks.h); causes,
// notes, unproven and details filled; not concluded. With a `coordinator` each process compares a
// share of the bytes, and rank 0's report is the same as one process would give; the others'
// reports are to be dropped. `model` was expanded with the inventory of `hf` and, as pad_vocab,
// StoredVocab.
Result<Report> Verify(const Model& model, const Checkpoint& hf, const MegatronCheckpoint& megatron,
                      const VerifyOptions& options);

}  // namespace weighbridge
