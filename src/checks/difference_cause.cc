#include "checks/difference_cause.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <functional>
#include <vector>

#include "base/threads.h"
#include "checks/metrics.h"
#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

constexpr int64_t kFewElements = 8;

// True when `holds(first, count)` is true of every block; blocks after a failure are left out.
bool AllBlocks(int64_t count, int threads, const std::function<bool(int64_t, int64_t)>& holds) {
  // Small steps, so that a wrong hypothesis costs little.
  constexpr int64_t kStep = 1 << 16;
  std::atomic<bool> failed{false};
  ParallelFor(static_cast<size_t>((count + kStep - 1) / kStep), threads, [&](size_t i) {
    if (failed.load(std::memory_order_relaxed)) return;
    const int64_t first = static_cast<int64_t>(i) * kStep;
    if (!holds(first, std::min(kStep, count - first))) failed = true;
  });
  return !failed;
}

uint64_t Raw(const TensorView& view, int64_t i) {
  return RawBits(view.dtype, view.bytes.data(), static_cast<size_t>(i));
}

double Value(const TensorView& view, int64_t i) {
  return ElementToDouble(view.dtype, view.bytes.data(), static_cast<size_t>(i));
}

std::optional<DifferenceCause> ZeroFilled(const TensorView& actual, int threads) {
  const bool zero = AllBlocks(ComponentCount(actual), threads, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      if (Value(actual, i) != 0) return false;
    }
    return true;
  });
  if (!zero) return std::nullopt;
  return DifferenceCause{"zero-filled", Proof::kExact, "every value is zero",
                         fmt::format("all {} values are zero", ComponentCount(actual)),
                         "was this tensor ever written?"};
}

// Whether `actual` holds, in its own dtype, what `expected` becomes when rounded to `through`.
bool IsRounded(const TensorView& expected, const TensorView& actual, DType through, int threads) {
  return AllBlocks(ComponentCount(expected), threads, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      const double rounded = BitsToDouble(through, *RoundToBits(through, Value(expected, i)));
      const double found = Value(actual, i);
      if (std::isnan(rounded) && std::isnan(found)) continue;
      if (std::bit_cast<uint64_t>(rounded) != std::bit_cast<uint64_t>(found)) return false;
    }
    return true;
  });
}

// The dtype through which `source` went to become `result`, if there is one.
std::optional<DType> RoundedThrough(const TensorView& source, const TensorView& result,
                                    int threads) {
  constexpr std::array kNarrow = {DType::kF32,       DType::kBF16,   DType::kF16,
                                  DType::kF8E4M3,    DType::kF8E5M2, DType::kF8E4M3Fnuz,
                                  DType::kF8E5M2Fnuz};
  for (DType through : kNarrow) {
    if (BitsOf(through) > BitsOf(result.dtype) || through == source.dtype) continue;
    if (BitsOf(through) >= BitsOf(source.dtype) && through != result.dtype) continue;
    if (IsRounded(source, result, through, threads)) return through;
  }
  return std::nullopt;
}

std::optional<DifferenceCause> Rounded(const TensorView& expected, const TensorView& actual,
                                       const ElementStats& stats, int threads) {
  if (!IsFloat(expected.dtype) || !IsFloat(actual.dtype) || stats.mismatched <= kFewElements) {
    return std::nullopt;
  }
  bool forward = true;
  auto through = RoundedThrough(expected, actual, threads);
  if (!through) {
    forward = false;
    through = RoundedThrough(actual, expected, threads);
  }
  if (!through) return std::nullopt;
  const DType stored = forward ? actual.dtype : expected.dtype;
  const char* sides[] = {"first", "second"};
  return DifferenceCause{
      "dtype-rounded", Proof::kExact,
      fmt::format("values of the {} went through {}", sides[forward], ShortName(*through)),
      fmt::format("each of the {} values of the {} is that of the {} rounded to nearest even in "
                  "{}{}; {} changed",
                  stats.elements, sides[forward], sides[!forward], ShortName(*through),
                  *through == stored ? "" : fmt::format(" and stored as {}", ShortName(stored)),
                  stats.mismatched),
      "keep the dtype of the source, or expect the narrower one"};
}

// The first kFewElements components that do not match, given that there are no more.
std::vector<int64_t> Mismatches(const TensorView& expected, const TensorView& actual,
                                const ElementStats& stats, Tolerance tolerance) {
  std::vector<int64_t> found;
  const int64_t count = ComponentCount(expected);
  for (int64_t i = stats.first_mismatch; i < count; ++i) {
    if (static_cast<int64_t>(found.size()) == stats.mismatched) break;
    if (!PairMatches(expected.dtype, Raw(expected, i), actual.dtype, Raw(actual, i), tolerance)) {
      found.push_back(i);
    }
  }
  return found;
}

std::optional<DifferenceCause> BitFlip(const TensorView& expected, const TensorView& actual,
                                       const ElementStats& stats, Tolerance tolerance) {
  if (expected.dtype != actual.dtype || stats.mismatched > kFewElements ||
      stats.elements < 64 * stats.mismatched) {
    return std::nullopt;
  }
  bool all_one_ulp = true;
  int64_t previous = -2;
  std::string evidence;
  for (int64_t i : Mismatches(expected, actual, stats, tolerance)) {
    const uint64_t e = Raw(expected, i), a = Raw(actual, i);
    if (i == previous + 1 || !FewBits(e ^ a)) return std::nullopt;
    previous = i;
    all_one_ulp &= UlpDistance(expected.dtype, e, a) == uint64_t{1};
    evidence += fmt::format("{}{}: {} became {} ({} {} flipped)", evidence.empty() ? "" : "; ",
                            IndexToString(expected.shape, i / ComponentsOf(expected.dtype)),
                            FormatBits(expected.dtype, e), FormatBits(expected.dtype, a),
                            std::popcount(e ^ a), std::popcount(e ^ a) == 1 ? "bit" : "bits");
  }
  if (stats.mismatched > 1 && all_one_ulp) return std::nullopt;
  return DifferenceCause{"bit-flip", Proof::kStatistical,
                         fmt::format("{} of {} values {}, all others are equal", stats.mismatched,
                                     stats.elements, stats.mismatched == 1 ? "differs" : "differ"),
                         evidence, "copy the file again and compare its hash with the source's"};
}

std::optional<DifferenceCause> NotFinite(const TensorView& expected, const TensorView& actual,
                                         const ElementStats& stats, int threads) {
  if (stats.non_finite_mismatched == 0) return std::nullopt;
  std::atomic<int64_t> fresh{0};
  AllBlocks(stats.elements, threads, [&](int64_t first, int64_t count) {
    int64_t n = 0;
    for (int64_t i = first; i < first + count; ++i) {
      n += !std::isfinite(Value(actual, i)) && std::isfinite(Value(expected, i));
    }
    fresh += n;
    return true;
  });
  if (fresh == 0) return std::nullopt;
  return DifferenceCause{"not-finite", Proof::kStructural,
                         "NaN or infinity where the other side has a number",
                         fmt::format("{} of {} values", fresh.load(), stats.elements), ""};
}

}  // namespace

bool FewBits(uint64_t flipped) {
  if (std::popcount(flipped) <= 2) return true;
  const int low = std::countr_zero(flipped) / 8;
  return (flipped >> (8 * low)) <= 0xff;
}

std::optional<DifferenceCause> ExplainDifference(const TensorView& expected,
                                                 const TensorView& actual,
                                                 const ElementStats& stats, Tolerance tolerance,
                                                 int threads) {
  if (auto cause = BitFlip(expected, actual, stats, tolerance)) return cause;
  if (auto cause = ZeroFilled(actual, threads)) return cause;
  if (auto cause = Rounded(expected, actual, stats, threads)) return cause;
  return NotFinite(expected, actual, stats, threads);
}

}  // namespace weighbridge
