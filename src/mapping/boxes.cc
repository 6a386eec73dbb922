#include "mapping/boxes.h"

#include <fmt/format.h>

#include <algorithm>

namespace weighbridge {
namespace {

// The runs of one box: its rows of contiguous elements, in row-major order.
void AddRuns(const Shape& shape, const TensorBox& box, int index, int64_t element_bytes,
             std::vector<Run>& runs) {
  const std::vector<int64_t> strides = RowMajorStrides(shape);
  // Inner axes that the box covers whole are one stretch with the axis before them.
  size_t inner = shape.size();
  int64_t length = 1;
  while (inner > 0) {
    --inner;
    length *= box.sizes[inner];
    if (box.sizes[inner] != shape[inner]) break;
  }
  const int64_t rows = length == 0 ? 0 : Numel(box.sizes) / length;
  std::vector<int64_t> at(inner, 0);
  for (int64_t row = 0; row < rows; ++row) {
    int64_t element = 0;
    for (size_t axis = 0; axis < shape.size(); ++axis) {
      element += (box.offsets[axis] + (axis < inner ? at[axis] : 0)) * strides[axis];
    }
    runs.push_back({index, element * element_bytes, row * length * element_bytes,
                    length * element_bytes, 1, 0});
    for (size_t axis = inner; axis-- > 0;) {
      if (++at[axis] < box.sizes[axis]) break;
      at[axis] = 0;
    }
  }
}

}  // namespace

Result<Plan> BoxPlan(const Shape& shape, const TensorBox& box, int64_t element_bytes) {
  Layout layout = Layout::Source(0, shape);
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    layout = layout.Slice(static_cast<int>(axis), box.offsets[axis],
                          box.offsets[axis] + box.sizes[axis]);
  }
  return CompileByTarget(layout, element_bytes);
}

Result<Plan> JoinBoxes(const Shape& shape, const std::vector<TensorBox>& boxes,
                       int64_t element_bytes) {
  std::vector<Run> runs;
  for (size_t i = 0; i < boxes.size(); ++i) {
    AddRuns(shape, boxes[i], static_cast<int>(i), element_bytes, runs);
  }
  std::sort(runs.begin(), runs.end(),
            [](const Run& a, const Run& b) { return a.offset < b.offset; });
  RunCollector collector;
  int64_t at = 0;
  for (const Run& run : runs) {
    if (run.offset != at) {
      return Fail(ErrorKind::kInternal, "not-a-bijection",
                  fmt::format("boxes leave a gap or overlap at byte {}", at));
    }
    at = run.end();
    collector.Add(run);
  }
  if (at != Numel(shape) * element_bytes) {
    return Fail(ErrorKind::kInternal, "not-a-bijection",
                fmt::format("boxes cover {} of {} bytes", at, Numel(shape) * element_bytes));
  }
  return Plan(std::move(collector).Take());
}

std::vector<TensorBox> RankBoxes(const Shape& shape, const TensorCut& cut, int size, int rank) {
  TensorBox whole{Shape(shape.size(), 0), shape};
  if (cut.replicated()) {
    if (rank != 0) return {};
    return {whole};
  }
  const auto axis = static_cast<size_t>(cut.axis);
  const std::vector<int64_t> parts =
      cut.components.empty() ? std::vector<int64_t>{shape[axis]} : cut.components;
  std::vector<TensorBox> boxes;
  int64_t begin = 0;
  for (int64_t part : parts) {
    TensorBox box = whole;
    box.sizes[axis] = part / size;
    box.offsets[axis] = begin + rank * box.sizes[axis];
    boxes.push_back(std::move(box));
    begin += part;
  }
  return boxes;
}

}  // namespace weighbridge
