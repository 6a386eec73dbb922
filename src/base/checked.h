// Integer arithmetic on sizes that come from files: overflow is a value, never a wrap.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace weighbridge {

inline std::optional<uint64_t> CheckedMul(uint64_t a, uint64_t b) {
  uint64_t r;
  if (__builtin_mul_overflow(a, b, &r)) return std::nullopt;
  return r;
}

inline std::optional<uint64_t> CheckedAdd(uint64_t a, uint64_t b) {
  uint64_t r;
  if (__builtin_add_overflow(a, b, &r)) return std::nullopt;
  return r;
}

// The product of all extents; 1 for a scalar; nullopt when it exceeds int64 or an extent is
// negative.
inline std::optional<int64_t> CheckedNumel(std::span<const int64_t> shape) {
  int64_t n = 1;
  bool zero = false;
  for (int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    if (extent == 0) {
      zero = true;
      continue;
    }
    if (__builtin_mul_overflow(n, extent, &n)) return std::nullopt;
  }
  return zero ? 0 : n;
}

}  // namespace weighbridge
