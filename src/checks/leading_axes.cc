#include "checks/leading_axes.h"

namespace weighbridge {

LeadingAxes::LeadingAxes(const DistTensor& tensor, size_t axes) : tensor_(tensor), axes_(axes) {
  for (const DistChunk& chunk : tensor.chunks) {
    if (Numel(chunk.sizes) == 0) continue;
    std::vector<int64_t> index(chunk.offsets.begin(),
                               chunk.offsets.begin() + static_cast<std::ptrdiff_t>(axes));
    Enter(chunk, index, 0);
  }
}

std::vector<BoundChunk> LeadingAxes::At(const std::vector<int64_t>& index) const {
  const auto it = chunks_.find(index);
  if (it == chunks_.end()) return {};
  std::vector<BoundChunk> out;
  for (const DistChunk* chunk : it->second) out.push_back(Part(*chunk, index));
  return out;
}

void LeadingAxes::Enter(const DistChunk& chunk, std::vector<int64_t>& index, size_t axis) {
  if (axis == axes_) {
    chunks_[index].push_back(&chunk);
    return;
  }
  for (int64_t i = 0; i < chunk.sizes[axis]; ++i) {
    index[axis] = chunk.offsets[axis] + i;
    Enter(chunk, index, axis + 1);
  }
}

BoundChunk LeadingAxes::Part(const DistChunk& chunk, const std::vector<int64_t>& index) const {
  BoundChunk part;
  part.tensor = &tensor_;
  part.chunk = &chunk;
  const auto axes = static_cast<std::ptrdiff_t>(axes_);
  part.offsets.assign(chunk.offsets.begin() + axes, chunk.offsets.end());
  part.sizes.assign(chunk.sizes.begin() + axes, chunk.sizes.end());
  int64_t block = 0;
  for (size_t axis = 0; axis < axes_; ++axis) {
    block = block * chunk.sizes[axis] + (index[axis] - chunk.offsets[axis]);
  }
  part.first_element = block * Numel(part.sizes);
  return part;
}

}  // namespace weighbridge
