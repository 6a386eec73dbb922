// Comparing two tensors element by element in one pass, in float64, at the speed of memory.
//
// What is compared
//   Elements are counted in components (tensor/float_bits.h): a C64 element is two. Both sides have
//   the same number of them; shapes are the caller's business.
// When a pair matches
//   - same dtype, no tolerance: its bits are equal. So -0 and +0 differ, and a NaN equals only a
//   NaN
//     of the same bits;
//   - two dtypes, no tolerance: both widen to the same value (the sign of zero counts), or both are
//     NaN (their payloads cannot be compared). 64-bit integers are compared exactly;
//   - with atol or rtol: |expected - actual| <= atol + rtol * |expected|, as in numpy. A pair with
//   a
//     NaN or an infinity still matches only as above.
// What is measured
//   Over the pairs whose two values are finite: the largest and the summed |expected - actual|, the
//   dot product and norms, the largest |expected - actual| / |expected| (pairs with expected = 0
//   are left out), the largest distance in ULP (float_bits.h; for two dtypes, ULP of float32 where
//   both fit it, else of float64). A pair with a NaN or an infinity on one side only, or of another
//   kind, makes max_diff(), mean_diff(), cosine() and max_relative() NaN, which reports print as
//   null: a number there would hide it. The measures of the finite pairs stay readable in the
//   fields.
// Precision and determinism
//   Differences are float64 subtractions, correctly rounded (exact for 64-bit integers of one dtype
//   before they are rounded). Sums run in 8 lanes over chunks of 4096 and are joined in order with
//   compensation; the error of a sum is below 520 * 2^-53 times the sum of the terms' magnitudes.
//   The result is the same bits for every number of threads and every instruction set.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/tensor.h"

namespace weighbridge {

struct Tolerance {
  double atol = 0, rtol = 0;  // finite and not negative, else no pair matches; both 0: bits
  bool bitwise() const { return atol == 0 && rtol == 0; }
};

// A float64 sum with a running compensation (Neumaier).
class CompensatedSum {
 public:
  void Add(double term);
  void Add(const CompensatedSum& other) {
    Add(other.sum_);
    carry_ += other.carry_;
  }
  double value() const { return sum_ + carry_; }

 private:
  double sum_ = 0, carry_ = 0;
};

struct ElementStats {
  int64_t elements = 0;  // components compared
  // Over finite pairs.
  CompensatedSum sum_abs_diff, dot, norm2_expected, norm2_actual;
  double max_abs_diff = 0, finite_max_relative = 0;
  // Largest magnitudes, where a side is wider than float32 (its squares may leave float64's range);
  // else 0.
  double max_abs_expected = 0, max_abs_actual = 0;
  uint64_t max_ulp = 0;
  // Over all pairs.
  int64_t mismatched = 0;
  int64_t non_finite = 0, non_finite_mismatched = 0;  // pairs with NaN or infinity; not equal ones
  int64_t nan_count = 0, inf_count = 0;               // pairs with a NaN (an infinity) on a side
  int64_t first_mismatch = -1;                        // component index; -1: none

  // The figures of a report. NaN when a pair that is not finite does not match.
  double max_diff() const;
  double mean_diff() const;  // over all finite pairs
  double cosine() const;     // in [-1, 1]; of two zero vectors 1, of one 0; NaN where the squares
                             // of the values leave float64's range
  double max_relative() const;

  // Joins the figures of the pairs that follow. Call in rising order.
  void Append(const ElementStats& next);
};

// Work is cut at multiples of this many components.
inline constexpr int64_t kCompareBlock = int64_t{1} << 20;

// True when both spans hold the same bytes; stops early at a difference.
bool BytesEqual(std::span<const std::byte> a, std::span<const std::byte> b, int threads = 1);

// Compares components [first, first + count); `first` is a multiple of kCompareBlock. Indices in
// the result count from the tensor's start. Thread-safe.
ElementStats CompareBlock(const TensorView& expected, const TensorView& actual, int64_t first,
                          int64_t count, Tolerance tolerance = {});

// Compares all elements, in blocks on up to `threads` threads. Equal bytes of one dtype cost one
// memory comparison and are not computed: every figure is then 0, the cosine 1, and NaNs are not
// counted unless `count_non_finite`.
ElementStats CompareElements(const TensorView& expected, const TensorView& actual,
                             Tolerance tolerance = {}, int threads = 1,
                             bool count_non_finite = false);

// Whether one pair, given by its bits, matches.
bool PairMatches(DType expected_dtype, uint64_t expected, DType actual_dtype, uint64_t actual,
                 Tolerance tolerance = {});

// Components of a view.
int64_t ComponentCount(const TensorView& view);

}  // namespace weighbridge
