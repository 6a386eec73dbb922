#include "tensor/compare.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "tensor/compare_kernel.h"
#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

// Bytes with an owner, from a list of patterns.
struct Buffer {
  std::vector<std::byte> bytes;
  DType dtype;
  int64_t count;
  size_t shift = 0;
  TensorView view() const { return {dtype, {count}, std::span(bytes).subspan(shift)}; }
};

template <typename T>
Buffer Make(DType dtype, const std::vector<T>& values, size_t shift = 0) {
  Buffer b{std::vector<std::byte>(shift + values.size() * sizeof(T)), dtype,
           static_cast<int64_t>(values.size()), shift};
  if (!values.empty())
    std::memcpy(b.bytes.data() + shift, values.data(), values.size() * sizeof(T));
  return b;
}

// The definition of compare.h, one pair at a time, with nothing clever.
struct Reference {
  long double sum = 0, sum_magnitude = 0, dot = 0, dot_magnitude = 0, e2 = 0, a2 = 0;
  double max = 0, relative = 0;
  uint64_t ulp = 0;
  int64_t mismatched = 0, non_finite = 0, non_finite_mismatched = 0, nan = 0, inf = 0, first = -1;
};

Reference Naive(const Buffer& e, const Buffer& a, Tolerance t) {
  Reference r;
  for (int64_t i = 0; i < e.count; ++i) {
    const uint64_t re = RawBits(e.dtype, e.view().bytes.data(), static_cast<size_t>(i));
    const uint64_t ra = RawBits(a.dtype, a.view().bytes.data(), static_cast<size_t>(i));
    const double x = BitsToDouble(e.dtype, re), y = BitsToDouble(a.dtype, ra);
    const bool finite = std::isfinite(x) && std::isfinite(y);
    bool same = e.dtype == a.dtype ? re == ra
                                   : (std::isnan(x) && std::isnan(y)) ||
                                         (x == y && std::signbit(x) == std::signbit(y));
    const double diff = std::fabs(x - y);
    if (!same && finite && !t.bitwise()) same = diff <= t.atol + t.rtol * std::fabs(x);
    if (!same && r.first < 0) r.first = i;
    r.mismatched += !same;
    if (!finite) {
      ++r.non_finite;
      r.non_finite_mismatched += !same;
      r.nan += std::isnan(x) || std::isnan(y);
      r.inf += std::isinf(x) || std::isinf(y);
      continue;
    }
    r.sum += diff;
    r.dot += static_cast<long double>(x) * y;
    r.dot_magnitude += std::fabs(static_cast<long double>(x) * y);
    r.e2 += static_cast<long double>(x) * x;
    r.a2 += static_cast<long double>(y) * y;
    r.max = std::max(r.max, diff);
    if (x != 0) r.relative = std::max(r.relative, diff / std::fabs(x));
    const DType unit = e.dtype == a.dtype ? e.dtype : DType::kF32;
    const uint64_t ulp = e.dtype == a.dtype
                             ? *UlpDistance(unit, re, ra)
                             : *UlpDistance(unit, std::bit_cast<uint32_t>(static_cast<float>(x)),
                                            std::bit_cast<uint32_t>(static_cast<float>(y)));
    r.ulp = std::max(r.ulp, ulp);
  }
  return r;
}

// The bound that compare.h states.
bool Near(double actual, long double expected, long double magnitude) {
  return std::fabs(static_cast<long double>(actual) - expected) <= 520 * 0x1p-53L * magnitude;
}

void ExpectAgrees(const ElementStats& s, const Reference& r) {
  RC_ASSERT(s.max_abs_diff == r.max);
  RC_ASSERT(s.finite_max_relative == r.relative);
  RC_ASSERT(s.max_ulp == r.ulp);
  RC_ASSERT(s.mismatched == r.mismatched);
  RC_ASSERT(s.non_finite == r.non_finite);
  RC_ASSERT(s.non_finite_mismatched == r.non_finite_mismatched);
  RC_ASSERT(s.nan_count == r.nan);
  RC_ASSERT(s.inf_count == r.inf);
  RC_ASSERT(s.first_mismatch == r.first);
  RC_ASSERT(Near(s.sum_abs_diff.value(), r.sum, r.sum));
  RC_ASSERT(Near(s.dot.value(), r.dot, r.dot_magnitude));
  RC_ASSERT(Near(s.norm2_expected.value(), r.e2, r.e2));
  RC_ASSERT(Near(s.norm2_actual.value(), r.a2, r.a2));
}

bool SameBits(const ElementStats& a, const ElementStats& b) {
  const auto bits = [](const ElementStats& s) {
    return std::vector<uint64_t>{std::bit_cast<uint64_t>(s.sum_abs_diff.value()),
                                 std::bit_cast<uint64_t>(s.dot.value()),
                                 std::bit_cast<uint64_t>(s.norm2_expected.value()),
                                 std::bit_cast<uint64_t>(s.norm2_actual.value()),
                                 std::bit_cast<uint64_t>(s.max_abs_diff),
                                 std::bit_cast<uint64_t>(s.finite_max_relative),
                                 s.max_ulp,
                                 static_cast<uint64_t>(s.mismatched),
                                 static_cast<uint64_t>(s.nan_count),
                                 static_cast<uint64_t>(s.inf_count),
                                 static_cast<uint64_t>(s.first_mismatch)};
  };
  return bits(a) == bits(b);
}

// A pattern that is often special: zero, subnormal, infinite, NaN, or near `near`.
template <typename T>
T AnyPattern(DType dtype, T near) {
  const uint64_t infinity = dtype == DType::kBF16  ? 0x7f80
                            : dtype == DType::kF16 ? 0x7c00
                                                   : 0x7f800000;
  switch (*rc::gen::inRange(0, 12)) {
    case 0:
      return static_cast<T>(0);
    case 1:
      return static_cast<T>(uint64_t{1} << (BitsOf(dtype) - 1));
    case 2:
      return static_cast<T>(*rc::gen::inRange(1, 16));
    case 3:
      return static_cast<T>(infinity);
    case 4:
      return static_cast<T>(infinity + 1);
    case 5:
      return static_cast<T>(*rc::gen::arbitrary<T>());
    default:
      return static_cast<T>(near + *rc::gen::inRange(0, 3));
  }
}

template <typename T>
void CheckKernels(DType dtype) {
  const auto length = static_cast<size_t>(*rc::gen::inRange(0, 300));
  const size_t repeats = *rc::gen::element<size_t>(1, 1, 1, 41);
  const bool special = *rc::gen::arbitrary<bool>();
  std::vector<T> e, a;
  for (size_t i = 0; i < length; ++i) {
    const T x = special ? AnyPattern<T>(dtype, *rc::gen::arbitrary<T>()) : *rc::gen::arbitrary<T>();
    e.push_back(x);
    a.push_back(special ? AnyPattern<T>(dtype, x)
                        : static_cast<T>(x + *rc::gen::element(0, 0, 1, 3)));
  }
  // Longer than one chunk, so that chunks are joined.
  const std::vector<T> e_once = e, a_once = a;
  for (size_t k = 1; k < repeats; ++k) {
    e.insert(e.end(), e_once.begin(), e_once.end());
    a.insert(a.end(), a_once.begin(), a_once.end());
  }
  const Buffer expected = Make(dtype, e, static_cast<size_t>(*rc::gen::inRange(0, 64)));
  const Buffer actual = Make(dtype, a, static_cast<size_t>(*rc::gen::inRange(0, 64)));
  const Tolerance tolerance = *rc::gen::element<Tolerance>(
      Tolerance{}, Tolerance{1e-3, 0}, Tolerance{0, 0.01}, Tolerance{0.5, 1e-6});
  const Reference reference = Naive(expected, actual, tolerance);
  const ElementStats scalar = internal::CompareBlockWith(
      internal::ScalarKernels(), expected.view(), actual.view(), 0, expected.count, tolerance);
  ExpectAgrees(scalar, reference);
  for (auto* kernels = internal::AvailableKernels(); *kernels != nullptr; ++kernels) {
    const ElementStats stats = internal::CompareBlockWith(**kernels, expected.view(), actual.view(),
                                                          0, expected.count, tolerance);
    RC_ASSERT(SameBits(stats, scalar));
  }
}

RC_GTEST_PROP(CompareKernels, GiveTheBitsOfTheNaiveReferenceForF32, ()) {
  CheckKernels<uint32_t>(DType::kF32);
}
RC_GTEST_PROP(CompareKernels, GiveTheBitsOfTheNaiveReferenceForBF16, ()) {
  CheckKernels<uint16_t>(DType::kBF16);
}
RC_GTEST_PROP(CompareKernels, GiveTheBitsOfTheNaiveReferenceForF16, ()) {
  CheckKernels<uint16_t>(DType::kF16);
}
RC_GTEST_PROP(CompareElements, GivesTheBitsOfTheNaiveReferenceForEveryOtherDType, ()) {
  const DTypeInfo info =
      *rc::gen::elementOf(std::vector<DTypeInfo>(AllDTypes().begin(), AllDTypes().end()));
  RC_PRE(info.kind != DTypeClass::kComplex && info.dtype != DType::kI64 &&
         info.dtype != DType::kU64 && info.dtype != DType::kF64);
  const int64_t count = 8 * *rc::gen::inRange(1, 30);
  const auto size = static_cast<size_t>(*BytesFor(info.dtype, count));
  const auto bytes = *rc::gen::container<std::vector<uint8_t>>(size, rc::gen::arbitrary<uint8_t>());
  auto other = bytes;
  other[static_cast<size_t>(*rc::gen::inRange<int>(0, static_cast<int>(size)))] ^= 0x41;
  Buffer e = Make(info.dtype, bytes), a = Make(info.dtype, other);
  e.count = a.count = count;
  const Tolerance tolerance = *rc::gen::element<Tolerance>(Tolerance{}, Tolerance{0.25, 0.01});
  ExpectAgrees(CompareElements(e.view(), a.view(), tolerance), Naive(e, a, tolerance));
}
RC_GTEST_PROP(CompareElements, GivesTheBitsOfTheNaiveReferenceForTwoDTypes, ()) {
  const auto length = static_cast<size_t>(*rc::gen::inRange(1, 200));
  std::vector<uint16_t> e;
  std::vector<float> a;
  const DType dtype = *rc::gen::element(DType::kBF16, DType::kF16);
  for (size_t i = 0; i < length; ++i) {
    e.push_back(AnyPattern<uint16_t>(dtype, *rc::gen::arbitrary<uint16_t>()));
    const auto same = static_cast<float>(BitsToDouble(dtype, e.back()));
    a.push_back(*rc::gen::element(same, same, same * 1.001f, std::bit_cast<float>(0xffc00001u)));
  }
  const Buffer expected = Make(dtype, e), actual = Make(DType::kF32, a);
  ExpectAgrees(CompareElements(expected.view(), actual.view()), Naive(expected, actual, {}));
}

TEST(CompareElements, LeavesEqualBytesUncomputed) {
  const std::vector<float> values = {1, std::numeric_limits<float>::quiet_NaN(), 3};
  const Buffer e = Make(DType::kF32, values), a = Make(DType::kF32, values);
  const ElementStats s = CompareElements(e.view(), a.view());
  EXPECT_EQ(s.mismatched, 0);
  EXPECT_EQ(s.nan_count, 0);
  EXPECT_EQ(s.cosine(), 1);
  EXPECT_EQ(s.max_diff(), 0);
  EXPECT_EQ(CompareElements(e.view(), a.view(), {}, 1, true).nan_count, 1);
}

TEST(CompareElements, ReportsNoNumberWhereANanMeetsANumber) {
  const Buffer e = Make<float>(DType::kF32, {1, 2, 3});
  const Buffer a = Make<float>(DType::kF32, {1, std::numeric_limits<float>::quiet_NaN(), 5});
  const ElementStats s = CompareElements(e.view(), a.view());
  EXPECT_TRUE(std::isnan(s.max_diff()));
  EXPECT_TRUE(std::isnan(s.mean_diff()));
  EXPECT_TRUE(std::isnan(s.cosine()));
  EXPECT_TRUE(std::isnan(s.max_relative()));
  EXPECT_EQ(s.max_abs_diff, 2);
  EXPECT_EQ(s.mismatched, 2);
  EXPECT_EQ(s.first_mismatch, 1);
}

TEST(CompareElements, KeepsZerosOfOtherSignApartUnlessATolerancePermits) {
  const Buffer e = Make<float>(DType::kF32, {0.0f}), a = Make<float>(DType::kF32, {-0.0f});
  EXPECT_EQ(CompareElements(e.view(), a.view()).mismatched, 1);
  EXPECT_EQ(CompareElements(e.view(), a.view()).max_diff(), 0);
  EXPECT_EQ(CompareElements(e.view(), a.view(), {1e-9, 0}).mismatched, 0);
}

TEST(CompareElements, SeesADifferenceOfOneInLargeSixtyFourBitIntegers) {
  const Buffer e = Make<int64_t>(DType::kI64, {int64_t{1} << 60});
  const Buffer a = Make<int64_t>(DType::kI64, {(int64_t{1} << 60) + 1});
  EXPECT_EQ(CompareElements(e.view(), a.view()).max_diff(), 1);
  const Buffer f = Make<double>(DType::kF64, {0x1p60});
  EXPECT_EQ(CompareElements(e.view(), f.view()).mismatched, 0);
  EXPECT_EQ(CompareElements(a.view(), f.view()).mismatched, 1);
}

TEST(CompareElements, KnowsTheCosineOfPerpendicularOppositeAndZeroVectors) {
  const Buffer x = Make<double>(DType::kF64, {1, 0}), y = Make<double>(DType::kF64, {0, 2});
  const Buffer minus = Make<double>(DType::kF64, {-3, 0}), zero = Make<double>(DType::kF64, {0, 0});
  EXPECT_EQ(CompareElements(x.view(), y.view()).cosine(), 0);
  EXPECT_EQ(CompareElements(x.view(), minus.view()).cosine(), -1);
  EXPECT_EQ(CompareElements(x.view(), zero.view()).cosine(), 0);
}

TEST(CompareElements, GivesTheSameBitsForEveryNumberOfThreads) {
  std::vector<float> e(static_cast<size_t>(kCompareBlock * 3 + 777)), a(e.size());
  uint32_t state = 1;
  for (size_t i = 0; i < e.size(); ++i) {
    state = state * 1664525 + 1013904223;
    e[i] = static_cast<float>(state >> 8) * 0x1p-24f - 0.5f;
    a[i] = e[i] * 1.0001f;
  }
  const Buffer expected = Make(DType::kF32, e), actual = Make(DType::kF32, a);
  const ElementStats one = CompareElements(expected.view(), actual.view(), {}, 1);
  for (int threads : {2, 3, 8}) {
    EXPECT_TRUE(SameBits(CompareElements(expected.view(), actual.view(), {}, threads), one));
  }
  EXPECT_NEAR(one.max_relative(), 1e-4, 1e-6);
}

TEST(CompareElements, LetsNothingPassAToleranceThatIsNoNumber) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const auto check = [](const Buffer& e, const Buffer& a) {
    for (const Tolerance t : {Tolerance{kNan, 0}, Tolerance{0, kNan}, Tolerance{kInfinity, 0},
                              Tolerance{0, kInfinity}, Tolerance{-1, 0}}) {
      for (auto* kernels = internal::AvailableKernels(); *kernels != nullptr; ++kernels) {
        const auto stats = internal::CompareBlockWith(**kernels, e.view(), a.view(), 0, e.count, t);
        EXPECT_GE(stats.mismatched, 2) << (*kernels)->name << " " << t.atol << " " << t.rtol;
      }
      EXPECT_FALSE(PairMatches(e.dtype, 0, a.dtype, 1, t));
    }
  };
  check(Make<float>(DType::kF32, {1, 2, 3}), Make<float>(DType::kF32, {1, 2.5f, 4}));
  check(Make<double>(DType::kF64, {1, 2, 3}), Make<double>(DType::kF64, {1, 2.5, 4}));
  check(Make<uint16_t>(DType::kBF16, {1, 2, 3}), Make<uint16_t>(DType::kBF16, {1, 5, 9}));
}

TEST(CompareElements, GivesNoCosineWhereSquaresLeaveTheRangeOfFloat64) {
  for (const double scale : {1e-200, 1e-160, 1e160, 1e300}) {
    const auto stats = CompareElements(Make<double>(DType::kF64, {scale, 2 * scale}).view(),
                                       Make<double>(DType::kF64, {-scale, -2 * scale}).view());
    EXPECT_TRUE(std::isnan(stats.cosine())) << scale << ": " << stats.cosine();
  }
  // A few tiny values among others change nothing.
  const auto mixed = CompareElements(Make<double>(DType::kF64, {1e-200, 1}).view(),
                                     Make<double>(DType::kF64, {-1e-200, -1}).view());
  EXPECT_EQ(mixed.cosine(), -1);
  const auto zero = CompareElements(Make<double>(DType::kF64, {0, 0}).view(),
                                    Make<double>(DType::kF64, {1, 0}).view());
  EXPECT_EQ(zero.cosine(), 0);
}

}  // namespace
}  // namespace weighbridge
