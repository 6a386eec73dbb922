// The tensors of a call under their names, as they are stored, and as numbers to compute with.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <string>

#include "engine/boundary.h"

namespace weighbridge::engine {

class Weights {
 public:
  // Takes the tensors whose names begin with `prefix`, without it. Their bytes must outlive this.
  void Add(const WbEngineTensor& tensor, const std::string& prefix);

  bool Has(const std::string& name) const { return stored_.contains(name); }
  // As it is stored. Throws Unsupported when it is not there.
  const at::Tensor& Stored(const std::string& name) const;
  // In `dtype`. float32 is kept for the next time, float64 is not: it is twice as large.
  at::Tensor Get(const std::string& name, at::ScalarType dtype) const;
  // x W^T of a tall matrix W, of which `rows` count, in the dtype of x: in float64 a block of rows
  // is made after the other, for the whole of a vocabulary would be twice as large as in float32.
  at::Tensor TimesTall(const at::Tensor& x, const std::string& name, int64_t rows) const;
  // An undefined tensor where it is not there.
  at::Tensor GetIf(const std::string& name, at::ScalarType dtype) const {
    return Has(name) ? Get(name, dtype) : at::Tensor();
  }

 private:
  std::map<std::string, at::Tensor> stored_;
  mutable std::map<std::string, at::Tensor> kept_;
};

}  // namespace weighbridge::engine
