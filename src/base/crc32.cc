#include "base/crc32.h"

#include <libdeflate.h>

#include <array>

namespace weighbridge {
namespace {

constexpr uint32_t kPolynomial = 0xEDB88320;
constexpr uint32_t kOne = 1u << 31;  // x^0; the highest bit is the lowest power

// a * b modulo the polynomial.
constexpr uint32_t Multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = kOne; bit != 0; bit >>= 1) {
    if (a & bit) product ^= b;
    b = (b >> 1) ^ (b & 1 ? kPolynomial : 0);
  }
  return product;
}

// [k]: x^(8 * 2^k), which moves a CRC on by 2^k bytes.
constexpr std::array<uint32_t, 64> kPowers = [] {
  std::array<uint32_t, 64> powers{};
  powers[0] = kOne >> 8;
  for (size_t k = 1; k < powers.size(); ++k) {
    powers[k] = Multiply(powers[k - 1], powers[k - 1]);
  }
  return powers;
}();

}  // namespace

uint32_t Crc32(std::span<const std::byte> bytes, uint32_t before) {
  return libdeflate_crc32(before, bytes.data(), bytes.size());
}
uint32_t Crc32(std::string_view text) { return libdeflate_crc32(0, text.data(), text.size()); }

// A CRC is linear over GF(2): crc(A B) = crc(A) * x^(8 |B|) + crc(B).
uint32_t Crc32Shift(uint32_t crc, uint64_t bytes_after) {
  for (size_t k = 0; bytes_after != 0; ++k, bytes_after >>= 1) {
    if (bytes_after & 1) crc = Multiply(kPowers[k], crc);
  }
  return crc;
}

}  // namespace weighbridge
