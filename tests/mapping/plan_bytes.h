// What a plan means, said byte by byte: the slow interpreter that the tests of this room compare
// with.
#pragma once

#include <cstdint>
#include <vector>

#include "mapping/layout.h"
#include "mapping/plan.h"

namespace weighbridge {

// Where a byte (or an element) of the walked side comes from. Zeros: {kZeroSource, 0}.
struct Origin {
  int other = kZeroSource;
  int64_t offset = 0;
  bool operator==(const Origin&) const = default;
};
using Origins = std::vector<Origin>;

inline void AppendRun(const Run& run, Origins& out) {
  for (int64_t chunk = 0; chunk < run.count; ++chunk) {
    for (int64_t i = 0; i < run.length; ++i) {
      out.push_back(run.other == kZeroSource
                        ? Origin{}
                        : Origin{run.other, run.other_offset + chunk * run.other_stride + i});
    }
  }
}

// One entry per walked byte.
inline Origins BytesOf(const Plan& plan) {
  Origins out;
  for (const Run& run : plan.runs()) AppendRun(run, out);
  return out;
}

// Elements -> bytes of elements of `size` bytes.
inline Origins Widen(const Origins& elements, int64_t size) {
  Origins out;
  for (const Origin& e : elements) {
    for (int64_t b = 0; b < size; ++b) {
      out.push_back(e.other == kZeroSource ? Origin{} : Origin{e.other, e.offset * size + b});
    }
  }
  return out;
}

// The elements that the pieces write, without any proof: -2 where nobody writes, -3 where two do.
inline Origins ElementsOf(const std::vector<StridedPiece>& pieces, int64_t numel) {
  Origins out(static_cast<size_t>(numel), Origin{-2, 0});
  for (const StridedPiece& piece : pieces) {
    std::vector<int64_t> index(piece.axes.size(), 0);
    for (int64_t n = piece.numel(); n > 0; --n) {
      int64_t source = piece.source_offset, target = piece.target_offset;
      for (size_t a = 0; a < index.size(); ++a) {
        source += index[a] * piece.axes[a].source_stride;
        target += index[a] * piece.axes[a].target_stride;
      }
      if (target >= 0 && target < numel) {
        Origin& at = out[static_cast<size_t>(target)];
        at = at.other != -2                ? Origin{-3, 0}
             : piece.source == kZeroSource ? Origin{}
                                           : Origin{piece.source, source};
      }
      for (size_t a = index.size(); a-- > 0;) {
        if (++index[a] < piece.axes[a].extent) break;
        index[a] = 0;
      }
    }
  }
  return out;
}

}  // namespace weighbridge
