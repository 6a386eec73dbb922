// Ops on all 65536 values of the two-byte floats, against plain arithmetic in double.
#include "mapping/ops.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace weighbridge {
namespace {

// Value of a two-byte float, written from the formats' definitions.
double Decode(DType dtype, uint16_t bits) {
  const int exponent_bits = dtype == DType::kBF16 ? 8 : 5;
  const int mantissa_bits = 15 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = (bits >> 15) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) {
    return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN()
                         : sign * std::numeric_limits<double>::infinity();
  }
  const double fraction = std::ldexp(mantissa, -mantissa_bits);
  return exponent == 0 ? sign * std::ldexp(fraction, 1 - bias)
                       : sign * std::ldexp(1.0 + fraction, exponent - bias);
}

// Finite values of a format in rising order of magnitude are its bit patterns in order: the nearest
// of a value is found by searching them, and ties go to the even pattern.
uint16_t Encode(DType dtype, double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(value);
  const uint16_t infinity = dtype == DType::kBF16 ? 0x7F80 : 0x7C00;
  uint16_t low = 0, high = infinity;
  while (low + 1 < high) {
    const auto middle = static_cast<uint16_t>((low + high) / 2);
    (Decode(dtype, middle) <= magnitude ? low : high) = middle;
  }
  const double below = Decode(dtype, low);
  // The step above the largest finite value counts as a value when rounding.
  const double above = high == infinity ? 2 * below - Decode(dtype, static_cast<uint16_t>(low - 1))
                                        : Decode(dtype, high);
  const double to_below = magnitude - below, to_above = above - magnitude;
  const bool up = to_above < to_below || (to_above == to_below && low % 2 != 0);
  return static_cast<uint16_t>(sign | (up ? high : low));
}

std::vector<uint16_t> AllPatterns() {
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  return all;
}

std::vector<uint16_t> ApplyToAll(Op op, DType dtype, const std::vector<uint16_t>& from) {
  std::vector<uint16_t> to(from.size());
  EXPECT_TRUE(Apply(op, dtype, std::as_bytes(std::span(from)), dtype,
                    std::as_writable_bytes(std::span(to))));
  return to;
}

class TwoByteFloats : public testing::TestWithParam<DType> {};

TEST_P(TwoByteFloats, AddOneAndSubOneAreCorrectlyRoundedForEveryValue) {
  const DType dtype = GetParam();
  const std::vector<uint16_t> from = AllPatterns();
  for (const auto& [op, step] : {std::pair{Op::kAddOne, 1.0}, {Op::kSubOne, -1.0}}) {
    const std::vector<uint16_t> to = ApplyToAll(op, dtype, from);
    for (size_t i = 0; i < from.size(); ++i) {
      const double x = Decode(dtype, from[i]);
      if (std::isnan(x)) {
        ASSERT_TRUE(std::isnan(Decode(dtype, to[i]))) << std::hex << i;
      } else if (std::isinf(x)) {
        ASSERT_EQ(to[i], from[i]);
      } else {
        ASSERT_EQ(to[i], Encode(dtype, x + step)) << std::hex << i << " " << x;
      }
    }
  }
}

TEST_P(TwoByteFloats, NoneKeepsEveryBitOfEveryValue) {
  const std::vector<uint16_t> from = AllPatterns();
  EXPECT_EQ(ApplyToAll(Op::kNone, GetParam(), from), from);
}

TEST_P(TwoByteFloats, OpsThatAreCalledExactRestoreEveryBit) {
  const DType dtype = GetParam();
  const std::vector<uint16_t> from = AllPatterns();
  for (Op op : {Op::kNone, Op::kAddOne, Op::kSubOne}) {
    const auto back = ApplyToAll(Inverse(op), dtype, ApplyToAll(op, dtype, from));
    EXPECT_EQ(InvertibilityOf(op, dtype, dtype) == Invertibility::kExact, back == from)
        << ToString(op);
  }
}

TEST_P(TwoByteFloats, WideningThereAndBackRestoresEveryNumber) {
  const DType dtype = GetParam();
  const std::vector<uint16_t> from = AllPatterns();
  for (DType wide : {DType::kF32, DType::kF64}) {
    ASSERT_EQ(InvertibilityOf(Op::kNone, dtype, wide), Invertibility::kExact);
    ASSERT_EQ(InvertibilityOf(Op::kNone, wide, dtype), Invertibility::kRounded);
    std::vector<std::byte> middle(from.size() * (wide == DType::kF32 ? 4 : 8));
    std::vector<uint16_t> back(from.size());
    ASSERT_TRUE(Apply(Op::kNone, dtype, std::as_bytes(std::span(from)), wide, middle));
    ASSERT_TRUE(Apply(Op::kNone, wide, middle, dtype, std::as_writable_bytes(std::span(back))));
    for (size_t i = 0; i < from.size(); ++i) {
      if (std::isnan(Decode(dtype, from[i]))) {
        ASSERT_TRUE(std::isnan(Decode(dtype, back[i])));
      } else {
        ASSERT_EQ(back[i], from[i]);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, TwoByteFloats, testing::Values(DType::kBF16, DType::kF16),
                         [](const auto& test) { return std::string(ShortName(test.param)); });

RC_GTEST_PROP(Ops, FloatPlusOneIsTheFloatSumOfTheHardware, ()) {
  const auto bits = *rc::gen::arbitrary<uint32_t>();
  float x;
  std::memcpy(&x, &bits, 4);
  RC_PRE(!std::isnan(x));
  float got = 0;
  RC_ASSERT(Apply(Op::kAddOne, DType::kF32, std::as_bytes(std::span(&x, 1)), DType::kF32,
                  std::as_writable_bytes(std::span(&got, 1)))
                .has_value());
  const float expected = x + 1.0F;
  RC_ASSERT(std::memcmp(&got, &expected, 4) == 0);
}

// 2^-8 + 2^-60 + 1 lies above the middle between two bf16 values, but its sum in double does not.
TEST(Ops, SumsOfDoublesAreRoundedOnce) {
  for (const auto& [op, sign] : {std::pair{Op::kAddOne, 1.0}, {Op::kSubOne, -1.0}}) {
    const double values[] = {sign * (std::ldexp(1, -8) + std::ldexp(1, -60)),
                             sign * std::ldexp(1, -8),
                             sign * (std::ldexp(3, -8) - std::ldexp(1, -58))};
    uint16_t got[3];
    ASSERT_TRUE(Apply(op, DType::kF64, std::as_bytes(std::span(values)), DType::kBF16,
                      std::as_writable_bytes(std::span(got))));
    EXPECT_EQ(Decode(DType::kBF16, got[0]), sign * (1 + std::ldexp(1, -7)));
    EXPECT_EQ(Decode(DType::kBF16, got[1]), sign);
    EXPECT_EQ(Decode(DType::kBF16, got[2]), sign * (1 + std::ldexp(1, -7)));
  }
}

TEST(Ops, AnEightBitFloatIsWhatTorchsCastGives) {
  // 448 and 57344 are the largest; half way to the next power beyond it is rounded to them still.
  const std::vector<float> values = {1.0625f, 1.1875f, 448, 464, 465, -1e30f, 57344, 61439, 61440};
  const std::vector<uint8_t> e4m3 = {0x38, 0x3A, 0x7E, 0x7E, 0x7F, 0xFF, 0x7F, 0x7F, 0x7F};
  const std::vector<uint8_t> e5m2 = {0x3C, 0x3D, 0x5F, 0x5F, 0x5F, 0xFC, 0x7B, 0x7B, 0x7C};
  for (const auto& [dtype, expected] : {std::pair(DType::kF8E4M3, e4m3), {DType::kF8E5M2, e5m2}}) {
    std::vector<uint8_t> got(values.size());
    ASSERT_TRUE(Apply(Op::kNone, DType::kF32, std::as_bytes(std::span(values)), dtype,
                      std::as_writable_bytes(std::span(got))));
    EXPECT_EQ(got, expected) << ShortName(dtype);
    EXPECT_EQ(InvertibilityOf(Op::kNone, DType::kBF16, dtype), Invertibility::kRounded);
  }
}

TEST(Ops, DtypesWithoutArithmeticAreRefused) {
  const std::vector<std::byte> from(8);
  std::vector<std::byte> to(8);
  for (DType dtype : {DType::kI32, DType::kU8, DType::kBool, DType::kF8E4M3}) {
    EXPECT_TRUE(Apply(Op::kNone, dtype, from, dtype, to));
    const Status s = Apply(Op::kAddOne, dtype, from, dtype, to);
    ASSERT_FALSE(s);
    EXPECT_EQ(s.error().kind, ErrorKind::kUnsupported);
  }
}

TEST(Ops, NamesAreReadAsTheyAreWritten) {
  for (Op op : {Op::kNone, Op::kAddOne, Op::kSubOne}) {
    EXPECT_EQ(ParseOp(ToString(op)), op);
    EXPECT_EQ(Inverse(Inverse(op)), op);
  }
  EXPECT_EQ(ParseOp(""), std::nullopt);
  EXPECT_EQ(ParseOp("add_two"), std::nullopt);
}

}  // namespace
}  // namespace weighbridge
