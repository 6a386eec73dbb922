// A tensor in memory whose elements are read and written one by one. Faults are injected with plain
// loops over it, which share nothing with the plans and pieces that the search for faults uses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <random>
#include <vector>

#include "tensor/tensor.h"

namespace weighbridge {

using Random = std::mt19937_64;

// A number in [0, count); `count` > 0. The same on every platform.
int64_t Pick(Random& random, int64_t count);
// `some` is not empty.
template <typename T>
const T& OneOf(const std::vector<T>& some, Random& random) {
  return some[static_cast<size_t>(Pick(random, std::ssize(some)))];
}
// Near a normal distribution around 0 with standard deviation 1.
double PickNormal(Random& random);

// Row-major; elements of whole bytes.
struct HeldTensor {
  DType dtype = DType::kF32;
  Shape shape;
  std::vector<std::byte> bytes;

  bool operator==(const HeldTensor&) const = default;
  int64_t numel() const { return Numel(shape); }
  int64_t rows() const { return shape.empty() ? 1 : shape[0]; }
  int64_t columns() const { return rows() == 0 ? 0 : numel() / rows(); }
  size_t element_size() const;
  uint64_t Bits(int64_t element) const;
  void SetBits(int64_t element, uint64_t bits);
  double Value(int64_t element) const;
  // Rounded once; left as it is for dtypes that no value is rounded to.
  void SetValue(int64_t element, double value);
  // The tensor whose element e is this one's element source_of(e).
  HeldTensor Rearranged(const std::function<int64_t(int64_t)>& source_of) const;
};

}  // namespace weighbridge
