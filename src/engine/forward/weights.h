// The tensors of a call under their names, as they are stored, and as numbers to compute with.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <string>
#include <vector>

#include "engine/boundary.h"

namespace weighbridge::engine {

// Buffers that one layer after the other fills: a fresh one costs more than what it is filled with.
// Not thread-safe.
class BufferPool {
 public:
  at::Tensor Take(at::IntArrayRef shape, const at::TensorOptions& options);
  void Give(at::Tensor buffer);

 private:
  std::vector<at::Tensor> free_;
};

// Those of one stage of one side, on the device that computes. The pool must outlive this.
class Weights {
 public:
  Weights(BufferPool& pool, at::Device device) : pool_(pool), device_(device) {}
  ~Weights();
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  // Takes the tensors whose names begin with `prefix`, without it. Their bytes must outlive this.
  void Add(const WbEngineTensor& tensor, const std::string& prefix);

  bool Has(const std::string& name) const { return stored_.contains(name); }
  // As it is stored, in the memory of the CPU. Throws Unsupported when it is not there.
  const at::Tensor& Stored(const std::string& name) const;
  // In `dtype`. Kept for the next time, but for float64: it is twice as large.
  at::Tensor Get(const std::string& name, at::ScalarType dtype) const;
  // An undefined tensor where it is not there.
  at::Tensor GetIf(const std::string& name, at::ScalarType dtype) const {
    return Has(name) ? Get(name, dtype) : at::Tensor();
  }
  // Rows `index` of a table, and matrix `at` of a stack of them.
  at::Tensor Rows(const std::string& name, const at::Tensor& index, at::ScalarType dtype) const;
  at::Tensor Matrix(const std::string& name, int64_t at, at::ScalarType dtype) const;
  // x W^T, in the dtype of x. In float64 a block of rows of W is made after the other.
  at::Tensor Times(const at::Tensor& x, const std::string& name) const;
  // The same with rows [begin, begin + count) alone, of which nothing is kept.
  at::Tensor TimesRows(const at::Tensor& x, const std::string& name, int64_t begin,
                       int64_t count) const;

 private:
  const at::Tensor& Here(const std::string& name) const;
  at::Tensor Filled(const at::Tensor& stored, at::ScalarType dtype) const;

  BufferPool& pool_;
  const at::Device device_;
  std::map<std::string, at::Tensor> stored_;
  mutable std::map<std::string, at::Tensor> moved_;
  mutable std::map<std::pair<std::string, at::ScalarType>, at::Tensor> kept_;
};

}  // namespace weighbridge::engine
