// The public API for comparing tensors and state dicts exactly. Thread-safe; nothing is written to
// the inputs, and nothing throws. Link `weighbridge`'s checks library; headers named in quotes are
// installed beside this one (include/weighbridge/tensor/..., found with -I include/weighbridge).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checks/result.h"
#include "formats/checkpoint.h"
#include "tensor/tensor.h"

namespace weighbridge {

struct CompareOptions {
  // |expected - actual| <= atol + rtol * |expected| matches; both 0: the bits must be equal.
  double atol = 0, rtol = 0;
  int threads = 1;
  // State dicts only: names that match one of these patterns (`*`, `?`) are left out.
  std::vector<std::string> ignore;
};

struct TensorComparison {
  // Shape and every value match. Another dtype is allowed if no value changes (bf16 -> float32).
  bool equal = false;
  bool shapes_match = false;
  bool dtypes_match = false;
  // tensor/compare.h defines each; NaN where there is no number to give. Of no meaning unless
  // shapes_match.
  Metrics metrics;
  std::optional<std::vector<int64_t>> first_index;  // of the first pair that does not match
  std::string first_expected, first_actual;         // its values: "0.5 (0x3f00)"
  std::string
      message;  // one line: "equal", "shape [2, 3] against [3, 2]", "4 of 6 values differ, ..."
};

TensorComparison CompareTensors(const TensorView& expected, const TensorView& actual,
                                const CompareOptions& options = {});

struct TensorDifference {
  std::string name;
  double max_diff = 0;  // NaN: a NaN or an infinity meets something else
  Metrics metrics;
  std::string message;
};

// What the usual Python helper says of two state dicts.
struct StateDictComparison {
  // Same keys, same shapes, every value matches, and at least one tensor was compared.
  bool equal = false;
  int64_t compared = 0;              // keys on both sides with the same shape
  int64_t matched = 0;               // of those, the ones that match
  std::vector<std::string> missing;  // keys of `expected` that `actual` lacks, by name
  std::vector<std::string> extra;    // keys of `actual` that `expected` lacks, by name
  std::vector<TensorDifference> shape_mismatches;  // message: "shape [2, 3] against [3, 2]"
  std::vector<TensorDifference> dtype_mismatches;  // other dtype, whether values match or not
  std::vector<TensorDifference> differences;  // values that do not match, largest max_diff first
  // "All N parameters match exactly." when they do; else one line per kind of difference.
  std::string summary;
};

StateDictComparison CompareStateDicts(const Checkpoint& expected, const Checkpoint& actual,
                                      const CompareOptions& options = {});

}  // namespace weighbridge
