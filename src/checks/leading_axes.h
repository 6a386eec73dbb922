// Tensors that hold layers and experts along their leading axes: which chunks hold which of them.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "formats/torch_dist/read_metadata.h"

namespace weighbridge {

// The part of a stored chunk that belongs to tensor[index...].
struct BoundChunk {
  const DistTensor* tensor = nullptr;
  const DistChunk* chunk = nullptr;
  int64_t first_element = 0;  // of the part, in the chunk
  Shape offsets, sizes;       // the box of tensor[index...], or of the parameter, that it is
  int64_t row = 0;            // of the parameter, at which `tensor` begins
};

// Immutable; refers to the tensor, which must outlive it.
class LeadingAxes {
 public:
  // `axes` leading axes, at most as many as the tensor has.
  LeadingAxes(const DistTensor& tensor, size_t axes);

  // The parts of tensor[index...], one index per leading axis; empty outside of the tensor.
  std::vector<BoundChunk> At(const std::vector<int64_t>& index) const;

 private:
  void Enter(const DistChunk& chunk, std::vector<int64_t>& index, size_t axis);
  BoundChunk Part(const DistChunk& chunk, const std::vector<int64_t>& index) const;

  const DistTensor& tensor_;
  size_t axes_;
  std::map<std::vector<int64_t>, std::vector<const DistChunk*>> chunks_;
};

}  // namespace weighbridge
