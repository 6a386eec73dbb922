// The proof that strided sets tile a range, without visiting elements. All strides of all pieces,
// in descending order, form one mixed-radix number system in which every piece is a box; boxes tile
// the space when their volumes add up and no two overlap.
#include <fmt/format.h>

#include <algorithm>

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

// Descending radix weights: every stride that occurs, down to 1. Each must divide the one before
// it.
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

// The number of values of each digit; the first one reaches up to `numel`.
std::vector<int64_t> DigitSizes(const std::vector<int64_t>& weights, int64_t numel) {
  std::vector<int64_t> size(weights.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    const int64_t above =
        i == 0 ? (numel + weights[0] - 1) / weights[0] * weights[0] : weights[i - 1];
    size[i] = above / weights[i];
  }
  return size;
}

// Adds `n` to the number that digits 0..i of `low` form. False: it does not fit.
bool AddToDigit(std::vector<int64_t>& low, const std::vector<int64_t>& size, size_t i, int64_t n) {
  for (;; --i) {
    const int64_t sum = low[i] + n;
    low[i] = sum % size[i];
    n = sum / size[i];
    if (n == 0) return true;
    if (i == 0) return false;
  }
}

// The boxes of `count` numbers in a row, in steps of digit i, from the single position `start` of
// digits 0..i: a partial row, full rows, a partial row, and so for the rows above. False: they do
// not fit.
bool SplitInterval(const Box& start, const std::vector<int64_t>& size, size_t i, int64_t count,
                   std::vector<Box>& out) {
  Box at = start;
  const int64_t head = std::min(count, size[i] - at.low[i]);
  if (at.low[i] != 0 || head == count) {
    at.extent[i] = head;
    out.push_back(at);
    count -= head;
    if (count == 0) return true;
    at.low[i] = 0;
    if (i == 0 || !AddToDigit(at.low, size, i - 1, 1)) return false;
  }
  if (i == 0) return false;
  const int64_t rows = count / size[i], tail = count % size[i];
  if (rows > 0) {
    at.extent[i] = size[i];
    if (!SplitInterval(at, size, i - 1, rows, out)) return false;
  }
  if (tail == 0) return true;
  if (rows > 0 && !AddToDigit(at.low, size, i - 1, rows)) return false;
  at.extent[i] = tail;
  out.push_back(at);
  return true;
}

// Writes `piece` as boxes over the radix system, or fails when its strides do not fit it.
Result<std::vector<Box>> PlaceInRadix(const StridedPiece& piece, Side side,
                                      const std::vector<int64_t>& weights, int64_t numel) {
  const std::vector<int64_t> size = DigitSizes(weights, numel);
  const size_t rank = weights.size();
  Box start{std::vector<int64_t>(rank), std::vector<int64_t>(rank, 1)};
  int64_t rest = side == Side::kSource ? piece.source_offset : piece.target_offset;
  for (size_t i = 0; i < rank; ++i) {
    start.low[i] = rest / weights[i];
    rest %= weights[i];
  }
  // From the smallest stride on: what an axis carries goes into digits that are still single.
  std::vector<StridedAxis> axes = piece.axes;
  std::sort(axes.begin(), axes.end(), [side](const StridedAxis& a, const StridedAxis& b) {
    return StrideOf(a, side) < StrideOf(b, side);
  });
  std::vector<Box> boxes = {start};
  for (const StridedAxis& axis : axes) {
    const auto at = std::find(weights.begin(), weights.end(), StrideOf(axis, side));
    const auto i = static_cast<size_t>(at - weights.begin());
    std::vector<Box> split;
    for (const Box& box : boxes) {
      const bool single =
          std::all_of(box.extent.begin(), box.extent.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                      [](int64_t extent) { return extent == 1; });
      if (!single || !SplitInterval(box, size, i, axis.extent, split)) {
        return NotATiling("a piece does not fit the digits of the others");
      }
    }
    boxes = std::move(split);
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

Result<StridedPiece> WithinExtent(StridedPiece piece, const SourceExtent& extent) {
  piece.source_offset -= extent.begin;
  if (extent.stride == 0) return piece;
  const auto& [begin, numel, run, stride] = extent;
  const auto outside = [] { return NotATiling("a piece reaches outside of its columns"); };
  if (piece.source_offset < 0) return outside();
  const int64_t column = piece.source_offset % stride;
  int64_t last = column;
  piece.source_offset = piece.source_offset / stride * run + column;
  for (StridedAxis& axis : piece.axes) {
    if (axis.source_stride % stride == 0) {
      axis.source_stride = axis.source_stride / stride * run;
    } else {
      last += (axis.extent - 1) * axis.source_stride;
    }
  }
  if (last >= run) return outside();
  return piece;
}

Status ProveBijection(const Layout& layout, const std::vector<SourceExtent>& sources) {
  const std::vector<StridedPiece> pieces = layout.Pieces();
  WB_RETURN_IF_ERROR(ProveTiling(pieces, Side::kTarget, layout.numel()));
  for (size_t s = 0; s < sources.size(); ++s) {
    std::vector<StridedPiece> own;
    for (const StridedPiece& piece : pieces) {
      if (piece.source != static_cast<int>(s) || piece.copy) continue;
      WB_TRY(StridedPiece within, WithinExtent(piece, sources[s]));
      own.push_back(std::move(within));
    }
    WB_RETURN_IF_ERROR(ProveTiling(own, Side::kSource, sources[s].numel));
  }
  return {};
}

}  // namespace weighbridge
