// Named tensors for Python: of files, read in place, or of memory that Python lends.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>
#include <string>

#include "formats/checkpoint.h"
#include "tensor/tensor.h"

namespace weighbridge::python {

// Bytes that Python holds; contiguous, on the CPU.
using Bytes =
    nanobind::ndarray<const uint8_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

// (dtype, shape, bytes) as a view. Raises for an unknown dtype and for bytes that do not fit.
TensorView ViewOf(const std::string& dtype, const Shape& shape, const Bytes& bytes);

// A checkpoint of files, or tensors [(name, dtype, shape, bytes)] of Python's memory, which are
// kept alive.
class Tensors {
 public:
  static Tensors Open(const std::string& path);
  static Tensors Hold(const nanobind::list& tensors);

  const Checkpoint& checkpoint() const { return *checkpoint_; }
  // Raises KeyError.
  const TensorInfo& Find(const std::string& name) const;

 private:
  std::unique_ptr<Checkpoint> checkpoint_;
  nanobind::object lent_;
};

void BindCheckpoints(nanobind::module_& module);

}  // namespace weighbridge::python
