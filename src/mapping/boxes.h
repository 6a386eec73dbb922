// Boxes of a tensor: how a checkpoint on disk cuts it into chunks.
#pragma once

#include <vector>

#include "mapping/plan.h"
#include "mapping/sharding.h"
#include "tensor/tensor.h"

namespace weighbridge {

struct TensorBox {
  Shape offsets, sizes;  // as many axes as the tensor
  bool operator==(const TensorBox&) const = default;
};

// A plan that walks the box, row-major, and names bytes of the whole tensor (run.other is 0).
Result<Plan> BoxPlan(const Shape& shape, const TensorBox& box, int64_t element_bytes);

// A plan that walks the whole tensor and names bytes of the boxes (run.other is the box, each one
// contiguous and row-major). The boxes tile the tensor (kInternal when they do not).
Result<Plan> JoinBoxes(const Shape& shape, const std::vector<TensorBox>& boxes,
                       int64_t element_bytes);

// The boxes that rank `rank` of `size` stores of a parameter in a distributed checkpoint: one, or
// one per packed component (gate and up stand apart).
std::vector<TensorBox> RankBoxes(const Shape& shape, const TensorCut& cut, int size, int rank);

}  // namespace weighbridge
