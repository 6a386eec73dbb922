// A layout says which element of which source tensor is which element of the target tensor. It is
// written once per transform, as an expression over sources:
//
//   // q [H*D, K], k [G*D, K], v [G*D, K]  ->  [(H + 2G) * D, K]; per query group: its q, its k,
//   its v. Concat(1, {Source(0, {G, H / G * D, K}), Source(1, {G, D, K}), Source(2, {G, D, K})})
//
// An expression has an index space (its shape). Its elements in row-major order are the target
// tensor's elements in row-major order, so merging axes at the end needs no operation. All numbers
// are elements. Values and functions only; no I/O; safe from any thread.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "base/result.h"
#include "tensor/tensor.h"

namespace weighbridge {

// A source index that stands for zeros (padding).
inline constexpr int kZeroSource = -1;

// One axis of a strided set of elements: index i in [0, extent) is at i * source_stride in the
// source and at i * target_stride in the target.
struct StridedAxis {
  int64_t extent = 1, source_stride = 0, target_stride = 0;
  bool operator==(const StridedAxis&) const = default;
};

// The elements {source_offset + sum i_k * source_stride_k} of one source, and where they stand in
// the target.
struct StridedPiece {
  int source = 0;
  int64_t source_offset = 0, target_offset = 0;
  std::vector<StridedAxis> axes;  // extents > 1 only, descending target_stride
  bool copy = false;              // these elements of the source stand elsewhere too

  int64_t numel() const;
};

class Layout {
 public:
  // The whole of source `index`, seen with `view` as its shape (its elements in row-major order).
  static Layout Source(int index, Shape view);
  // Part [begin, begin + Numel(view)) of source `index`: for a tensor inside a stacked one.
  static Layout SourcePart(int index, int64_t begin, Shape view);
  static Layout Zeros(Shape shape);
  // Parts one after another along `axis`; all other extents must agree.
  static Layout Concat(int axis, std::vector<Layout> parts);

  Layout Permute(std::initializer_list<int> order) const;
  // Indexes [begin, end) of `axis`.
  Layout Slice(int axis, int64_t begin, int64_t end) const;
  // Every `step`-th index of `axis`, from `begin`. extent(axis) must be a multiple of `step`.
  Layout Every(int axis, int64_t step, int64_t begin) const;
  // The same elements once more: a place that must equal theirs. What is written back comes from
  // the place that is no copy.
  Layout Copy() const;
  // `axis`, whose extent is 1, `times` times; all but the first are copies.
  Layout Repeat(int axis, int64_t times) const;
  // Alternates the indexes of equal parts along `axis`: part 0, part 1, ..., part 0, ...
  static Layout Interleave(int axis, std::vector<Layout> parts);

  const Shape& shape() const { return shape_; }
  int64_t numel() const { return Numel(shape_); }
  // The pieces in linear memory.
  std::vector<StridedPiece> Pieces() const;

 private:
  // A box of the index space, filled by a strided part of one source.
  struct Box {
    int source = 0;
    int64_t source_offset = 0;
    std::vector<int64_t> low, extent, stride, step;  // per axis; element i stands at low + i * step
    bool copy = false;
  };
  Shape shape_;
  std::vector<Box> boxes_;
};

// Which side of a piece a question is about.
enum class Side { kSource, kTarget };

// Proves that the strided sets of `pieces` on `side` are pairwise disjoint and cover [0, numel)
// exactly, without visiting elements. Error kInternal with what overlaps or is left out. For
// Side::kSource give the pieces of one source, offsets relative to its first element.
Status ProveTiling(const std::vector<StridedPiece>& pieces, Side side, int64_t numel);

// Proves that `layout` is a bijection: each target element written exactly once, each element of
// each source used exactly once, copies not counted (sources[i] elements, starting at
// source_begin[i]).
struct SourceExtent {
  int64_t begin = 0, numel = 0;
  // Where the elements are some columns of a matrix: stretches of `run` elements, `stride` > run
  // apart. 0: they follow each other, as all columns do.
  int64_t run = 0, stride = 0;
};
// `piece` with source offsets that count the elements of `extent` only. Error kInternal when it
// reaches outside of them.
Result<StridedPiece> WithinExtent(StridedPiece piece, const SourceExtent& extent);
Status ProveBijection(const Layout& layout, const std::vector<SourceExtent>& sources);

}  // namespace weighbridge
