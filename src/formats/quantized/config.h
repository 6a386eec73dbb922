// What a config.json says of how its weights are stored.
#pragma once

#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/result.h"
#include "tensor/dtype.h"

namespace weighbridge {

struct QuantizationConfig {
  // quantization_config.quant_method ("fp8", "mxfp4", "compressed-tensors"), "unnamed" without one;
  // "": the weights are plain.
  std::string method;
  // weight_block_size: rows and columns of a block of FP8 weights.
  std::optional<std::array<int64_t, 2>> block;
  bool zero_points = false;    // weights are asymmetric: each has zero points
  DType dtype = DType::kBF16;  // of the values: the config's dtype where it is bf16, fp16 or fp32

  bool plain() const { return method.empty(); }
};

// The table may stand in the config or in a table of it. Errors: kUnsupported "quantized" for a
// method that is not known (GPTQ, AWQ, bitsandbytes, ...), kInvalid "config-value".
Result<QuantizationConfig> ReadQuantizationConfig(const nlohmann::json& config);

// Takes the quantization_config out, for weights that are written plain. True when there was one.
bool RemoveQuantizationConfig(nlohmann::ordered_json& config);

}  // namespace weighbridge
