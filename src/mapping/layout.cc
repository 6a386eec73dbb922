#include "mapping/layout.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace weighbridge {

int64_t StridedPiece::numel() const {
  int64_t n = 1;
  for (const StridedAxis& axis : axes) n *= axis.extent;
  return n;
}

Layout Layout::Source(int index, Shape view) { return SourcePart(index, 0, std::move(view)); }

Layout Layout::SourcePart(int index, int64_t begin, Shape view) {
  Layout out;
  Box box;
  box.source = index;
  box.source_offset = begin;
  box.low.assign(view.size(), 0);
  box.extent = view;
  box.stride = RowMajorStrides(view);
  box.step.assign(view.size(), 1);
  out.shape_ = std::move(view);
  out.boxes_.push_back(std::move(box));
  return out;
}

Layout Layout::Zeros(Shape shape) {
  Layout out = Source(kZeroSource, std::move(shape));
  for (int64_t& stride : out.boxes_[0].stride) stride = 0;
  return out;
}

Layout Layout::Concat(int axis, std::vector<Layout> parts) {
  assert(!parts.empty());
  const auto a = static_cast<size_t>(axis);
  Layout out;
  out.shape_ = parts[0].shape_;
  out.shape_[a] = 0;
  for (Layout& part : parts) {
    for (Box& box : part.boxes_) {
      box.low[a] += out.shape_[a];
      out.boxes_.push_back(std::move(box));
    }
    out.shape_[a] += part.shape_[a];
  }
  return out;
}

Layout Layout::Interleave(int axis, std::vector<Layout> parts) {
  assert(!parts.empty());
  const auto a = static_cast<size_t>(axis);
  const auto n = static_cast<int64_t>(parts.size());
  Layout out;
  out.shape_ = parts[0].shape_;
  out.shape_[a] *= n;
  for (int64_t i = 0; i < n; ++i) {
    for (Box& box : parts[static_cast<size_t>(i)].boxes_) {
      box.low[a] = box.low[a] * n + i;
      box.step[a] *= n;
      out.boxes_.push_back(std::move(box));
    }
  }
  return out;
}

Layout Layout::Permute(std::initializer_list<int> order) const {
  Layout out;
  const std::vector<int> from(order);
  const auto pick = [&](const std::vector<int64_t>& v) {
    std::vector<int64_t> r;
    for (int axis : from) r.push_back(v[static_cast<size_t>(axis)]);
    return r;
  };
  out.shape_ = pick(shape_);
  for (const Box& box : boxes_) {
    out.boxes_.push_back({box.source, box.source_offset, pick(box.low), pick(box.extent),
                          pick(box.stride), pick(box.step), box.copy});
  }
  return out;
}

Layout Layout::Copy() const {
  Layout out = *this;
  for (Box& box : out.boxes_) box.copy = true;
  return out;
}

Layout Layout::Repeat(int axis, int64_t times) const {
  assert(shape_[static_cast<size_t>(axis)] == 1);
  std::vector<Layout> parts(static_cast<size_t>(times), Copy());
  parts[0] = *this;
  return Concat(axis, std::move(parts));
}

Layout Layout::Slice(int axis, int64_t begin, int64_t end) const {
  const auto a = static_cast<size_t>(axis);
  Layout out;
  out.shape_ = shape_;
  out.shape_[a] = end - begin;
  for (const Box& box : boxes_) {
    // Indexes i with begin <= low + i * step < end.
    const int64_t step = box.step[a];
    const int64_t first = begin <= box.low[a] ? 0 : (begin - box.low[a] + step - 1) / step;
    const int64_t last =
        end <= box.low[a] ? 0 : std::min(box.extent[a], (end - box.low[a] + step - 1) / step);
    if (first >= last) continue;
    Box cut = box;
    cut.source_offset += first * box.stride[a];
    cut.low[a] = box.low[a] + first * step - begin;
    cut.extent[a] = last - first;
    out.boxes_.push_back(std::move(cut));
  }
  return out;
}

Layout Layout::Every(int axis, int64_t step, int64_t begin) const {
  const auto a = static_cast<size_t>(axis);
  assert(shape_[a] % step == 0);
  Layout out;
  out.shape_ = shape_;
  out.shape_[a] = shape_[a] / step;
  for (const Box& box : boxes_) {
    assert(box.step[a] == 1);
    const int64_t skip = ((begin - box.low[a]) % step + step) % step;
    if (skip >= box.extent[a]) continue;
    Box cut = box;
    cut.source_offset += skip * box.stride[a];
    cut.low[a] = (box.low[a] + skip - begin) / step;
    cut.extent[a] = (box.extent[a] - skip + step - 1) / step;
    cut.stride[a] = box.stride[a] * step;
    out.boxes_.push_back(std::move(cut));
  }
  return out;
}

namespace {

// Joins an axis with the next inner one where both sides continue seamlessly.
void MergeAxes(std::vector<StridedAxis>& axes) {
  std::vector<StridedAxis> merged;
  for (const StridedAxis& axis : axes) {
    if (!merged.empty()) {
      StridedAxis& outer = merged.back();
      if (outer.source_stride == axis.source_stride * axis.extent &&
          outer.target_stride == axis.target_stride * axis.extent) {
        outer = {outer.extent * axis.extent, axis.source_stride, axis.target_stride};
        continue;
      }
    }
    merged.push_back(axis);
  }
  axes = std::move(merged);
}

}  // namespace

std::vector<StridedPiece> Layout::Pieces() const {
  const std::vector<int64_t> strides = RowMajorStrides(shape_);
  std::vector<StridedPiece> pieces;
  pieces.reserve(boxes_.size());
  for (const Box& box : boxes_) {
    StridedPiece piece;
    piece.source = box.source;
    piece.source_offset = box.source_offset;
    piece.copy = box.copy;
    bool empty = false;
    for (size_t a = 0; a < shape_.size(); ++a) {
      piece.target_offset += box.low[a] * strides[a];
      empty = empty || box.extent[a] == 0;
      if (box.extent[a] > 1) {
        piece.axes.push_back({box.extent[a], box.stride[a], strides[a] * box.step[a]});
      }
    }
    if (empty) continue;
    std::stable_sort(piece.axes.begin(), piece.axes.end(), [](const auto& x, const auto& y) {
      return x.target_stride > y.target_stride;
    });
    MergeAxes(piece.axes);
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

}  // namespace weighbridge
