// The proof that strided sets tile a range, without visiting elements. All strides of all pieces, in
// descending order, form one mixed-radix number system in which every piece is a box; boxes tile the
// space when their volumes add up and no two overlap.
#include <algorithm>

#include <fmt/format.h>

#include "mapping/layout.h"

namespace weighbridge {
namespace {

struct Box {
  std::vector<int64_t> low, extent;
};

tl::unexpected<Error> NotATiling(std::string what) {
  return Fail(ErrorKind::kInternal, "not-a-bijection", std::move(what));
}

int64_t StrideOf(const StridedAxis& axis, Side side) {
  return side == Side::kSource ? axis.source_stride : axis.target_stride;
}

// Descending radix weights: every stride that occurs, down to 1. Each must divide the one before it.
Result<std::vector<int64_t>> RadixWeights(const std::vector<StridedPiece>& pieces, Side side) {
  std::vector<int64_t> weights = {1};
  for (const StridedPiece& piece : pieces) {
    for (const StridedAxis& axis : piece.axes) weights.push_back(StrideOf(axis, side));
  }
  std::sort(weights.rbegin(), weights.rend());
  weights.erase(std::unique(weights.begin(), weights.end()), weights.end());
  for (size_t i = 1; i < weights.size(); ++i) {
    if (weights[i] <= 0 || weights[i - 1] % weights[i] != 0) {
      return NotATiling("strides of the pieces do not nest");
    }
  }
  return weights;
}

// Writes `piece` as boxes over the radix system, or fails when its strides do not fit it.
Result<std::vector<Box>> PlaceInRadix(const StridedPiece& piece, Side side,
                                      const std::vector<int64_t>& weights, int64_t numel) {
  const size_t rank = weights.size();
  std::vector<int64_t> size(rank);
  for (size_t i = 0; i < rank; ++i) {
    const int64_t above = i == 0 ? (numel + weights[0] - 1) / weights[0] * weights[0] : weights[i - 1];
    size[i] = above / weights[i];
  }
  const int64_t offset = side == Side::kSource ? piece.source_offset : piece.target_offset;
  Box start{std::vector<int64_t>(rank), std::vector<int64_t>(rank, 1)};
  int64_t rest = offset;
  for (size_t i = 0; i < rank; ++i) {
    start.low[i] = rest / weights[i];
    rest %= weights[i];
  }
  std::vector<Box> boxes = {start};
  for (const StridedAxis& axis : piece.axes) {
    const int64_t stride = StrideOf(axis, side);
    const auto at = std::find(weights.begin(), weights.end(), stride);
    auto i = static_cast<size_t>(at - weights.begin());
    int64_t extent = axis.extent;
    // An axis longer than its digit carries into the digits above.
    while (extent > 1) {
      for (Box& box : boxes) {
        const int64_t room = size[i];
        const int64_t here = std::min(extent, room);
        if (box.extent[i] != 1 || box.low[i] + here > room || (extent > room && extent % room != 0)) {
          return NotATiling("a piece does not fit the digits of the others");
        }
        box.extent[i] = here;
      }
      if (extent <= size[i]) break;
      extent /= size[i];
      if (i == 0) return NotATiling("a piece reaches beyond the tensor");
      --i;
    }
  }
  return boxes;
}

bool Overlap(const Box& a, const Box& b) {
  for (size_t i = 0; i < a.low.size(); ++i) {
    if (a.low[i] + a.extent[i] <= b.low[i] || b.low[i] + b.extent[i] <= a.low[i]) return false;
  }
  return true;
}

int64_t EndOf(const StridedPiece& piece, Side side) {
  int64_t last = side == Side::kSource ? piece.source_offset : piece.target_offset;
  for (const StridedAxis& axis : piece.axes) last += (axis.extent - 1) * StrideOf(axis, side);
  return last + 1;
}

}  // namespace

Status ProveTiling(const std::vector<StridedPiece>& pieces, Side side, int64_t numel) {
  int64_t covered = 0;
  for (const StridedPiece& piece : pieces) {
    const int64_t begin = side == Side::kSource ? piece.source_offset : piece.target_offset;
    if (begin < 0 || EndOf(piece, side) > numel) {
      return NotATiling(fmt::format("a piece reaches outside of the {} elements", numel));
    }
    covered += piece.numel();
  }
  if (covered != numel) {
    return NotATiling(fmt::format("{} of {} elements are covered", covered, numel));
  }
  if (pieces.size() <= 1 && (pieces.empty() || pieces[0].axes.empty())) return {};
  WB_TRY(const std::vector<int64_t> weights, RadixWeights(pieces, side));
  std::vector<Box> boxes;
  for (const StridedPiece& piece : pieces) {
    WB_TRY(std::vector<Box> placed, PlaceInRadix(piece, side, weights, numel));
    boxes.insert(boxes.end(), placed.begin(), placed.end());
  }
  // Sorted by the first digit, only neighbours that share it can overlap.
  std::sort(boxes.begin(), boxes.end(), [](const Box& a, const Box& b) { return a.low < b.low; });
  for (size_t i = 0; i < boxes.size(); ++i) {
    for (size_t j = i + 1; j < boxes.size(); ++j) {
      if (boxes[j].low[0] >= boxes[i].low[0] + boxes[i].extent[0]) break;
      if (Overlap(boxes[i], boxes[j])) return NotATiling("two pieces claim the same elements");
    }
  }
  return {};
}

Status ProveBijection(const Layout& layout, const std::vector<SourceExtent>& sources) {
  const std::vector<StridedPiece> pieces = layout.Pieces();
  WB_RETURN_IF_ERROR(ProveTiling(pieces, Side::kTarget, layout.numel()));
  for (size_t s = 0; s < sources.size(); ++s) {
    std::vector<StridedPiece> own;
    for (const StridedPiece& piece : pieces) {
      if (piece.source != static_cast<int>(s)) continue;
      own.push_back(piece);
      own.back().source_offset -= sources[s].begin;
    }
    WB_RETURN_IF_ERROR(ProveTiling(own, Side::kSource, sources[s].numel));
  }
  return {};
}

}  // namespace weighbridge
