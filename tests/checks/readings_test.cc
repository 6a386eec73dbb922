#include "checks/diagnose/readings.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <vector>

namespace weighbridge {
namespace {

// Bytes of exactly the size that is needed, so that a sanitizer sees what goes beyond.
std::vector<std::byte> Bytes(int64_t n, unsigned step) {
  std::vector<std::byte> out(static_cast<size_t>(n));
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>(i * step % 119 + 1);
  return out;
}

struct Stored {
  std::vector<std::byte> codes, scales, global, zero_points;
  QuantizedTensor q;

  Stored(CodeFormat format, Shape shape, int64_t pitch, ScaleGrid grid) {
    q.format = format;
    q.shape = std::move(shape);
    q.pitch = pitch;
    q.grid = grid;
    const int64_t matrices = q.matrices();
    codes = Bytes(matrices * q.rows() * pitch * BitsOf(format) / 8, 37);
    scales = Bytes(matrices * grid.rows * grid.columns * 2, 11);
    q.codes = codes;
    q.scales = scales;
    q.scale_dtype = DType::kBF16;
    if (format == CodeFormat::kInt4Offset) {
      zero_points = Bytes((grid.rows + 7) / 8 * grid.columns * 4, 5);
      q.zero_points = zero_points;
    }
    if (format == CodeFormat::kF4E2M1) {
      global = Bytes(4, 3);
      q.global_scale = global;
    }
  }
};

std::vector<std::byte> Values(const QuantizedTensor& q, int64_t first, int64_t count) {
  std::vector<std::byte> out(static_cast<size_t>(count * BitsOf(q.dtype) / 8));
  Dequantize(q, first, count, out.data());
  return out;
}

class OwnReadingsTest : public testing::TestWithParam<size_t> {
 protected:
  static Stored Make() {
    switch (GetParam()) {
      case 0:
        return {CodeFormat::kF8E4M3, {13, 9}, 9, {4, 4, 4, 3}};
      case 1:
        return {CodeFormat::kF8E5M2, {12, 12}, 12, {1, 12, 12, 1}};
      case 2:
        return {CodeFormat::kInt4Offset, {16, 21}, 24, {1, 8, 16, 3}};
      case 3:
        return {CodeFormat::kF4E2M1, {3, 8, 32}, 32, {1, 16, 8, 2}};
      default:
        return {CodeFormat::kF8E4M3, {12, 24}, 24, {3, 3, 4, 8}};
    }
  }
};

TEST_P(OwnReadingsTest, AreOfCodesAndScalesThatAreThereAndTheSameInAnyStretch) {
  const Stored stored = Make();
  const int64_t n = Numel(stored.q.shape);
  const std::vector<CodeReading> readings = OwnReadings(stored.q);
  EXPECT_GT(readings.size(), 5u);
  for (const CodeReading& reading : readings) {
    const std::vector<std::byte> all = Values(reading.tensor, 0, n);
    for (int64_t first = 0; first < n; first += 7) {
      const int64_t count = std::min<int64_t>(11, n - first);
      const std::vector<std::byte> part = Values(reading.tensor, first, count);
      ASSERT_EQ(std::memcmp(part.data(), all.data() + 2 * first, part.size()), 0) << reading.what;
    }
  }
}

TEST_P(OwnReadingsTest, HaveEachATextOfTheirOwn) {
  const Stored stored = Make();
  std::set<std::string> texts;
  for (const CodeReading& reading : OwnReadings(stored.q)) {
    EXPECT_TRUE(texts.insert(reading.what).second) << reading.what;
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, OwnReadingsTest, testing::Range<size_t>(0, 5));

TEST(FindPacking, IsAlongOneAxisOrOverAllOfTheTensor) {
  const Shape values = {64, 96};
  const auto each = [&](DType dtype, const Shape& stored) {
    const auto packed = FindPacking(dtype, stored, values);
    return packed ? packed->each : 0;
  };
  EXPECT_EQ(each(DType::kU8, {64, 48}), 2);
  EXPECT_EQ(each(DType::kU8, {32, 96}), 2);
  EXPECT_EQ(each(DType::kU8, {3072, 1}), 2);
  EXPECT_EQ(each(DType::kI32, {64, 12}), 8);
  EXPECT_EQ(each(DType::kI32, {8, 96}), 8);
  EXPECT_EQ(each(DType::kI32, {64, 24}), 4);
  EXPECT_EQ(each(DType::kBF16, {64, 48}), 0);
  EXPECT_EQ(each(DType::kU8, {64, 96}), 0);
  EXPECT_EQ(each(DType::kU8, {64, 47}), 0);
  EXPECT_EQ(each(DType::kU8, {int64_t{1} << 62, 4}), 0);
  EXPECT_EQ(FindPacking(DType::kI32, {5, 3}, {5, 21})->each, 8);  // rows filled up to 24
}

}  // namespace
}  // namespace weighbridge
