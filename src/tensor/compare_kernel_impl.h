// The body of compare_kernel.h's kernels; included by the one file per instruction set.
//
// Ops offers, for 8 float64 lanes `D` and a group of 32 patterns:
//   D Load(Format, const Bits*); Zero, Splat, Sub, Abs, Max, Add, Mul, MulAdd, Div;
//   bool AnyGreaterEqual(D, D); int CountNotWithin(D, D): lanes where not x <= y, NaN included; D
//   ZeroWhereZero(D value, D condition); void Store(double*, D); bool AnyNonFinite<Format>(e, a);
//   int CountUnequal<Format>(e, a); Ulps<Format>: a running maximum.
#pragma once

#include <cstring>

#include "tensor/compare_kernel.h"

namespace weighbridge::internal {
namespace {

constexpr size_t kGroup = 32;
constexpr size_t kLanes = 8;

template <typename Format>
inline bool IsNan(typename Format::Bits b) {
  return (b & Format::kMagnitude) > Format::kInfinity;
}
template <typename Format>
inline bool IsInf(typename Format::Bits b) {
  return (b & Format::kMagnitude) == Format::kInfinity;
}

// Counts the pairs of a group that are not finite, and zeroes both sides of them: such a pair then
// adds nothing anywhere else.
template <typename Format>
void TakeOutNonFinite(typename Format::Bits* e, typename Format::Bits* a,
                      const KernelOptions& options, ChunkStats* stats) {
  for (size_t i = 0; i < kGroup; ++i) {
    const bool nan_e = IsNan<Format>(e[i]), nan_a = IsNan<Format>(a[i]);
    const bool inf_e = IsInf<Format>(e[i]), inf_a = IsInf<Format>(a[i]);
    if (!(nan_e || nan_a || inf_e || inf_a)) continue;
    stats->nan += nan_e || nan_a;
    stats->inf += inf_e || inf_a;
    ++stats->non_finite;
    const bool equal = e[i] == a[i] || (options.any_nan_equal && nan_e && nan_a);
    stats->mismatched += !equal;
    stats->non_finite_mismatched += !equal;
    e[i] = 0;
    a[i] = 0;
  }
}

// The sum of the 8 lanes, always as ((0+4)+(2+6)) + ((1+5)+(3+7)).
template <typename Ops>
double SumLanes(typename Ops::D v) {
  double x[kLanes];
  Ops::Store(x, v);
  return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

template <typename Ops>
double MaxLanes(typename Ops::D v) {
  double x[kLanes];
  Ops::Store(x, v);
  double max = x[0];
  for (size_t i = 1; i < kLanes; ++i) max = x[i] > max ? x[i] : max;
  return max;
}

template <typename Ops, typename Format, bool kTolerant>
void CompareChunk(const void* expected, const void* actual, size_t count,
                  const KernelOptions& options, ChunkStats* stats) {
  using Bits = typename Format::Bits;
  using D = typename Ops::D;
  const auto* e = static_cast<const unsigned char*>(expected);
  const auto* a = static_cast<const unsigned char*>(actual);
  Bits copy_e[kGroup], copy_a[kGroup];
  D sum = Ops::Zero(), dot = Ops::Zero(), norm_e = Ops::Zero(), norm_a = Ops::Zero();
  D max = Ops::Zero();
  D best = Ops::Splat(stats->max_relative);
  const D smallest = Ops::Splat(0x1p-1074);
  [[maybe_unused]] const D atol = Ops::Splat(options.atol);
  [[maybe_unused]] const D rtol = Ops::Splat(options.rtol);
  typename Ops::template Ulps<Format> ulps;
  for (size_t i = 0; i < count; i += kGroup) {
    const unsigned char* pe = e + i * sizeof(Bits);
    const unsigned char* pa = a + i * sizeof(Bits);
    const size_t rest = count - i;
    if (rest < kGroup) {
      std::memset(copy_e, 0, sizeof(copy_e));
      std::memset(copy_a, 0, sizeof(copy_a));
      std::memcpy(copy_e, pe, rest * sizeof(Bits));
      std::memcpy(copy_a, pa, rest * sizeof(Bits));
      pe = reinterpret_cast<unsigned char*>(copy_e);
      pa = reinterpret_cast<unsigned char*>(copy_a);
    }
    if (__builtin_expect(Ops::template AnyNonFinite<Format>(pe, pa), 0)) {
      if (rest >= kGroup) {
        std::memcpy(copy_e, pe, sizeof(copy_e));
        std::memcpy(copy_a, pa, sizeof(copy_a));
      }
      TakeOutNonFinite<Format>(copy_e, copy_a, options, stats);
      pe = reinterpret_cast<unsigned char*>(copy_e);
      pa = reinterpret_cast<unsigned char*>(copy_a);
    }
    if (!kTolerant) stats->mismatched += Ops::template CountUnequal<Format>(pe, pa);
    ulps.Add(pe, pa);
    for (size_t k = 0; k < kGroup; k += kLanes) {
      const D x = Ops::Load(Format(), pe + k * sizeof(Bits));
      const D y = Ops::Load(Format(), pa + k * sizeof(Bits));
      const D diff = Ops::Abs(Ops::Sub(x, y));
      const D magnitude = Ops::Abs(x);
      sum = Ops::Add(sum, diff);
      max = Ops::Max(max, diff);
      dot = Ops::MulAdd(x, y, dot);
      norm_e = Ops::MulAdd(x, x, norm_e);
      norm_a = Ops::MulAdd(y, y, norm_a);
      if (kTolerant) {
        stats->mismatched += Ops::CountNotWithin(diff, Ops::Add(atol, Ops::Mul(rtol, magnitude)));
      }
      // Only where diff >= best * |expected| can the quotient exceed the best one so far.
      if (Ops::AnyGreaterEqual(diff, Ops::Max(Ops::Mul(best, magnitude), smallest))) {
        const D quotient = Ops::ZeroWhereZero(Ops::Div(diff, magnitude), magnitude);
        best = Ops::Splat(MaxLanes<Ops>(Ops::Max(best, quotient)));
      }
    }
  }
  stats->sum_abs_diff += SumLanes<Ops>(sum);
  stats->dot += SumLanes<Ops>(dot);
  stats->norm2_expected += SumLanes<Ops>(norm_e);
  stats->norm2_actual += SumLanes<Ops>(norm_a);
  const double largest = MaxLanes<Ops>(max);
  if (largest > stats->max_abs_diff) stats->max_abs_diff = largest;
  stats->max_relative = MaxLanes<Ops>(best);
  if (ulps.Max() > stats->max_ulp) stats->max_ulp = ulps.Max();
}

template <typename Ops, typename Format>
void RunKernel(const void* expected, const void* actual, size_t count, const KernelOptions& options,
               ChunkStats* stats) {
  if (options.tolerant) {
    CompareChunk<Ops, Format, true>(expected, actual, count, options, stats);
  } else {
    CompareChunk<Ops, Format, false>(expected, actual, count, options, stats);
  }
}

template <typename Ops>
constexpr KernelTable MakeKernels(const char* name) {
  return {RunKernel<Ops, F32Format>, RunKernel<Ops, BF16Format>, RunKernel<Ops, F16Format>, name};
}

}  // namespace
}  // namespace weighbridge::internal
