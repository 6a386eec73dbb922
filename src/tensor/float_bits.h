// The value behind the bits of every dtype, and the bits that a value is rounded to.
//
// Elements are numbered in *components*: a C64 element is two components (real, imaginary), every
// other element is one. Packed dtypes follow the safetensors layout: FP4 two per byte, the low
// nibble first; FP6 a little-endian stream of bits, four elements in three bytes.
//
// Everything here is pure and may be called from any thread. Sources: IEEE 754 (f16, f32, f64); the
// OCP 8-bit floating point specification (e4m3 without infinities, e5m2); the OCP microscaling
// formats (e8m0, fp6, fp4); "FNUZ" variants have one NaN (0x80), no infinity and no negative zero.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "tensor/dtype.h"

namespace weighbridge {

// 2 for C64, else 1; and the dtype of one component (F32 for C64, else the dtype itself).
inline int ComponentsOf(DType dtype) { return dtype == DType::kC64 ? 2 : 1; }
inline DType ComponentDType(DType dtype) { return dtype == DType::kC64 ? DType::kF32 : dtype; }

// The bits of component `index`, in the low bits of the result.
uint64_t RawBits(DType dtype, const std::byte* data, size_t index);

// The value of one component. Exact for every dtype but I64 and U64, which are rounded to nearest.
// BOOL is 0 or 1 (any byte but 0 is 1).
double BitsToDouble(DType dtype, uint64_t raw);
inline double ElementToDouble(DType dtype, const std::byte* data, size_t index) {
  return BitsToDouble(dtype, RawBits(dtype, data, index));
}

// The values of components [first, first + count) of `data`; `out` has room for `count`.
void DecodeToDouble(DType dtype, const std::byte* data, size_t first, size_t count, double* out);

// True for the dtypes all of whose values are float32 values (F32, every narrower float, 8- and
// 16-bit integers, BOOL, C64's components). DecodeToFloat is exact for them and must not be called
// for others.
bool FitsFloat(DType dtype);
void DecodeToFloat(DType dtype, const std::byte* data, size_t first, size_t count, float* out);

// The bits nearest to `value` in F64, F32, F16, BF16 or one of the four F8_E4M3/E5M2 dtypes: one
// correct rounding (to nearest, ties to even) whatever the source, subnormals included. Overflow
// becomes infinity, or NaN where the dtype has no infinity. NaN becomes the dtype's quiet NaN with
// the sign kept where there is one. nullopt for a dtype that is not in this list.
std::optional<uint64_t> RoundToBits(DType dtype, double value);

// Distance in units of the last place: how many representable values lie between the two, counted
// on the integers that order them (-0 and +0 are one place). For integers and BOOL it is |a - b|.
// 0 for two equal NaNs, nullopt where a NaN or an infinity meets anything else.
std::optional<uint64_t> UlpDistance(DType dtype, uint64_t a, uint64_t b);

// "0.5 (0x3f00)" for floats, "17" for integers, "true"; C64 components print as floats.
std::string FormatBits(DType dtype, uint64_t raw);

}  // namespace weighbridge
