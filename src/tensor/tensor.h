// Shapes and views. A TensorView never owns its bytes; the file or buffer behind it must outlive
// it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace weighbridge {

// Extents, outermost first; empty for a scalar.
using Shape = std::vector<int64_t>;

// "[128, 64]"; "[]" for a scalar.
std::string ToString(const Shape& shape);

// The product of the extents. `shape` must have passed CheckedNumel.
int64_t Numel(const Shape& shape);

// Row-major (C order) strides in elements.
std::vector<int64_t> RowMajorStrides(const Shape& shape);

// The index along each axis of flat element `flat`.
std::vector<int64_t> MultiIndex(const Shape& shape, int64_t flat);

// The multi-index of flat element `flat`, for messages: "[3, 17]".
std::string IndexToString(const Shape& shape, int64_t flat);

// Contiguous, little-endian, row-major elements. `bytes.size() == BytesFor(dtype, Numel(shape))`.
struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  std::span<const std::byte> bytes;
};

}  // namespace weighbridge
