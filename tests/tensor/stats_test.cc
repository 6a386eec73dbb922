#include "tensor/stats.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "tensor/compare.h"

namespace weighbridge {
namespace {

TensorView View(const std::vector<float>& values) {
  return {DType::kF32, {static_cast<int64_t>(values.size())}, std::as_bytes(std::span(values))};
}

TEST(TensorStats, KnowsMeanDeviationAndExtremesOfFiniteValues) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const std::vector<float> values = {1, -3, 0, 2, kInf, std::nanf("")};
  const TensorStats s = ComputeStats(View(values));
  EXPECT_EQ(s.count, 6);
  EXPECT_EQ(s.finite, 4);
  EXPECT_EQ(s.zeros, 1);
  EXPECT_EQ(s.nan, 1);
  EXPECT_EQ(s.inf, 1);
  EXPECT_EQ(s.min, -3);
  EXPECT_EQ(s.max, 2);
  EXPECT_EQ(s.absmax, 3);
  EXPECT_EQ(s.mean, 0);
  EXPECT_DOUBLE_EQ(s.std, std::sqrt(14.0 / 4));
}

TEST(TensorStats, HasNoFiguresWithoutFiniteValues) {
  EXPECT_TRUE(std::isnan(ComputeStats(View({})).mean));
  EXPECT_TRUE(std::isnan(ComputeStats(View({std::nanf("")})).max));
}

TEST(TensorStats, KeepsSmallDeviationsAroundALargeMeanOnAnyNumberOfThreads) {
  std::vector<float> values(static_cast<size_t>(kCompareBlock + 1000));
  for (size_t i = 0; i < values.size(); ++i) values[i] = 1e6f + (i % 2 == 0 ? 1.0f : -1.0f);
  const TensorStats one = ComputeStats(View(values), 1), four = ComputeStats(View(values), 4);
  EXPECT_DOUBLE_EQ(one.mean, 1e6);
  EXPECT_NEAR(one.std, 1, 1e-9);
  EXPECT_EQ(std::bit_cast<uint64_t>(one.std), std::bit_cast<uint64_t>(four.std));
}

}  // namespace
}  // namespace weighbridge
