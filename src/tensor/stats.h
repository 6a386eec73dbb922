// Statistics of one tensor's values, streamed in float64 (components of float_bits.h).
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace weighbridge {

// Over the finite values, but for the counts. With no finite value min, max, mean, std and absmax
// are NaN. `std` is the population's (divided by n).
struct TensorStats {
  int64_t count = 0, finite = 0, zeros = 0, nan = 0, inf = 0;
  double min = 0, max = 0, mean = 0, std = 0, absmax = 0;
};

// Reads the tensor once, in blocks on up to `threads` threads; the same bits for any number of
// them.
TensorStats ComputeStats(const TensorView& view, int threads = 1);

}  // namespace weighbridge
