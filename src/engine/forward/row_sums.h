// Sums over a row of two outputs, of which all figures of a measure are made.
#pragma once

#include <cstdint>

namespace weighbridge::engine {

// Taken in float64. `apart` is |first - second|, `largest` its maximum (a NaN stays one), `first`
// and `second` are sums of squares, `peak` is the largest |second|.
struct RowSums {
  double apart = 0, apart_squared = 0, apart_fourth = 0, largest = 0;
  double product = 0, first = 0, second = 0, peak = 0;
};

// The larger one; NaN where either is.
inline double LargerOf(double a, double b) { return b <= a || a != a ? a : b; }

// Of `count` numbers each. Thread-safe.
RowSums SumsOfRow(const float* first, const float* second, int64_t count);
RowSums SumsOfRow(const float* first, const double* second, int64_t count);

}  // namespace weighbridge::engine
