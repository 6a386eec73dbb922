// `verify`: judges two existing checkpoints, whoever wrote them. Each Megatron value must be the
// correctly rounded f(HF value), bit for bit; f is named by the family.
#pragma once

#include <functional>
#include <optional>

#include "base/result.h"
#include "checks/result.h"
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
  bool strict_padding = false;                   // padded vocabulary rows must be zero
  std::optional<DType> expect_dtype;             // a narrowing to this dtype is asked for
  const RankCut* ranks = nullptr;                // nullptr: one row per global parameter
  int threads = 0;                               // 0: as many as the process may use
  std::function<void(uint64_t bytes)> progress;  // called from any thread
};

// One row per Megatron parameter, in name order, or per rank (checks/verify_ranks.h); causes,
// notes, unproven and details filled; not concluded. `model` was expanded with the inventory of
// `hf` and, as pad_vocab, StoredVocab.
Result<Report> Verify(const Model& model, const Checkpoint& hf, const MegatronCheckpoint& megatron,
                      const VerifyOptions& options);

}  // namespace weighbridge
