// ProveTiling and the Layout algebra against counting element by element.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <vector>

#include "mapping/layout.h"
#include "mapping/plan_bytes.h"

namespace weighbridge {
namespace {

// True when every element of [0, numel) is in exactly one piece and none lies outside.
bool TilesByCounting(const std::vector<StridedPiece>& pieces, Side side, int64_t numel) {
  std::vector<int> hits(static_cast<size_t>(numel), 0);
  for (const StridedPiece& piece : pieces) {
    std::vector<int64_t> at = {side == Side::kSource ? piece.source_offset : piece.target_offset};
    for (const StridedAxis& axis : piece.axes) {
      const int64_t stride = side == Side::kSource ? axis.source_stride : axis.target_stride;
      std::vector<int64_t> next;
      for (int64_t i = 0; i < axis.extent; ++i) {
        for (int64_t a : at) next.push_back(a + i * stride);
      }
      at = std::move(next);
    }
    for (int64_t a : at) {
      if (a < 0 || a >= numel || ++hits[static_cast<size_t>(a)] > 1) return false;
    }
  }
  return std::find(hits.begin(), hits.end(), 0) == hits.end();
}

// A layout of the given shape that is a bijection by construction, of a random structure.
Layout AnyLayout(int depth, int& sources, std::vector<int64_t>& numel, const Shape& shape) {
  int choice = depth == 0 ? 0 : *rc::gen::inRange(0, 5);
  const int axis = *rc::gen::inRange(0, static_cast<int>(shape.size()));
  const auto a = static_cast<size_t>(axis);
  if (choice == 1 && shape[a] < 2) choice = 0;
  if ((choice == 2 || choice == 4) && shape[a] % 2 != 0) choice = 0;
  if (choice == 1) {  // concatenation
    Shape first = shape, second = shape;
    first[a] = *rc::gen::inRange<int64_t>(1, shape[a]);
    second[a] -= first[a];
    std::vector<Layout> parts = {AnyLayout(depth - 1, sources, numel, first)};
    parts.push_back(AnyLayout(depth - 1, sources, numel, second));
    return Layout::Concat(axis, std::move(parts));
  }
  if (choice == 2) {  // interleaving
    Shape half = shape;
    half[a] /= 2;
    std::vector<Layout> parts = {AnyLayout(depth - 1, sources, numel, half)};
    parts.push_back(AnyLayout(depth - 1, sources, numel, half));
    return Layout::Interleave(axis, std::move(parts));
  }
  if (choice == 3 && shape.size() == 3) {
    return AnyLayout(depth - 1, sources, numel, {shape[1], shape[2], shape[0]}).Permute({2, 0, 1});
  }
  if (choice == 3 && shape.size() == 2) {
    return AnyLayout(depth - 1, sources, numel, {shape[1], shape[0]}).Permute({1, 0});
  }
  const Layout source = Layout::Source(sources++, shape);
  numel.push_back(Numel(shape));
  if (choice != 4) return source;
  return Layout::Concat(axis, {source.Every(axis, 2, 0), source.Every(axis, 2, 1)});
}

struct Sample {
  Layout layout;
  std::vector<SourceExtent> sources;
};

Sample AnySample() {
  int sources = 0;
  std::vector<int64_t> numel;
  const auto rank = *rc::gen::inRange<size_t>(1, 4);
  const Shape shape = *rc::gen::container<Shape>(rank, rc::gen::inRange<int64_t>(1, 7));
  Sample sample{AnyLayout(2, sources, numel, shape), {}};
  for (int64_t n : numel) sample.sources.push_back({0, n});
  return sample;
}

std::vector<StridedPiece> OfSource(const std::vector<StridedPiece>& pieces, int source) {
  std::vector<StridedPiece> own;
  for (const StridedPiece& piece : pieces) {
    if (piece.source == source) own.push_back(piece);
  }
  return own;
}

RC_GTEST_PROP(Tiling, LayoutsAreBijectionsByCounting, ()) {
  const Sample s = AnySample();
  const auto pieces = s.layout.Pieces();
  RC_ASSERT(TilesByCounting(pieces, Side::kTarget, s.layout.numel()));
  for (size_t i = 0; i < s.sources.size(); ++i) {
    RC_ASSERT(
        TilesByCounting(OfSource(pieces, static_cast<int>(i)), Side::kSource, s.sources[i].numel));
  }
}

RC_GTEST_PROP(Tiling, SlicesAgreeWithIndexing, ()) {
  const Sample s = AnySample();
  const Shape& shape = s.layout.shape();
  const int axis = *rc::gen::inRange(0, static_cast<int>(shape.size()));
  const auto a = static_cast<size_t>(axis);
  const int64_t begin = *rc::gen::inRange<int64_t>(0, shape[a] + 1);
  const int64_t end = *rc::gen::inRange<int64_t>(begin, shape[a] + 1);
  const Origins whole = ElementsOf(s.layout.Pieces(), s.layout.numel());
  const Layout cut = s.layout.Slice(axis, begin, end);
  const Origins part = ElementsOf(cut.Pieces(), cut.numel());
  int64_t inner = 1, outer = 1;
  for (size_t i = 0; i < shape.size(); ++i)
    (i < a ? outer : i > a ? inner : outer) *= i == a ? 1 : shape[i];
  size_t at = 0;
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t k = 0; k < inner; ++k) {
        RC_ASSERT(part[at++] == whole[static_cast<size_t>((o * shape[a] + i) * inner + k)]);
      }
    }
  }
  RC_ASSERT(at == part.size());
}

// Whatever is done to the pieces: what the proof accepts is a tiling.
RC_GTEST_PROP(Tiling, BrokenPieceSetsAreRefused, ()) {
  const Sample s = AnySample();
  auto pieces = s.layout.Pieces();
  RC_PRE(!pieces.empty());
  StridedPiece& piece = pieces[*rc::gen::inRange<size_t>(0, pieces.size())];
  const int64_t numel = s.layout.numel();
  const auto delta =
      *rc::gen::distinctFrom(rc::gen::inRange<int64_t>(-numel, numel + 1), int64_t{0});
  switch (*rc::gen::inRange(0, 5)) {
    case 0:
      piece.target_offset += delta;
      break;
    case 1:
      if (!piece.axes.empty()) piece.axes.back().extent += delta > 0 ? 1 : -1;
      break;
    case 2:
      if (!piece.axes.empty()) piece.axes.front().target_stride += delta;
      break;
    case 3:
      pieces.erase(pieces.begin());
      break;
    default:
      pieces.push_back(pieces[0]);
      break;
  }
  const bool tiles = TilesByCounting(pieces, Side::kTarget, numel);
  const Status proof = ProveTiling(pieces, Side::kTarget, numel);
  RC_CLASSIFY(!tiles, "broken");
  if (!tiles) RC_ASSERT(!proof.has_value());
  if (!proof) RC_ASSERT(proof.error().kind == ErrorKind::kInternal);
}

// Pieces that swapped places cover as many elements as before.
RC_GTEST_PROP(Tiling, OverlapThatKeepsTheCountIsRefused, ()) {
  const int64_t n = *rc::gen::inRange<int64_t>(2, 9);
  const int64_t shift = *rc::gen::inRange<int64_t>(1, n + 1);
  // [0, n) and [n - shift, 2n - shift) of 2n elements.
  const std::vector<StridedPiece> pieces = {{0, 0, 0, {{n, 1, 1}}}, {0, n, n - shift, {{n, 1, 1}}}};
  RC_ASSERT(!ProveTiling(pieces, Side::kTarget, 2 * n).has_value());
  RC_ASSERT(ProveTiling(pieces, Side::kSource, 2 * n).has_value());
}

// Pieces made of any small numbers: nothing but tilings is accepted.
RC_GTEST_PROP(Tiling, ArbitraryPiecesAreAcceptedOnlyWhenTheyTile, ()) {
  const auto numel = *rc::gen::inRange<int64_t>(1, 13);
  std::vector<StridedPiece> pieces(*rc::gen::inRange<size_t>(1, 4));
  for (StridedPiece& piece : pieces) {
    piece.source_offset = *rc::gen::inRange<int64_t>(-1, numel);
    piece.axes.resize(*rc::gen::inRange<size_t>(0, 3));
    for (StridedAxis& axis : piece.axes) {
      axis = {*rc::gen::inRange<int64_t>(2, 5), *rc::gen::inRange<int64_t>(-1, 7), 0};
    }
  }
  const Status proof = ProveTiling(pieces, Side::kSource, numel);
  if (proof) RC_ASSERT(TilesByCounting(pieces, Side::kSource, numel));
}

TEST(Tiling, EverySmallSetOfTwoStridedPiecesIsJudgedRight) {
  int accepted = 0, tilings = 0;
  for (int64_t numel = 2; numel <= 12; ++numel) {
    for (int64_t offset = 0; offset < numel; ++offset) {
      for (int64_t extent_a = 1; extent_a < numel; ++extent_a) {
        for (int64_t stride_a = 1; stride_a <= 4; ++stride_a) {
          for (int64_t stride_b = 1; stride_b <= 4; ++stride_b) {
            std::vector<StridedPiece> pieces(2);
            const int64_t extent_b = numel - extent_a;
            if (extent_a > 1) pieces[0].axes = {{extent_a, 0, stride_a}};
            if (extent_b > 1) pieces[1].axes = {{extent_b, 0, stride_b}};
            pieces[1].target_offset = offset;
            const bool tiles = TilesByCounting(pieces, Side::kTarget, numel);
            const bool proved = ProveTiling(pieces, Side::kTarget, numel).has_value();
            EXPECT_TRUE(tiles || !proved) << numel << " " << offset << " " << extent_a;
            tilings += tiles;
            accepted += proved;
          }
        }
      }
    }
  }
  EXPECT_GT(tilings, 100);
  EXPECT_GT(accepted, 100);
}

TEST(Tiling, GapOverlapAndOutOfRangeAreNamed) {
  const auto what = [](const std::vector<StridedPiece>& pieces, int64_t numel) {
    const Status s = ProveTiling(pieces, Side::kTarget, numel);
    return s ? "accepted" : s.error().what;
  };
  EXPECT_EQ(what({{0, 0, 0, {{3, 1, 1}}}}, 4), "3 of 4 elements are covered");
  EXPECT_EQ(what({{0, 0, 0, {{5, 1, 1}}}}, 4), "a piece reaches outside of the 4 elements");
  EXPECT_EQ(what({{0, 0, -1, {{4, 1, 1}}}}, 4), "a piece reaches outside of the 4 elements");
  EXPECT_EQ(what({{0, 0, 0, {{2, 1, 1}}}, {0, 2, 1, {{2, 1, 1}}}}, 4),
            "two pieces claim the same elements");
  EXPECT_EQ(what({{0, 0, 0, {{2, 1, 2}}}, {0, 2, 1, {{2, 1, 2}}}}, 4), "accepted");
  EXPECT_EQ(what({}, 0), "accepted");
  EXPECT_EQ(what({}, 1), "0 of 1 elements are covered");
}

}  // namespace
}  // namespace weighbridge
