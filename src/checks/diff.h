// Two checkpoints of any format, key by key: the check behind `weighbridge diff` and
// CompareStateDicts.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "checks/result.h"
#include "formats/checkpoint.h"
#include "tensor/compare.h"

namespace weighbridge {

struct DiffOptions {
  Tolerance tolerance;  // default: bits
  int threads = 1;
  // Tensors whose name matches one of these patterns (GlobMatch of base/strings.h) are skipped with
  // that reason.
  std::vector<std::string> allow_skip;
  // Called with the bytes of both sides that were just done; from one thread.
  std::function<void(uint64_t)> progress;
};

// Compares `expected` (hf side of a row) with `actual` (megatron side). One row per name of either
// side, by name; `_extra_state` entries are counted in a note and are no rows.
//
// A row is `match` (equal, or within the tolerance; a narrower dtype on the `actual` side with
// every value equal as well, which a note counts), `match-widened` (another dtype, every value
// equal), `mismatch`, `missing` (not in `actual`), `extra` (only in `actual`) or `skipped`. Causes:
//   tensor-missing, tensor-extra, shape-mismatch  (structural)
//   zero-filled    (exact)        every value of `actual` is zero, those of `expected` are not
//   dtype-rounded  (exact)        each value of one side is that of the other rounded to nearest
//                                 even in a narrower dtype; side and dtype are named; more than 8
//                                 values changed
//   bit-flip       (statistical)  at most 8 elements in a tensor at least 64 times as large differ,
//                                 no two of them neighbours, each in at most 2 bits or within
//                                 one byte, and not all of several by a single ULP
//   not-finite     (structural)   NaN or infinity where `expected` has a number
//   unexplained                   everything else; `diagnose` looks further
// The report is concluded (nothing compared: undecided). Memory is constant: work goes through the
// tensors in windows. Results do not depend on the number of threads.
Report Diff(const Checkpoint& expected, const Checkpoint& actual, const DiffOptions& options);

}  // namespace weighbridge
