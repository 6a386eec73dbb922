#include "python/src/held_tensors.h"

#include <utility>

namespace weighbridge::python {

HeldTensors::HeldTensors(std::string path, std::map<std::string, TensorView> tensors)
    : path_(std::move(path)), views_(std::move(tensors)) {
  tensors_.reserve(views_.size());
  for (const auto& [name, view] : views_) {
    tensors_.push_back(
        {.name = name, .dtype = view.dtype, .shape = view.shape, .nbytes = view.bytes.size()});
  }
}

}  // namespace weighbridge::python
