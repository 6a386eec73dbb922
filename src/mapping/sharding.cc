#include "mapping/sharding.h"

#include <fmt/format.h>

#include <numeric>

namespace weighbridge {
namespace {

std::vector<int64_t> ComponentsOf(const Shape& shape, const TensorCut& cut) {
  if (cut.axis == 0 && !cut.components.empty()) return cut.components;
  return {shape[static_cast<size_t>(cut.axis)]};
}

}  // namespace

std::string ToString(const ParallelGrid& grid) {
  std::string vpp = grid.vpp > 1 ? fmt::format(" x VPP {}", grid.vpp) : "";
  return fmt::format("TP {} x PP {}{} x EP {} x ETP {}", grid.tp, grid.pp, vpp, grid.ep, grid.etp);
}

Status CheckCut(const Shape& shape, const TensorCut& cut, int size) {
  if (cut.replicated()) return {};
  if (static_cast<size_t>(cut.axis) >= shape.size()) {
    return Fail(ErrorKind::kInvalid, "shape",
                fmt::format("{} has no axis {} to cut", ToString(shape), cut.axis));
  }
  int64_t total = 0;
  for (int64_t part : ComponentsOf(shape, cut)) {
    total += part;
    if (part < 0) {
      return Fail(ErrorKind::kInvalid, "shape",
                  fmt::format("a packed part of {} has {} rows", ToString(shape), part));
    }
    if (part % size != 0) {
      return Fail(ErrorKind::kUsage, "grid",
                  fmt::format("{} {} of {} cannot be cut into {} equal parts", part,
                              cut.axis == 0 ? "rows" : "columns", ToString(shape), size),
                  "", "choose a tensor-parallel size that divides it");
    }
  }
  if (total != shape[static_cast<size_t>(cut.axis)]) {
    return Fail(ErrorKind::kInvalid, "shape",
                fmt::format("the packed parts add up to {}, axis {} of {} is larger or smaller",
                            total, cut.axis, ToString(shape)));
  }
  return {};
}

Shape CutShape(const Shape& shape, const TensorCut& cut, int size) {
  Shape out = shape;
  if (!cut.replicated()) out[static_cast<size_t>(cut.axis)] /= size;
  return out;
}

Layout CutLayout(const Shape& shape, const TensorCut& cut, int size, int rank) {
  const Layout global = Layout::Source(0, shape);
  if (cut.replicated()) return global;
  std::vector<Layout> parts;
  int64_t begin = 0;
  for (int64_t part : ComponentsOf(shape, cut)) {
    const int64_t width = part / size;
    parts.push_back(global.Slice(cut.axis, begin + rank * width, begin + (rank + 1) * width));
    begin += part;
  }
  return Layout::Concat(cut.axis, std::move(parts));
}

Layout JoinLayout(const Shape& shape, const TensorCut& cut, int size) {
  if (cut.replicated()) return Layout::Source(0, shape);
  const Shape local = CutShape(shape, cut, size);
  const auto axis = static_cast<size_t>(cut.axis);
  if (axis != 0) {
    std::vector<Layout> side_by_side;
    for (int r = 0; r < size; ++r) side_by_side.push_back(Layout::Source(r, local));
    return Layout::Concat(cut.axis, std::move(side_by_side));
  }
  // Each rank's tensor is split into its parts; equal parts of all ranks are gathered together.
  const int64_t row =
      std::accumulate(shape.begin() + 1, shape.end(), int64_t{1}, std::multiplies<>());
  std::vector<Layout> gathered;
  int64_t local_row = 0;
  for (int64_t part : ComponentsOf(shape, cut)) {
    Shape piece = shape;
    piece[0] = part / size;
    for (int r = 0; r < size; ++r) {
      gathered.push_back(Layout::SourcePart(r, local_row * row, piece));
    }
    local_row += piece[0];
  }
  return Layout::Concat(0, std::move(gathered));
}

int64_t PaddedVocab(int64_t vocab, int tp) {
  if (tp <= 1 || vocab % tp == 0) return vocab;
  int64_t divisor = 128;
  while (divisor > 1 && vocab % divisor != 0) divisor /= 2;
  const int64_t multiple = divisor * tp;
  return (vocab + multiple - 1) / multiple * multiple;
}

}  // namespace weighbridge
