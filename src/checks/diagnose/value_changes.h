// What converters are known to do to values (docs/causes.md, "Values"). Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mapping/ops.h"
#include "tensor/dtype.h"

namespace weighbridge {

struct ValueChange {
  std::string_view cause;
  std::string what;
  // The bits in Megatron's dtype that a value of the HF tensor becomes.
  std::function<std::optional<uint64_t>(double)> apply;
  // Where more than one value is right: whether `found`, bits in Megatron's dtype, is. Else empty.
  std::function<bool(double value, uint64_t found)> holds = {};

  bool Gives(double value, uint64_t found) const {
    return holds ? holds(value, found) : apply(value) == found;
  }
};

// What a tensor is, as far as its values go.
struct ValueForm {
  Op op = Op::kNone;  // the family's
  DType from = DType::kF32, to = DType::kF32;
  bool norm = false, router_bias = false;
};

// Those that can change a value, the plainest first. Empty for dtypes that are no floats.
std::vector<ValueChange> KnownValueChanges(const ValueForm& form);

// The constants c for which `found` is c * value correctly rounded, over the pairs added so far.
class ScaleInterval {
 public:
  explicit ScaleInterval(DType dtype) : dtype_(dtype) {}

  // False when no constant is left.
  bool Add(double value, uint64_t found);
  // Of the narrowest interval that is left, once enough values that are not zero were added.
  std::optional<double> Constant() const;

 private:
  DType dtype_;
  double low_, high_;
  int64_t seen_ = 0;
};

}  // namespace weighbridge
