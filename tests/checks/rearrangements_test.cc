#include "checks/diagnose/rearrangements.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "checks/diagnose/value_changes.h"
#include "mapping/plan.h"
#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

TensorForm Form(Shape shape, RowStructure rows) {
  TensorForm form;
  form.shape = std::move(shape);
  form.rows = std::move(rows);
  form.cut = {0, {}};
  form.tp_sizes = {2, 4};
  return form;
}

std::vector<TensorForm> Forms() {
  TensorForm conv = Form({12, 1, 4}, {RowKind::kPlain, 1, {{"rows", 12}}});
  conv.convolution = true;
  return {
      Form({4 * 20, 6}, {RowKind::kQkv, 4, {{"query", 12, 3, 4}, {"key", 4, 1, 4}, {"value", 4}}}),
      Form({4 * 20}, {RowKind::kQkv, 4, {{"query", 12, 3, 4}, {"key", 4, 1, 4}, {"value", 4}}}),
      Form({16, 8}, {RowKind::kGated, 1, {{"gate", 8}, {"up", 8}}}),
      Form({32, 8}, {RowKind::kPacked, 1, {{"z", 8}, {"x", 8}, {"B", 4}, {"C", 4}, {"dt", 8}}}),
      Form({3 * 22, 5}, {RowKind::kMlaQuery, 3, {{"nope", 14}, {"rope", 8, 1, 8}}}),
      Form({36, 5}, {RowKind::kLatent, 1, {{"latent", 28}, {"rope", 8, 1, 8}}}),
      Form({8, 8}, {RowKind::kPlain, 1, {{"rows", 8}}}),
      conv,
  };
}

TEST(Rearrangements, EachIsAPermutationThatIsNotTheIdentity) {
  for (const TensorForm& form : Forms()) {
    const int64_t numel = Numel(form.shape);
    const auto all = KnownRearrangements(form);
    ASSERT_FALSE(all.empty());
    for (const Rearrangement& r : all) {
      const PointMap map(r.pieces);
      std::set<int64_t> seen;
      bool moved = false;
      for (int64_t e = 0; e < numel; ++e) {
        seen.insert(map(e));
        moved = moved || map(e) != e;
      }
      EXPECT_EQ(static_cast<int64_t>(seen.size()), numel) << r.cause << " " << r.what;
      EXPECT_EQ(*seen.begin(), 0) << r.cause << " " << r.what;
      EXPECT_EQ(*seen.rbegin(), numel - 1) << r.cause << " " << r.what;
      EXPECT_TRUE(moved) << r.cause << " " << r.what;
    }
  }
}

TEST(Rearrangements, RunsOfAPlanAreWhatThePointsSay) {
  for (const TensorForm& form : Forms()) {
    for (const Rearrangement& r : KnownRearrangements(form)) {
      const PointMap map(r.pieces);
      const auto plan = CompileByTarget(r.pieces, Numel(form.shape), 2);
      ASSERT_TRUE(plan) << r.cause << " " << r.what;
      for (const weighbridge::Run& run : plan->runs()) {
        for (int64_t i = 0; i < run.count; ++i) {
          const int64_t target = run.offset + i * run.length;
          EXPECT_EQ(map(target / 2) * 2, run.other_offset + i * run.other_stride)
              << r.cause << " " << r.what;
        }
      }
    }
  }
}

TEST(Rearrangements, AQkvOfOneGroupCannotBeConcatenated) {
  const auto all = KnownRearrangements(
      Form({20, 6}, {RowKind::kQkv, 1, {{"query", 12, 3, 4}, {"key", 4, 1, 4}, {"value", 4}}}));
  EXPECT_TRUE(std::none_of(all.begin(), all.end(), [](const Rearrangement& r) {
    return r.cause == "qkv-concatenated" || r.cause == "qkv-head-order";
  }));
}

TEST(ScaleInterval, HoldsTheConstantThatGivesEveryRoundedValue) {
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal;
  for (const double constant : {0.25, 0.3535533905932738, -3.0, 1e-3}) {
    ScaleInterval interval(DType::kBF16);
    for (int i = 0; i < 4000; ++i) {
      const double x = BitsToDouble(DType::kBF16, *RoundToBits(DType::kBF16, normal(random)));
      ASSERT_TRUE(interval.Add(x, *RoundToBits(DType::kBF16, constant * x)));
    }
    ASSERT_TRUE(interval.Constant());
    EXPECT_NEAR(*interval.Constant() / constant, 1, 1e-4);
  }
}

TEST(ScaleInterval, IsEmptyForValuesThatNoConstantGives) {
  std::mt19937_64 random(2);
  std::normal_distribution<double> normal;
  ScaleInterval interval(DType::kBF16);
  bool holds = true;
  for (int i = 0; i < 16 && holds; ++i) {
    holds = interval.Add(normal(random), *RoundToBits(DType::kBF16, normal(random)));
  }
  EXPECT_FALSE(holds);
}

TEST(ValueChanges, ANormIsOffByOneEitherWayWhateverTheFamilyDoes) {
  for (const Op op : {Op::kNone, Op::kSubOne, Op::kAddOne}) {
    const auto changes = KnownValueChanges({op, DType::kBF16, DType::kBF16, true, false});
    const auto offsets = std::count_if(changes.begin(), changes.end(), [](const ValueChange& c) {
      return c.cause == "norm-offset";
    });
    EXPECT_GE(offsets, 2);
  }
  EXPECT_TRUE(KnownValueChanges({Op::kNone, DType::kI64, DType::kI64, false, false}).empty());
}

}  // namespace
}  // namespace weighbridge
