#include "engine/growth.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace weighbridge {
namespace {

TEST(Growth, ADifferenceThatStaysTheSameIsFlat) {
  EXPECT_EQ(ReadGrowth({1e-7, 2e-7, 1.5e-7, 2.5e-7, 2e-7}).kind, GrowthKind::kFlat);
}

TEST(Growth, OneLayerThatMakesTheDifferenceIsAStepAtThatLayer) {
  const Growth growth = ReadGrowth({1e-7, 1.2e-7, 1e-5, 1.5e-5, 1.4e-5});
  EXPECT_EQ(growth.kind, GrowthKind::kStep);
  EXPECT_EQ(growth.at, 2U);
  EXPECT_NEAR(growth.factor, 83, 1);
}

TEST(Growth, ALittleMoreWithEveryLayerIsCompounding) {
  const Growth growth = ReadGrowth({1e-7, 2e-7, 4e-7, 8e-7, 1.6e-6});
  EXPECT_EQ(growth.kind, GrowthKind::kCompounding);
  EXPECT_DOUBLE_EQ(growth.factor, 16);
}

TEST(Growth, WhatGoesUpAndDownAgainIsASpike) {
  const Growth growth = ReadGrowth({1e-7, 1e-7, 1e-5, 1.1e-7, 1e-7});
  EXPECT_EQ(growth.kind, GrowthKind::kSpikes);
  EXPECT_EQ(growth.at, 2U);
}

TEST(Growth, ZerosAndWhatIsNoNumberArePassedOver) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(ReadGrowth({}).kind, GrowthKind::kFlat);
  EXPECT_EQ(ReadGrowth({0, nan}).kind, GrowthKind::kFlat);
  const Growth growth = ReadGrowth({0, 1e-7, nan, 1e-5, 1e-5});
  EXPECT_EQ(growth.kind, GrowthKind::kStep);
  EXPECT_EQ(growth.at, 3U);
}

}  // namespace
}  // namespace weighbridge
