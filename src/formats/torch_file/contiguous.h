// Row-major copies of strided tensors.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "formats/torch_file/torch_file.h"

namespace weighbridge {

// The `tensor.nbytes` bytes of the tensor's elements in row-major order. `bytes` is what its file
// was opened on. The caller bounds nbytes, which strides of 0 can make larger than the file.
std::vector<std::byte> CopyContiguous(const TorchTensor& tensor, std::span<const std::byte> bytes);

}  // namespace weighbridge
