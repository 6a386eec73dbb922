// The inner loop of the comparison, written once over an `Ops` class per instruction set and
// compiled once per instruction set (compare_scalar.cc, compare_avx2.cc, compare_avx512.cc).
// Internal to tensor/compare.cc.
//
// All sums run in 8 lanes (lane = index mod 8) in float64 and are folded in a fixed order, so every
// instruction set gives the same bits: a product of two float32 values is exact in float64, hence
// fused and separate multiply-add agree. Only plain types are used here: a shared inline function
// compiled for AVX-512 could be picked by the linker for the whole program.
#pragma once

#include <cstddef>
#include <cstdint>

namespace weighbridge {
struct ElementStats;
struct TensorView;
struct Tolerance;
}  // namespace weighbridge

namespace weighbridge::internal {

// What one call adds up over the pairs (expected, actual) that are both finite, and what it counts.
struct ChunkStats {
  double sum_abs_diff = 0, dot = 0, norm2_expected = 0, norm2_actual = 0;
  double max_abs_diff = 0, max_relative = 0;
  // Only where squares can leave float64's range: the generic path.
  double max_abs_expected = 0, max_abs_actual = 0;
  uint64_t max_ulp = 0;
  int64_t mismatched = 0;             // of all pairs
  int64_t non_finite = 0;             // pairs with a NaN or infinity on either side
  int64_t non_finite_mismatched = 0;  // of those, the ones that are not equal
  int64_t nan = 0, inf = 0;           // pairs with a NaN (an infinity) on either side
};

struct KernelOptions {
  double atol = 0, rtol = 0;
  bool tolerant = false;       // false: a pair matches when its bits are equal
  bool any_nan_equal = false;  // true where two dtypes were widened: a NaN has no comparable bits
};

// Adds `count` pairs of one dtype. `stats->max_relative` may hold the maximum of earlier chunks (it
// lets the kernel skip divisions); all other fields start at 0.
using Kernel = void (*)(const void* expected, const void* actual, size_t count,
                        const KernelOptions& options, ChunkStats* stats);

struct KernelTable {
  Kernel f32 = nullptr, bf16 = nullptr, f16 = nullptr;
  const char* name = "";
};

const KernelTable& ScalarKernels();
// nullptr where the program was not built for x86-64. Call only if the processor has the features.
const KernelTable* Avx2Kernels();    // AVX2, FMA, F16C
const KernelTable* Avx512Kernels();  // AVX-512 F, BW, DQ, VL

// The kernels that this processor can run, best first, ended by nullptr (compare.cc). Tests and
// benchmarks run each of them.
const KernelTable* const* AvailableKernels();
// weighbridge::CompareBlock with given kernels.
ElementStats CompareBlockWith(const KernelTable& kernels, const TensorView& expected,
                              const TensorView& actual, int64_t first, int64_t count,
                              Tolerance tolerance);

// The shape of a 16- or 32-bit floating point pattern.
struct F32Format {
  using Bits = uint32_t;
  static constexpr Bits kMagnitude = 0x7fffffffu, kInfinity = 0x7f800000u;
};
struct BF16Format {
  using Bits = uint16_t;
  static constexpr Bits kMagnitude = 0x7fff, kInfinity = 0x7f80;
};
struct F16Format {
  using Bits = uint16_t;
  static constexpr Bits kMagnitude = 0x7fff, kInfinity = 0x7c00;
};

}  // namespace weighbridge::internal
