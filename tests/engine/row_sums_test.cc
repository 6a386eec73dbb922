#include "engine/forward/row_sums.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace weighbridge::engine {
namespace {

template <typename B>
void ExpectSums(int64_t count) {
  std::vector<float> a;
  std::vector<B> b;
  RowSums expected;
  for (int64_t i = 0; i < count; ++i) {
    a.push_back(static_cast<float>(std::sin(static_cast<double>(i))));
    b.push_back(static_cast<B>(a.back() + (i % 3 == 0 ? -0.25 : 0.125) * (i == 5 ? 4 : 1)));
    const double x = a.back(), y = b.back(), apart = std::abs(x - y);
    expected.apart += apart;
    expected.apart_squared += apart * apart;
    expected.apart_fourth += std::pow(apart, 4);
    expected.largest = std::max(expected.largest, apart);
    expected.product += x * y;
    expected.first += x * x;
    expected.second += y * y;
    expected.peak = std::max(expected.peak, std::abs(y));
  }
  const RowSums sums = SumsOfRow(a.data(), b.data(), count);
  const auto near = [&](double RowSums::*of) {
    EXPECT_NEAR(sums.*of, expected.*of, 1e-12 * (1 + std::abs(expected.*of))) << count;
  };
  for (double RowSums::*of : {&RowSums::apart, &RowSums::apart_squared, &RowSums::apart_fourth,
                              &RowSums::product, &RowSums::first, &RowSums::second}) {
    near(of);
  }
  EXPECT_EQ(sums.largest, expected.largest) << count;
  EXPECT_EQ(sums.peak, expected.peak) << count;
}

TEST(RowSums, AreThoseOfEveryElementWhateverTheLength) {
  for (const int64_t count : {0, 1, 3, 4, 5, 7, 8, 64, 1001}) {
    ExpectSums<float>(count);
    ExpectSums<double>(count);
  }
}

TEST(RowSums, KeepWhatIsNoNumberInWhicheverPlace) {
  for (size_t at = 0; at < 6; ++at) {
    std::vector<float> a(6, 1), b(6, 2);
    a[at] = std::numeric_limits<float>::quiet_NaN();
    const RowSums sums = SumsOfRow(a.data(), b.data(), 6);
    EXPECT_TRUE(std::isnan(sums.largest)) << at;
    EXPECT_TRUE(std::isnan(sums.apart)) << at;
    EXPECT_TRUE(std::isnan(sums.first)) << at;
    EXPECT_EQ(sums.peak, 2) << at;
  }
}

}  // namespace
}  // namespace weighbridge::engine
