// From the figures of tensor/compare.h to those of a report.
#pragma once

#include <string>
#include <vector>

#include "checks/result.h"
#include "tensor/compare.h"

namespace weighbridge {

Metrics ToMetrics(const ElementStats& stats);

// The multi-index of a component (float_bits.h) of a tensor of this dtype and shape.
std::vector<int64_t> ComponentIndex(DType dtype, const Shape& shape, int64_t component);

// The pair at `component`, with both values in decimal and bits. Both views have the same number of
// components.
FirstDifference DescribePair(const std::string& expected_name, const TensorView& expected,
                             const std::string& actual_name, const TensorView& actual,
                             int64_t component);

}  // namespace weighbridge
