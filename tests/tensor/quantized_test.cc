#include "tensor/quantized.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

template <typename T>
std::span<const std::byte> BytesOf(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

std::vector<float> Values(const QuantizedTensor& q) {
  const int64_t n = Numel(q.shape);
  std::vector<std::byte> bytes(static_cast<size_t>(n * BitsOf(q.dtype) / 8));
  Dequantize(q, 0, n, bytes.data());
  std::vector<float> out(static_cast<size_t>(n));
  DecodeToFloat(q.dtype, bytes.data(), 0, out.size(), out.data());
  return out;
}

// One FP8 matrix with a scale per block.
struct Blocks {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  QuantizedTensor q;

  Blocks(Shape shape, ScaleGrid grid, std::vector<float> s) : scales(std::move(s)) {
    codes.resize(static_cast<size_t>(Numel(shape)));
    for (size_t i = 0; i < codes.size(); ++i) {
      codes[i] = static_cast<uint8_t>(i * 37 % 256);
      if (codes[i] % 128 == 127) --codes[i];
    }
    q.shape = std::move(shape);
    q.grid = grid;
    q.pitch = q.columns();
    q.codes = BytesOf(codes);
    q.scales = BytesOf(scales);
  }
  float Meaning(size_t i) const {
    return static_cast<float>(BitsToDouble(DType::kF8E4M3, codes[i]));
  }
};

TEST(Quantized, ABlockOfAMatrixHasItsOwnScaleAndTheLastOfARowIsSmaller) {
  Blocks b({5, 7}, {.block_rows = 3, .block_columns = 4, .rows = 2, .columns = 2}, {1, 2, 4, 8});
  b.q.dtype = DType::kF32;
  const std::vector<float> values = Values(b.q);
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t block = i / 7 / 3 * 2 + i % 7 / 4;
    EXPECT_EQ(values[i], b.Meaning(i) * b.scales[block]) << i;
  }
}

TEST(Quantized, AnyStretchOfElementsIsTheSameAsThatPartOfAll) {
  Blocks b({2, 5, 7}, {.block_rows = 3, .block_columns = 4, .rows = 2, .columns = 2},
           {1, 2, 4, 8, 16, 32, 64, 128});
  std::vector<std::byte> all(140), part(140);
  Dequantize(b.q, 0, 70, all.data());
  for (int64_t first = 0; first < 70; ++first) {
    for (int64_t count = 0; first + count <= 70; count += 5) {
      Dequantize(b.q, first, count, part.data());
      ASSERT_EQ(std::memcmp(part.data(), all.data() + 2 * first, static_cast<size_t>(2 * count)), 0)
          << first << " " << count;
    }
  }
}

TEST(Quantized, TheProductIsRoundedInFloat32AndThenIntoTheDTypeOfTheValues) {
  Blocks b({1, 256}, {.block_rows = 1, .block_columns = 256}, {1.1e-3f});
  std::vector<std::byte> bytes(512);
  Dequantize(b.q, 0, 256, bytes.data());
  for (size_t i = 0; i < 256; ++i) {
    const float product = b.Meaning(i) * 1.1e-3f;
    EXPECT_EQ(RawBits(DType::kBF16, bytes.data(), i),
              RoundToBits(DType::kBF16, static_cast<double>(product)));
  }
}

TEST(Quantized, FourBitCodesStandLowNibbleFirst) {
  const std::vector<uint8_t> codes = {0x21, 0x87};
  const std::vector<uint8_t> scales = {128};  // 2^1
  QuantizedTensor q;
  q.format = CodeFormat::kF4E2M1;
  q.shape = {1, 4};
  q.pitch = 4;
  q.codes = BytesOf(codes);
  q.scales = BytesOf(scales);
  q.scale_dtype = DType::kU8;
  q.scale_format = ScaleFormat::kExponent;
  q.grid = {.block_rows = 1, .block_columns = 4};
  EXPECT_THAT(Values(q), testing::ElementsAre(1, 2, 12, 0));
  EXPECT_TRUE(std::signbit(Values(q)[3]));
  q.format = CodeFormat::kF4E2M1OneZero;
  EXPECT_FALSE(std::signbit(Values(q)[3]));
}

TEST(Quantized, AnExponentOf255IsInfinityAsAByteAndNaNAsE8M0) {
  Blocks b({1, 2}, {.block_rows = 1, .block_columns = 2}, {});
  b.codes = {0x38, 0x00};  // 1, 0
  const std::vector<uint8_t> scales = {255};
  b.q.scales = BytesOf(scales);
  b.q.scale_dtype = DType::kU8;
  b.q.scale_format = ScaleFormat::kExponent;
  EXPECT_TRUE(std::isinf(Values(b.q)[0]));
  EXPECT_TRUE(std::isnan(Values(b.q)[1]));
  b.q.scale_dtype = DType::kF8E8M0;
  b.q.scale_format = ScaleFormat::kNumber;
  EXPECT_TRUE(std::isnan(Values(b.q)[0]));
  EXPECT_EQ(CountScales(b.q, 0, 1).not_finite, 1);
}

TEST(Quantized, EveryCodeComesBackFromItsValueWithoutTheSource) {
  for (const CodeFormat format :
       {CodeFormat::kF8E4M3, CodeFormat::kF8E5M2, CodeFormat::kF4E2M1, CodeFormat::kInt4Offset}) {
    for (const float scale : {1.0f, 3.7e-4f, 1e-10f, 1e10f}) {
      Blocks b({1, 256}, {.block_rows = 1, .block_columns = 256}, {scale});
      b.q.format = format;
      for (size_t i = 0; i < 256; ++i) b.codes[i] = static_cast<uint8_t>(i);
      if (BitsOf(format) == 4) b.q.shape = {1, 512}, b.q.pitch = 512;
      if (BitsOf(format) == 4) b.q.grid.block_columns = 512;
      const int64_t n = b.q.columns();
      std::vector<std::byte> values(static_cast<size_t>(2 * n));
      Dequantize(b.q, 0, n, values.data());
      std::vector<std::byte> other(256, std::byte{0x11});  // codes of another model
      Requantize(b.q, 0, n, values, other);
      std::vector<std::byte> back(values.size());
      const std::vector<std::byte> copy = other;
      b.q.codes = copy;
      Dequantize(b.q, 0, n, back.data());
      EXPECT_EQ(back, values) << static_cast<int>(format) << " " << scale;
      EXPECT_EQ(CountScales(b.q, 0, 1).ambiguous, 0);
    }
  }
}

TEST(Quantized, CodesThatShareAValueComeBackAsTheSourceHasThem) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float scale : {0.0f, nan, std::numeric_limits<float>::infinity(), 1e-45f}) {
    Blocks b({1, 256}, {.block_rows = 1, .block_columns = 256}, {scale});
    for (size_t i = 0; i < 256; ++i) b.codes[i] = static_cast<uint8_t>(i);
    std::vector<std::byte> values(512);
    Dequantize(b.q, 0, 256, values.data());
    std::vector<std::byte> codes(b.q.codes.begin(), b.q.codes.end());
    EXPECT_EQ(Requantize(b.q, 0, 256, values, codes).changed, 0) << scale;
    EXPECT_EQ(std::memcmp(codes.data(), b.codes.data(), 256), 0);
  }
}

TEST(Quantized, AValueWithoutACodeIsRoundedToTheNearestAndCounted) {
  Blocks b({1, 3}, {.block_rows = 1, .block_columns = 3}, {1});
  b.codes = {0x38, 0x38, 0x38};  // 1, 1, 1
  const std::array<float, 3> wanted = {1.05f, 1000, -1e-9f};
  std::vector<std::byte> values(6);
  for (size_t i = 0; i < 3; ++i) {
    const uint64_t bits = *RoundToBits(DType::kBF16, static_cast<double>(wanted[i]));
    std::memcpy(values.data() + 2 * i, &bits, 2);
  }
  std::vector<std::byte> codes(b.q.codes.begin(), b.q.codes.end());
  const RequantizeCounts counts = Requantize(b.q, 0, 3, values, codes);
  EXPECT_EQ(counts.changed, 3);
  EXPECT_EQ(counts.rounded, 3);
  EXPECT_EQ(counts.clipped, 1);
  EXPECT_THAT(codes, testing::ElementsAre(std::byte{0x38}, std::byte{0x7e}, std::byte{0x80}));
}

TEST(Quantized, ScalesAreCountedByWhatIsWrongWithThem) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Blocks b({1, 5}, {.block_rows = 1, .block_columns = 1, .rows = 1, .columns = 5},
           {1, 0, nan, -2, 1e-45f});
  const ScaleCounts counts = CountScales(b.q, 0, 5);
  EXPECT_EQ(counts.total, 5);
  EXPECT_EQ(counts.not_finite, 1);
  EXPECT_EQ(counts.first_not_finite, 2);
  EXPECT_EQ(counts.zero, 1);
  EXPECT_EQ(counts.negative, 1);
  EXPECT_EQ(counts.ambiguous, 1);
}

}  // namespace
}  // namespace weighbridge
