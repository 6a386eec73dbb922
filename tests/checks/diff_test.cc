#include "checks/diff.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "checks/memory_checkpoint.h"
#include "tensor/float_bits.h"
#include "weighbridge/compare.h"

namespace weighbridge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Values that no narrower dtype holds.
std::vector<float> Values(size_t count, uint32_t seed = 1) {
  std::vector<float> out(count);
  for (float& v : out) {
    seed = seed * 1664525 + 1013904223;
    v = static_cast<float>(seed >> 8) * 0x1p-24f - 0.5f;
  }
  return out;
}

std::vector<uint16_t> RoundedTo(DType dtype, const std::vector<float>& values) {
  std::vector<uint16_t> out;
  for (float v : values) out.push_back(static_cast<uint16_t>(*RoundToBits(dtype, v)));
  return out;
}

MemoryCheckpoint One(const std::vector<float>& values) {
  MemoryCheckpoint c;
  c.Add("w", DType::kF32, {static_cast<int64_t>(values.size())}, values);
  return c;
}

Report DiffOf(const Checkpoint& a, const Checkpoint& b, DiffOptions options = {}) {
  return Diff(a, b, options);
}

std::string OnlyCause(const Report& report) {
  return report.causes.size() == 1 ? report.causes[0].id : "";
}

TEST(Diff, PassesEqualCheckpoints) {
  const MemoryCheckpoint a = One(Values(1000)), b = One(Values(1000));
  const Report report = DiffOf(a, b);
  EXPECT_EQ(report.verdict, Verdict::kPass);
  EXPECT_EQ(report.counts.passed, 1);
  EXPECT_EQ(report.results[0].status, RowStatus::kMatch);
  EXPECT_EQ(report.bytes, 8000u);
}

TEST(Diff, IsUndecidedWhenNothingIsCompared) {
  EXPECT_EQ(DiffOf(MemoryCheckpoint(), MemoryCheckpoint()).verdict, Verdict::kUndecided);
  const MemoryCheckpoint a = One(Values(10));
  const Report skipped = DiffOf(a, a, {.allow_skip = {"w"}});
  EXPECT_EQ(skipped.verdict, Verdict::kUndecided);
  EXPECT_EQ(skipped.error->id, "nothing-compared");
}

TEST(Diff, NamesMissingExtraAndReshapedTensors) {
  MemoryCheckpoint a = One(Values(6)), b = One(Values(6));
  a.Add<float>("gone", DType::kF32, {1}, {1}).Add<float>("turned", DType::kF32, {2, 1}, {1, 2});
  b.Add<float>("new", DType::kF32, {1}, {1}).Add<float>("turned", DType::kF32, {1, 2}, {1, 2});
  const Report report = DiffOf(a, b);
  ASSERT_EQ(report.results.size(), 4u);
  EXPECT_EQ(report.results[0].status, RowStatus::kMissing);
  EXPECT_EQ(report.results[1].status, RowStatus::kExtra);
  EXPECT_EQ(report.results[2].status, RowStatus::kMismatch);
  EXPECT_EQ(report.results[2].why, "shape [2, 1] against [1, 2]");
  std::vector<std::string> ids;
  for (const Cause& cause : report.causes) ids.push_back(cause.id);
  EXPECT_THAT(ids, ElementsAre("shape-mismatch", "tensor-extra", "tensor-missing"));
}

TEST(Diff, LocatesOneFlippedBitWithBothValues) {
  std::vector<float> values = Values(640);
  values[131] = 0.5f;
  MemoryCheckpoint a, b;
  a.Add("w", DType::kF32, {10, 64}, values);
  values[131] = 0.25f;
  b.Add("w", DType::kF32, {10, 64}, values);
  const Report report = DiffOf(a, b);
  EXPECT_EQ(OnlyCause(report), "bit-flip");
  EXPECT_EQ(report.causes[0].proof, Proof::kStatistical);
  EXPECT_THAT(report.causes[0].evidence, HasSubstr("[2, 3]: 0.5 (0x3f000000) became 0.25 "));
  const ResultRow& row = report.results[0];
  EXPECT_EQ(row.metrics.mismatched, 1);
  EXPECT_EQ(row.metrics.max_diff, 0.25);
  EXPECT_THAT(row.first->hf_index, ElementsAre(2, 3));
  EXPECT_EQ(row.first->actual, "0.25 (0x3e800000)");
}

TEST(Diff, DoesNotCallNeighboursOrManyChangesABitFlip) {
  std::vector<float> neighbours = Values(6400), many = Values(6400);
  for (size_t i : {100u, 101u}) neighbours[i] = -neighbours[i];
  for (size_t i = 0; i < 9; ++i) many[i * 20] = -many[i * 20];
  const MemoryCheckpoint a = One(Values(6400));
  EXPECT_EQ(OnlyCause(DiffOf(a, One(neighbours))), "unexplained");
  EXPECT_EQ(OnlyCause(DiffOf(a, One(many))), "unexplained");
}

TEST(Diff, NamesTheDTypeThroughWhichValuesWentEvenWhenTheyAreStoredWide) {
  const std::vector<float> values = Values(3000);
  MemoryCheckpoint narrow, wide;
  narrow.Add("w", DType::kBF16, {3000}, RoundedTo(DType::kBF16, values));
  std::vector<float> widened;
  for (uint16_t raw : RoundedTo(DType::kF16, values)) {
    widened.push_back(static_cast<float>(BitsToDouble(DType::kF16, raw)));
  }
  const MemoryCheckpoint a = One(values);
  const Report stored_narrow = DiffOf(a, narrow);
  EXPECT_EQ(OnlyCause(stored_narrow), "dtype-rounded");
  EXPECT_THAT(stored_narrow.causes[0].message, HasSubstr("of the second went through bf16"));
  const Report reverse = DiffOf(narrow, a);
  EXPECT_EQ(OnlyCause(reverse), "dtype-rounded");
  EXPECT_THAT(reverse.causes[0].message, HasSubstr("of the first went through bf16"));
  const Report stored_wide = DiffOf(a, One(widened));
  EXPECT_EQ(OnlyCause(stored_wide), "dtype-rounded");
  EXPECT_THAT(stored_wide.causes[0].evidence, HasSubstr("in fp16 and stored as fp32"));
}

TEST(Diff, DoesNotCallTruncationRounding) {
  std::vector<uint16_t> truncated;
  for (float v : Values(3000)) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    truncated.push_back(static_cast<uint16_t>(bits >> 16));
  }
  MemoryCheckpoint b;
  b.Add("w", DType::kBF16, {3000}, truncated);
  EXPECT_EQ(OnlyCause(DiffOf(One(Values(3000)), b)), "unexplained");
}

TEST(Diff, AcceptsALosslessWideningAndSaysSo) {
  const std::vector<uint16_t> half = RoundedTo(DType::kBF16, Values(500));
  std::vector<float> widened;
  for (uint16_t raw : half) widened.push_back(static_cast<float>(BitsToDouble(DType::kBF16, raw)));
  MemoryCheckpoint a;
  a.Add("w", DType::kBF16, {500}, half);
  const Report report = DiffOf(a, One(widened));
  EXPECT_EQ(report.verdict, Verdict::kPass);
  EXPECT_EQ(report.results[0].status, RowStatus::kMatchWidened);
}

TEST(Diff, NamesZeroFilledAndNotFiniteTensors) {
  std::vector<float> zero(500), nan = Values(500);
  for (size_t i = 0; i < 20; ++i) nan[i] = std::numeric_limits<float>::quiet_NaN();
  const MemoryCheckpoint a = One(Values(500));
  EXPECT_EQ(OnlyCause(DiffOf(a, One(zero))), "zero-filled");
  const Report report = DiffOf(a, One(nan));
  EXPECT_EQ(OnlyCause(report), "not-finite");
  EXPECT_TRUE(std::isnan(report.results[0].metrics.max_diff));
  EXPECT_EQ(report.results[0].metrics.nan_count, 20);
  // NaN on the expected side only is not something that the other side introduced.
  EXPECT_EQ(OnlyCause(DiffOf(One(nan), a)), "unexplained");
}

TEST(Diff, AcceptsWhatTheToleranceAccepts) {
  std::vector<float> near = Values(500);
  for (float& v : near) v *= 1.0001f;
  const MemoryCheckpoint a = One(Values(500)), b = One(near);
  EXPECT_EQ(DiffOf(a, b, {.tolerance = {0, 1e-3}}).verdict, Verdict::kPass);
  EXPECT_EQ(DiffOf(a, b, {.tolerance = {0, 1e-5}}).verdict, Verdict::kFail);
}

TEST(Diff, CountsExtraStateInANoteAndNotInARow) {
  MemoryCheckpoint a = One(Values(10)), b = One(Values(10));
  a.Add<uint8_t>("attn._extra_state", DType::kU8, {1}, {1});
  const Report report = DiffOf(a, b);
  EXPECT_EQ(report.counts.total, 1);
  EXPECT_EQ(report.verdict, Verdict::kPass);
  ASSERT_EQ(report.notes.size(), 1u);
}

TEST(Diff, GivesTheSameFiguresForEveryNumberOfThreads) {
  const size_t count = static_cast<size_t>(2 * kCompareBlock + 5);
  const MemoryCheckpoint a = One(Values(count)), b = One(Values(count, 2));
  const Report one = DiffOf(a, b, {.threads = 1}), four = DiffOf(a, b, {.threads = 4});
  EXPECT_EQ(one.results[0].metrics.mean_diff, four.results[0].metrics.mean_diff);
  EXPECT_EQ(one.results[0].metrics.cosine, four.results[0].metrics.cosine);
  EXPECT_EQ(one.results[0].metrics.max_ulp, four.results[0].metrics.max_ulp);
}

TEST(CompareTensors, SaysWhereAndByHowMuch) {
  MemoryCheckpoint a, b;
  a.Add<float>("w", DType::kF32, {2, 2}, {1, 2, 3, 4});
  b.Add<float>("w", DType::kF32, {2, 2}, {1, 2, 3.5f, 4});
  const TensorComparison c = CompareTensors(a.View(a.tensors()[0]), b.View(b.tensors()[0]));
  EXPECT_FALSE(c.equal);
  EXPECT_EQ(c.metrics.max_diff, 0.5);
  EXPECT_THAT(*c.first_index, ElementsAre(1, 0));
  EXPECT_EQ(c.first_expected, "3 (0x40400000)");
  EXPECT_THAT(c.message, HasSubstr("1 of 4 values differ, max_diff 0.5"));
  EXPECT_TRUE(CompareTensors(a.View(a.tensors()[0]), b.View(b.tensors()[0]), {.atol = 0.5}).equal);
}

TEST(CompareStateDicts, SaysThatAllParametersMatchExactly) {
  MemoryCheckpoint a = One(Values(10));
  a.Add<float>("b", DType::kF32, {1}, {1});
  const StateDictComparison c = CompareStateDicts(a, a);
  EXPECT_TRUE(c.equal);
  EXPECT_EQ(c.summary, "All 2 parameters match exactly.");
}

TEST(CompareStateDicts, ListsMissingExtraAndTheWorstDifferenceFirst) {
  MemoryCheckpoint a, b;
  a.Add<float>("p", DType::kF32, {1}, {1}).Add<float>("q", DType::kF32, {1}, {1});
  a.Add<float>("only_a", DType::kF32, {1}, {1});
  b.Add<float>("p", DType::kF32, {1}, {1.5f}).Add<float>("q", DType::kF32, {1}, {5});
  b.Add<float>("only_b", DType::kF32, {1}, {1});
  const StateDictComparison c = CompareStateDicts(a, b);
  EXPECT_FALSE(c.equal);
  EXPECT_THAT(c.missing, ElementsAre("only_a"));
  EXPECT_THAT(c.extra, ElementsAre("only_b"));
  ASSERT_EQ(c.differences.size(), 2u);
  EXPECT_EQ(c.differences[0].name, "q");
  EXPECT_EQ(c.differences[0].max_diff, 4);
}

TEST(CompareStateDicts, NeverCallsNothingEqual) {
  EXPECT_FALSE(CompareStateDicts(MemoryCheckpoint(), MemoryCheckpoint()).equal);
}

TEST(Diff, CallsANarrowerDTypeWithEqualValuesAMatchButNotWidened) {
  const std::vector<uint16_t> half = RoundedTo(DType::kBF16, Values(500));
  std::vector<float> widened;
  for (uint16_t raw : half) widened.push_back(static_cast<float>(BitsToDouble(DType::kBF16, raw)));
  MemoryCheckpoint b;
  b.Add("w", DType::kBF16, {500}, half);
  const Report report = DiffOf(One(widened), b);
  EXPECT_EQ(report.verdict, Verdict::kPass);
  EXPECT_EQ(report.results[0].status, RowStatus::kMatch);
  ASSERT_EQ(report.notes.size(), 1u);
  EXPECT_EQ(report.notes[0].id, "match-narrowed");
}

TEST(Diff, SaysWhichTolerancesWereInForce) {
  const MemoryCheckpoint a = One(Values(5));
  DiffOptions options;
  options.tolerance = {0.5, 0.25};
  using Pairs = std::vector<std::pair<std::string, double>>;
  EXPECT_EQ(Diff(a, a, options).tolerances, (Pairs{{"atol", 0.5}, {"rtol", 0.25}}));
  EXPECT_EQ(Diff(a, a, {}).tolerances, (Pairs{{"atol", 0}, {"rtol", 0}}));
}

TEST(Diff, ComparesNothingWhereNoTensorHasAnElement) {
  MemoryCheckpoint a;
  a.Add("w", DType::kF32, {0, 4}, std::vector<float>());
  const Report report = DiffOf(a, a);
  EXPECT_EQ(report.verdict, Verdict::kUndecided);
  EXPECT_EQ(report.error->id, "nothing-compared");
  a.Add("x", DType::kF32, {1}, std::vector<float>{1});
  EXPECT_EQ(DiffOf(a, a).verdict, Verdict::kPass);
}

}  // namespace
}  // namespace weighbridge
