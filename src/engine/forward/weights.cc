#include "engine/forward/weights.h"

#include <algorithm>
#include <vector>

#include "engine/forward/module.h"
#include "tensor/dtype.h"

namespace weighbridge::engine {
namespace {

// Of a matrix in float64: about 16 MiB.
constexpr int64_t kElementsPerBlock = 1 << 21;

at::ScalarType TypeOf(const WbEngineTensor& tensor) {
  switch (static_cast<DType>(tensor.dtype)) {
    case DType::kF16:
      return at::kHalf;
    case DType::kBF16:
      return at::kBFloat16;
    case DType::kF32:
      return at::kFloat;
    case DType::kF64:
      return at::kDouble;
    case DType::kI32:
      return at::kInt;
    case DType::kI64:
      return at::kLong;
    default:
      throw Unsupported(std::string("a weight of a dtype that is not computed with: ") +
                        tensor.name);
  }
}

// One product of matrices: torch takes many small ones when an axis of length 1 has the stride of a
// transposed one, a hundred times slower.
at::Tensor TimesMatrix(const at::Tensor& x, const at::Tensor& w) {
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = w.size(0);
  return at::mm(x.reshape({-1, x.size(-1)}), w.t()).view(shape);
}

}  // namespace

void Weights::Add(const WbEngineTensor& tensor, const std::string& prefix) {
  const std::string name = tensor.name;
  if (!name.starts_with(prefix)) return;
  // The tensor is only read, which from_blob has no word for.
  stored_[name.substr(prefix.size())] =
      at::from_blob(const_cast<void*>(tensor.data), at::IntArrayRef(tensor.shape, tensor.rank),
                    at::TensorOptions().dtype(TypeOf(tensor)));
}

const at::Tensor& Weights::Stored(const std::string& name) const {
  const auto it = stored_.find(name);
  if (it == stored_.end()) throw Unsupported("the model has no '" + name + "'");
  return it->second;
}

at::Tensor Weights::Get(const std::string& name, at::ScalarType dtype) const {
  const at::Tensor& stored = Here(name);
  if (stored.scalar_type() == dtype) return stored;
  if (dtype == at::kDouble) return stored.to(dtype);
  at::Tensor& kept = kept_[{name, dtype}];
  if (!kept.defined()) kept = Filled(stored, dtype);
  return kept;
}

// As it is stored, on the device: moved once, in the bytes that it has.
const at::Tensor& Weights::Here(const std::string& name) const {
  const at::Tensor& stored = Stored(name);
  if (device_.is_cpu()) return stored;
  at::Tensor& moved = moved_[name];
  if (!moved.defined()) moved = stored.to(device_);
  return moved;
}

at::Tensor Weights::Rows(const std::string& name, const at::Tensor& index,
                         at::ScalarType dtype) const {
  return Stored(name).index_select(0, index.to(at::kCPU)).to(device_, dtype);
}

at::Tensor Weights::Matrix(const std::string& name, int64_t at, at::ScalarType dtype) const {
  return Here(name).select(0, at).to(dtype);
}

at::Tensor Weights::Times(const at::Tensor& x, const std::string& name) const {
  if (x.scalar_type() != at::kDouble) return TimesMatrix(x, Get(name, x.scalar_type()));
  return TimesRows(x, name, 0, Stored(name).size(0));
}

at::Tensor Weights::TimesRows(const at::Tensor& x, const std::string& name, int64_t begin,
                              int64_t count) const {
  const at::Tensor rows = Here(name).narrow(0, begin, count);
  if (rows.scalar_type() == x.scalar_type()) return TimesMatrix(x, rows);
  const int64_t width = std::max<int64_t>(rows.size(1), 1);
  const int64_t each = device_.is_cpu() ? std::max<int64_t>(1, kElementsPerBlock / width) : count;
  std::vector<at::Tensor> parts;
  for (int64_t at = 0; at < count; at += each) {
    const at::Tensor block =
        Filled(rows.narrow(0, at, std::min(each, count - at)), x.scalar_type());
    parts.push_back(TimesMatrix(x, block));
    pool_.Give(block);
  }
  return parts.size() == 1 ? parts.front() : at::cat(parts, -1);
}

at::Tensor Weights::Filled(const at::Tensor& stored, at::ScalarType dtype) const {
  at::Tensor buffer = pool_.Take(stored.sizes(), stored.options().device(device_).dtype(dtype));
  buffer.copy_(stored);
  return buffer;
}

Weights::~Weights() {
  for (auto& [key, tensor] : kept_) pool_.Give(std::move(tensor));
}

at::Tensor BufferPool::Take(at::IntArrayRef shape, const at::TensorOptions& options) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  const auto it = std::find_if(free_.begin(), free_.end(), [&](const at::Tensor& buffer) {
    return buffer.numel() == count && buffer.scalar_type() == options.dtype() &&
           buffer.device() == options.device();
  });
  if (it == free_.end()) {
    // What idles is of another kind of layer: it makes room, so that the pool does not grow.
    for (int64_t dropped = 0; !free_.empty() && dropped < count; free_.erase(free_.begin())) {
      dropped += free_.front().numel();
    }
    return at::empty(shape, options);
  }
  at::Tensor buffer = std::move(*it);
  free_.erase(it);
  return buffer.view(shape);
}

void BufferPool::Give(at::Tensor buffer) {
  // On a device torch keeps freed memory by itself.
  if (buffer.defined() && buffer.is_cpu()) free_.push_back(std::move(buffer));
}

}  // namespace weighbridge::engine
