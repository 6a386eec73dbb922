#include "engine/forward/weights.h"

#include <algorithm>
#include <vector>

#include "engine/forward/module.h"
#include "tensor/dtype.h"

namespace weighbridge::engine {
namespace {

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
  const at::Tensor& stored = Stored(name);
  if (dtype != at::kFloat) return stored.to(dtype);
  at::Tensor& kept = kept_[name];
  if (!kept.defined()) kept = stored.to(dtype);
  return kept;
}

at::Tensor Weights::TimesTall(const at::Tensor& x, const std::string& name, int64_t rows) const {
  constexpr int64_t kRowsPerBlock = 8192;
  const at::Tensor& stored = Stored(name);
  rows = std::min(rows, stored.size(0));
  if (x.scalar_type() == at::kFloat)
    return at::matmul(x, Get(name, at::kFloat).narrow(0, 0, rows).t());
  std::vector<at::Tensor> parts;
  for (int64_t begin = 0; begin < rows; begin += kRowsPerBlock) {
    const at::Tensor block = stored.narrow(0, begin, std::min(kRowsPerBlock, rows - begin));
    parts.push_back(at::matmul(x, block.to(x.scalar_type()).t()));
  }
  return at::cat(parts, -1);
}

}  // namespace weighbridge::engine
