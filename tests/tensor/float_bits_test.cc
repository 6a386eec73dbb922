#include "tensor/float_bits.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

namespace weighbridge {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

TEST(FloatBits, DecodesKnownPatternsOfEveryFloatDType) {
  EXPECT_EQ(BitsToDouble(DType::kBF16, 0x3f80), 1.0);
  EXPECT_EQ(BitsToDouble(DType::kBF16, 0x0001), 0x1p-133);
  EXPECT_EQ(BitsToDouble(DType::kBF16, 0xff80), -kInf);
  EXPECT_EQ(BitsToDouble(DType::kF16, 0x3555), 0.333251953125);
  EXPECT_EQ(BitsToDouble(DType::kF16, 0x0001), 0x1p-24);
  EXPECT_EQ(BitsToDouble(DType::kF16, 0x7bff), 65504.0);
  EXPECT_EQ(BitsToDouble(DType::kF32, 0xc0490fdb), -3.1415927410125732);
  EXPECT_EQ(BitsToDouble(DType::kF64, 0x3ff8000000000000), 1.5);
  EXPECT_EQ(BitsToDouble(DType::kF8E4M3, 0x7e), 448.0);
  EXPECT_EQ(BitsToDouble(DType::kF8E4M3, 0x01), 0x1p-9);
  EXPECT_TRUE(std::isnan(BitsToDouble(DType::kF8E4M3, 0x7f)));
  EXPECT_EQ(BitsToDouble(DType::kF8E5M2, 0x7b), 57344.0);
  EXPECT_EQ(BitsToDouble(DType::kF8E5M2, 0x7c), kInf);
  EXPECT_EQ(BitsToDouble(DType::kF8E4M3Fnuz, 0x7f), 240.0);
  EXPECT_TRUE(std::isnan(BitsToDouble(DType::kF8E4M3Fnuz, 0x80)));
  EXPECT_EQ(BitsToDouble(DType::kF8E5M2Fnuz, 0x01), 0x1p-17);
  EXPECT_EQ(BitsToDouble(DType::kF8E8M0, 0x7f), 1.0);
  EXPECT_EQ(BitsToDouble(DType::kF8E8M0, 0x00), 0x1p-127);
  EXPECT_TRUE(std::isnan(BitsToDouble(DType::kF8E8M0, 0xff)));
  EXPECT_EQ(BitsToDouble(DType::kF6E2M3, 0x1f), 7.5);
  EXPECT_EQ(BitsToDouble(DType::kF6E3M2, 0x1f), 28.0);
  EXPECT_EQ(BitsToDouble(DType::kF6E3M2, 0x3f), -28.0);
}

TEST(FloatBits, ReadsFp4LowNibbleFirst) {
  // The eight magnitudes of e2m1 in order, two per byte.
  const std::byte data[] = {std::byte{0x10}, std::byte{0x32}, std::byte{0x54}, std::byte{0xf6}};
  const double expected[] = {0, 0.5, 1, 1.5, 2, 3, 4, -6};
  double actual[8];
  DecodeToDouble(DType::kF4, data, 0, 8, actual);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(actual[i], expected[i]) << i;
}

TEST(FloatBits, ReadsFp6AsALittleEndianStreamOfBits) {
  // Patterns 1, 2, 3, 4 -> 000100 000011 000010 000001 from the highest bit down.
  const std::byte data[] = {std::byte{0x81}, std::byte{0x30}, std::byte{0x10}};
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(RawBits(DType::kF6E2M3, data, i), i + 1);
}

TEST(FloatBits, ReadsIntegersBooleansAndComplexComponents) {
  const int16_t i16[] = {-32768, 5};
  EXPECT_EQ(ElementToDouble(DType::kI16, reinterpret_cast<const std::byte*>(i16), 0), -32768.0);
  const uint64_t u64[] = {std::numeric_limits<uint64_t>::max()};
  EXPECT_EQ(ElementToDouble(DType::kU64, reinterpret_cast<const std::byte*>(u64), 0), 0x1p64);
  const std::byte flag[] = {std::byte{1}};
  EXPECT_EQ(ElementToDouble(DType::kBool, flag, 0), 1.0);
  const float complex[] = {1.5f, -2.5f};
  EXPECT_EQ(ElementToDouble(DType::kC64, reinterpret_cast<const std::byte*>(complex), 1), -2.5);
}

TEST(FloatBits, RoundsHalfwayCasesToEven) {
  EXPECT_EQ(RoundToBits(DType::kBF16, 1.00390625), 0x3f80u);  // between 3f80 and 3f81
  EXPECT_EQ(RoundToBits(DType::kBF16, 1.01171875), 0x3f82u);  // between 3f81 and 3f82
  EXPECT_EQ(RoundToBits(DType::kF16, 2049.0), 0x6800u);       // between 2048 and 2050
  EXPECT_EQ(RoundToBits(DType::kF16, 0x1p-25), 0x0000u);      // half the least subnormal
  EXPECT_EQ(RoundToBits(DType::kF16, 0x1.8p-24), 0x0002u);
  EXPECT_EQ(RoundToBits(DType::kF8E4M3, 0x1p-10), 0x00u);
  EXPECT_EQ(RoundToBits(DType::kF8E5M2, -0x1.8p-16), 0x82u);
}

TEST(FloatBits, RoundsADoubleOnceAndNotThroughFloat) {
  // Just above the middle of two bf16 values, by less than float32 can hold.
  const double value = 1.00390625 + 0x1p-40;
  EXPECT_EQ(RoundToBits(DType::kBF16, value), 0x3f81u);
  EXPECT_EQ(RoundToBits(DType::kBF16, static_cast<float>(value)), 0x3f80u);
}

TEST(FloatBits, OverflowsToInfinityOrToNanWhereThereIsNone) {
  EXPECT_EQ(RoundToBits(DType::kF16, 65519.0), 0x7bffu);
  EXPECT_EQ(RoundToBits(DType::kF16, 65520.0), 0x7c00u);
  EXPECT_EQ(RoundToBits(DType::kBF16, -3.4e38f), 0xff80u);
  EXPECT_EQ(RoundToBits(DType::kF8E5M2, 61440.0), 0x7cu);
  EXPECT_EQ(RoundToBits(DType::kF8E4M3, 464.0), 0x7eu);
  EXPECT_EQ(RoundToBits(DType::kF8E4M3, 465.0), 0x7fu);
  EXPECT_EQ(RoundToBits(DType::kF8E4M3Fnuz, -1000.0), 0x80u);
  EXPECT_EQ(RoundToBits(DType::kF8E4M3Fnuz, -0.0), 0x00u);
  EXPECT_EQ(RoundToBits(DType::kF8E8M0, 1.0), std::nullopt);
}

TEST(FloatBits, EveryPatternOfARoundableDTypeRoundsToItself) {
  for (DType dtype : {DType::kF16, DType::kBF16, DType::kF8E4M3, DType::kF8E5M2, DType::kF8E4M3Fnuz,
                      DType::kF8E5M2Fnuz}) {
    for (uint64_t raw = 0; raw < uint64_t{1} << BitsOf(dtype); ++raw) {
      const double value = BitsToDouble(dtype, raw);
      if (std::isnan(value)) continue;
      ASSERT_EQ(RoundToBits(dtype, value), raw) << ShortName(dtype);
      const auto byte_order = static_cast<uint16_t>(raw);
      if (BitsOf(dtype) != 16) continue;
      float widened;
      DecodeToFloat(dtype, reinterpret_cast<const std::byte*>(&byte_order), 0, 1, &widened);
      ASSERT_EQ(std::bit_cast<uint64_t>(double{widened}), std::bit_cast<uint64_t>(value));
    }
  }
}

TEST(UlpDistance, CountsRepresentableValuesAcrossZero) {
  EXPECT_EQ(UlpDistance(DType::kBF16, 0x3f80, 0x3f83), 3u);
  EXPECT_EQ(UlpDistance(DType::kF32, 0x00000001, 0x80000001), 2u);
  EXPECT_EQ(UlpDistance(DType::kF16, 0x0000, 0x8000), 0u);
  EXPECT_EQ(UlpDistance(DType::kF64, 0x7fefffffffffffff, 0xffefffffffffffff), 0xffdffffffffffffeu);
  EXPECT_EQ(UlpDistance(DType::kI8, 0x80, 0x7f), 255u);
  EXPECT_EQ(UlpDistance(DType::kF32, 0x7f800000, 0x3f800000), std::nullopt);
  EXPECT_EQ(UlpDistance(DType::kF32, 0x7fc00000, 0x7fc00000), 0u);
}

TEST(FormatBits, ShowsTheShortestDecimalAndTheBits) {
  EXPECT_EQ(FormatBits(DType::kBF16, 0x3f00), "0.5 (0x3f00)");
  EXPECT_EQ(FormatBits(DType::kF32, 0x3dcccccd), "0.1 (0x3dcccccd)");
  EXPECT_EQ(FormatBits(DType::kF8E4M3, 0x7f), "nan (0x7f)");
  EXPECT_EQ(FormatBits(DType::kI32, 0xffffffff), "-1");
  EXPECT_EQ(FormatBits(DType::kBool, 1), "true");
}

}  // namespace
}  // namespace weighbridge
