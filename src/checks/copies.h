// Tensors that must equal another of the same checkpoint: the tied output layer, MTP's copies of
// the embedding.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "checks/inventory.h"
#include "checks/megatron_binding.h"
#include "checks/result.h"
#include "formats/checkpoint.h"
#include "formats/megatron_checkpoint.h"

namespace weighbridge {

struct JudgedCopies {
  std::vector<ResultRow> rows;  // one per copy: match, or mismatch with a cause
  std::vector<Cause> causes;    // tie-mismatch
  uint64_t bytes = 0;           // of copies whose bytes can be compared with the originals'
};

// With `headers_only` shapes and dtypes are compared, no bytes.
JudgedCopies JudgeCopies(const Checkpoint& hf, const Inventory& inventory, bool headers_only);

// The tied output layer that a Megatron checkpoint stores besides: chunk by chunk the embedding.
Result<JudgedCopies> JudgeTiedCopy(const MegatronCheckpoint& megatron,
                                   const MegatronBinding& binding, bool headers_only, int threads);

}  // namespace weighbridge
