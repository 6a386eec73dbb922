// How tensors are cut over ranks and joined again, against plain index arithmetic.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <numeric>
#include <vector>

#include "mapping/plan.h"
#include "mapping/plan_bytes.h"
#include "mapping/sharding.h"

namespace weighbridge {
namespace {

struct Sample {
  Shape shape;
  TensorCut cut;
  int ranks = 1;
  int64_t element = 1;
};

Sample AnySample() {
  Sample s;
  s.ranks = *rc::gen::inRange(1, 6);
  s.element = *rc::gen::element<int64_t>(1, 2, 4, 8);
  s.shape =
      *rc::gen::container<Shape>(*rc::gen::inRange<size_t>(1, 4), rc::gen::inRange<int64_t>(1, 5));
  s.cut.axis = *rc::gen::inRange(-1, static_cast<int>(s.shape.size()));
  if (s.cut.replicated()) return s;
  s.shape[static_cast<size_t>(s.cut.axis)] *= s.ranks;
  if (s.cut.axis == 0 && *rc::gen::arbitrary<bool>()) {
    const auto each = *rc::gen::container<std::vector<int64_t>>(*rc::gen::inRange<size_t>(1, 6),
                                                                rc::gen::inRange<int64_t>(0, 4));
    for (int64_t n : each) s.cut.components.push_back(n * s.ranks);
    s.shape[0] = std::accumulate(s.cut.components.begin(), s.cut.components.end(), int64_t{0});
    RC_PRE(s.shape[0] > 0);
  }
  return s;
}

// Global element numbers that rank `rank` holds, in its order.
Origins NaiveCut(const Sample& s, int rank) {
  Origins out;
  const size_t axis = s.cut.replicated() ? 0 : static_cast<size_t>(s.cut.axis);
  int64_t inner = 1, outer = 1;
  for (size_t i = axis + 1; i < s.shape.size(); ++i) inner *= s.shape[i];
  for (size_t i = 0; i < axis; ++i) outer *= s.shape[i];
  const int64_t extent = s.shape[axis];
  std::vector<int64_t> indexes;  // along the axis
  if (s.cut.replicated()) {
    for (int64_t i = 0; i < extent; ++i) indexes.push_back(i);
  } else {
    const auto parts = s.cut.components.empty() ? std::vector<int64_t>{extent} : s.cut.components;
    int64_t begin = 0;
    for (int64_t part : parts) {
      for (int64_t i = 0; i < part; ++i) {
        if (i / (part / s.ranks) == rank) indexes.push_back(begin + i);
      }
      begin += part;
    }
  }
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t i : indexes) {
      for (int64_t k = 0; k < inner; ++k) out.push_back({0, (o * extent + i) * inner + k});
    }
  }
  return out;
}

RC_GTEST_PROP(Cut, EachRankHoldsWhatIndexArithmeticSays, ()) {
  const Sample s = AnySample();
  RC_ASSERT(CheckCut(s.shape, s.cut, s.ranks).has_value());
  RC_CLASSIFY(!s.cut.components.empty(), "packed");
  for (int rank = 0; rank < s.ranks; ++rank) {
    const Layout cut = CutLayout(s.shape, s.cut, s.ranks, rank);
    RC_ASSERT(cut.shape() == CutShape(s.shape, s.cut, s.ranks));
    const auto plan = CompileByTarget(cut, s.element);
    RC_ASSERT(plan.has_value());
    RC_ASSERT(BytesOf(*plan) == Widen(NaiveCut(s, rank), s.element));
  }
}

RC_GTEST_PROP(Cut, JoiningRestoresTheTensor, ()) {
  const Sample s = AnySample();
  const Layout join = JoinLayout(s.shape, s.cut, s.ranks);
  const Shape local = CutShape(s.shape, s.cut, s.ranks);
  RC_ASSERT(join.shape() == s.shape);
  const int ranks = s.cut.replicated() ? 1 : s.ranks;
  const std::vector<SourceExtent> extents(static_cast<size_t>(ranks), {0, Numel(local)});
  RC_ASSERT(ProveBijection(join, extents).has_value());
  const Origins joined = ElementsOf(join.Pieces(), Numel(s.shape));
  for (size_t i = 0; i < joined.size(); ++i) {
    RC_ASSERT(joined[i].other >= 0 && joined[i].other < ranks);
    const Origins held = NaiveCut(s, joined[i].other);
    RC_ASSERT(held[static_cast<size_t>(joined[i].offset)].offset == static_cast<int64_t>(i));
  }
}

RC_GTEST_PROP(Cut, CompositionOfCutAndJoinIsTheIdentity, ()) {
  const Sample s = AnySample();
  const Layout join = JoinLayout(s.shape, s.cut, s.ranks);
  const auto join_plan = CompileByTarget(join, s.element);
  RC_ASSERT(join_plan.has_value());
  const int ranks = s.cut.replicated() ? 1 : s.ranks;
  for (int rank = 0; rank < ranks; ++rank) {
    // Rank's bytes -> global bytes -> (rank, byte): the same byte of the same rank.
    const auto cut = CompileByTarget(CutLayout(s.shape, s.cut, s.ranks, rank), s.element);
    const Origins there_and_back = BytesOf(Compose(*cut, *join_plan));
    RC_ASSERT(there_and_back.size() == static_cast<size_t>(cut->bytes()));
    for (size_t i = 0; i < there_and_back.size(); ++i) {
      RC_ASSERT(there_and_back[i] == (Origin{rank, static_cast<int64_t>(i)}));
    }
    // Walking the join from the rank's side says the same as the cut.
    const auto back =
        CompileBySource(join, rank, {0, Numel(CutShape(s.shape, s.cut, s.ranks))}, s.element);
    RC_ASSERT(back.has_value());
    RC_ASSERT(BytesOf(*back) == BytesOf(*cut));
  }
}

TEST(Cut, GatedMlpOnTwoRanksHoldsGateAndUpOfEach) {
  const Shape shape = {8};
  const TensorCut cut{0, {4, 4}};
  const auto rows = [&](int rank) {
    std::vector<int64_t> out;
    for (const Origin& e : ElementsOf(CutLayout(shape, cut, 2, rank).Pieces(), 4))
      out.push_back(e.offset);
    return out;
  };
  EXPECT_EQ(rows(0), (std::vector<int64_t>{0, 1, 4, 5}));
  EXPECT_EQ(rows(1), (std::vector<int64_t>{2, 3, 6, 7}));
}

// MQA on four ranks: linear_qkv [(4 + 2) * 4, 1] is cut by rows, wherever the heads end.
TEST(Cut, FewerKeyHeadsThanRanksAreCutByRows) {
  const Shape shape = {24, 1};
  const TensorCut cut{0, {}};
  ASSERT_TRUE(CheckCut(shape, cut, 4));
  for (int rank = 0; rank < 4; ++rank) {
    const Origins held = ElementsOf(CutLayout(shape, cut, 4, rank).Pieces(), 6);
    for (int64_t i = 0; i < 6; ++i)
      EXPECT_EQ(held[static_cast<size_t>(i)], (Origin{0, 6 * rank + i}));
  }
}

TEST(Cut, SizesThatDoNotDivideAreUsageErrors) {
  const auto kind = [](const Shape& shape, const TensorCut& cut, int size) {
    const Status s = CheckCut(shape, cut, size);
    return s ? std::string("accepted") : s.error().id;
  };
  EXPECT_EQ(kind({6, 4}, {0, {}}, 4), "grid");
  EXPECT_EQ(kind({8, 6}, {1, {}}, 4), "grid");
  EXPECT_EQ(kind({8}, {0, {2, 6}}, 4), "grid");
  EXPECT_EQ(kind({8}, {0, {4, 4}}, 4), "accepted");
  EXPECT_EQ(kind({8}, {-1, {}}, 3), "accepted");
  EXPECT_EQ(CheckCut({6, 4}, {0, {}}, 4).error().kind, ErrorKind::kUsage);
  // The family is at fault, not the grid.
  EXPECT_EQ(kind({8}, {1, {}}, 2), "shape");
  EXPECT_EQ(kind({8}, {0, {4, 8}}, 2), "shape");
  EXPECT_EQ(kind({8}, {0, {12, -4}}, 2), "shape");
}

TEST(Cut, ARandomSizeIsRefusedExactlyWhenItDoesNotDivide) {
  for (int64_t rows = 1; rows <= 24; ++rows) {
    for (int size = 1; size <= 9; ++size) {
      EXPECT_EQ(CheckCut({rows, 3}, {0, {}}, size).has_value(), rows % size == 0);
      EXPECT_EQ(CheckCut({3, rows}, {1, {}}, size).has_value(), rows % size == 0);
      EXPECT_TRUE(CheckCut({rows, 3}, {-1, {}}, size));
    }
  }
}

// The rule of Megatron-Core's vocabulary: the smallest multiple of divisor * tp that holds it.
TEST(Cut, PaddedVocabularyIsTheSmallestMultipleThatTheRanksCanCut) {
  for (int64_t vocab = 1; vocab <= 700; ++vocab) {
    int64_t divisor = 1;
    while (divisor < 128 && vocab % (divisor * 2) == 0) divisor *= 2;
    for (int tp = 1; tp <= 8; ++tp) {
      int64_t padded = vocab;
      if (vocab % tp != 0) {
        while (padded % (divisor * tp) != 0) ++padded;
      }
      EXPECT_EQ(PaddedVocab(vocab, tp), padded) << vocab << " tp " << tp;
    }
  }
}

}  // namespace
}  // namespace weighbridge
