// The wrong layouts and values that one tensor can have (docs/causes.md), as naive loops over its
// elements in Megatron's order.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "checks/selftest/held_tensor.h"
#include "checks/selftest/row_labels.h"
#include "family/model.h"

namespace weighbridge {

struct TensorFlaw {
  std::string_view cause;
  std::string what;  // equal for the same fault of another layer's tensor
  std::function<HeldTensor(const HeldTensor&, Random&)> apply;
  bool random = false;  // other values each time: equal bytes cannot be asked for
};

// A parameter, and what its rows are.
struct FaultyTensor {
  const Parameter& parameter;
  std::shared_ptr<const LabelledRows> rows;
  DType dtype;  // as Megatron stores it
};

// Those that apply; of a small tensor some may change nothing.
std::vector<TensorFlaw> TensorFlaws(const FaultyTensor& tensor);

// Of them: parts in another order, shards, axes.
void AddLayoutFaults(const FaultyTensor& tensor, std::vector<TensorFlaw>& out);
void AddValueFaults(const FaultyTensor& tensor, std::vector<TensorFlaw>& out);

}  // namespace weighbridge
