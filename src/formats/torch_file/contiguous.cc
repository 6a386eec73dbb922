#include "formats/torch_file/contiguous.h"

#include <cstring>

namespace weighbridge {

std::vector<std::byte> CopyContiguous(const TorchTensor& tensor, std::span<const std::byte> bytes) {
  std::vector<std::byte> copy(tensor.nbytes);
  const size_t width = static_cast<size_t>(BitsOf(tensor.dtype)) / 8;
  std::vector<int64_t> index(tensor.shape.size(), 0);
  uint64_t from = tensor.offset;
  for (size_t to = 0; to < copy.size(); to += width) {
    std::memcpy(copy.data() + to, bytes.data() + from, width);
    // The next index in row-major order, and its place.
    for (size_t axis = index.size(); axis-- > 0;) {
      const auto step = static_cast<uint64_t>(tensor.strides[axis]) * width;
      if (++index[axis] < tensor.shape[axis]) {
        from += step;
        break;
      }
      from -= step * static_cast<uint64_t>(tensor.shape[axis] - 1);
      index[axis] = 0;
    }
  }
  return copy;
}

}  // namespace weighbridge
