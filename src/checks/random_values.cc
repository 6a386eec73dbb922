#include <bit>
#include <cstdlib>
#include <cstring>

#include "base/hash.h"
#include "checks/toy.h"

namespace weighbridge {
namespace {

// The stream's start: the leading 64 bits of XXH3-128 over the name and the seed.
uint64_t StreamKey(const std::string& name, uint64_t seed) {
  Xxh3Stream hash;
  hash.Update(std::as_bytes(std::span(name)));
  hash.Update(std::as_bytes(std::span(&seed, 1)));
  return std::strtoull(hash.Hex().substr(0, 16).c_str(), nullptr, 16);
}

// SplitMix64 (Steele, Lea, Flood 2014) is a counter with a mixer behind it, so any element can be
// asked for.
uint64_t Mixed(uint64_t key, uint64_t counter) {
  uint64_t z = key + (counter + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

uint16_t RoundToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Round to nearest, ties to even, for |value| < 65520.
uint16_t RoundToFp16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude < 0x38800000) {
    // Below 2^-14 the last place is 2^-24: adding 0.5 lets the hardware round there.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000));
  }
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

// 24 random bits in [-1, 1), exact in float.
constexpr float kUnit = 0x1p-23f;

template <typename T, typename Round>
void Fill(uint64_t key, float centre, float scale, uint64_t first, uint64_t count, std::byte* out,
          Round round) {
  // The product is exact in double, so that a compiler that fuses the sum changes nothing.
  const double factor = static_cast<double>(scale * kUnit);
  const auto value = [&](uint32_t bits) {
    const int32_t integer = static_cast<int32_t>(bits) >> 8;
    if (centre == 0) return static_cast<float>(integer) * static_cast<float>(factor);
    return static_cast<float>(centre + integer * factor);
  };
  const auto store = [&](uint64_t i, uint32_t bits) {
    const T stored = round(value(bits));
    std::memcpy(out + i * sizeof(T), &stored, sizeof(T));
  };
  uint64_t i = 0;
  for (; i + 1 < count; i += 2) {
    const uint64_t mixed = Mixed(key, (first + i) / 2);
    store(i, static_cast<uint32_t>(mixed));
    store(i + 1, static_cast<uint32_t>(mixed >> 32));
  }
  if (i < count) store(i, static_cast<uint32_t>(Mixed(key, (first + i) / 2)));
}

}  // namespace

void FillRandom(const std::string& name, uint64_t seed, DType dtype, float centre, float scale,
                uint64_t first, uint64_t count, std::byte* out) {
  const uint64_t key = StreamKey(name, seed);
  switch (dtype) {
    case DType::kBF16:
      return Fill<uint16_t>(key, centre, scale, first, count, out, RoundToBf16);
    case DType::kF16:
      return Fill<uint16_t>(key, centre, scale, first, count, out, RoundToFp16);
    default:
      return Fill<float>(key, centre, scale, first, count, out, [](float v) { return v; });
  }
}

}  // namespace weighbridge
