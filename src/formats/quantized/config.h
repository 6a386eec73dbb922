// What a config.json says of how its weights are stored. What the files show decides; a config that
// says otherwise is a contradiction, which checkpoint.h names.
#pragma once

#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/dtype.h"

namespace weighbridge {

// How scales are said to lie over a weight.
struct ScaleLayout {
  enum class Kind : uint8_t { kUnsaid, kTensor, kChannel, kBlocks };
  Kind kind = Kind::kUnsaid;
  std::array<int64_t, 2> block = {};  // of kBlocks: rows and columns; a group is one row
  std::string said;                   // "group_size 128", for messages

  static ScaleLayout Blocks(int64_t rows, int64_t columns, std::string said = "") {
    return {Kind::kBlocks, {rows, columns}, std::move(said)};
  }
  bool operator==(const ScaleLayout&) const = default;
};

// Something that only holds for weights of certain schemes.
struct SchemeClaim {
  std::string said;                       // "num_bits 8, type float", for messages
  std::vector<std::string_view> schemes;  // of QuantizationNames()

  bool operator==(const SchemeClaim&) const = default;
};

// Scales of activations: a weight does not need them, whoever runs the model does.
struct ActivationPromise {
  enum class Kind : uint8_t { kUnsaid, kNone, kStatic };
  Kind kind = Kind::kUnsaid;
  std::string said;                         // "activation_scheme static"
  std::vector<std::string_view> spellings;  // of kStatic, "input_scale": one of them is there

  bool operator==(const ActivationPromise&) const = default;
};

// What is said of the weights of some modules.
struct WeightPromise {
  std::string where;  // "config_groups.group_0", for messages
  // Module names, "re:..." or classes; an empty list has no module, nullopt: all modules.
  std::optional<std::vector<std::string>> targets;
  bool quantized = true;  // false: their weights are plain
  std::vector<SchemeClaim> claims;
  std::string_view also;  // a scheme that is there beside, of which nothing is said
  ScaleLayout layout;
  // compressed-tensors' num_bits of codes that are packed into int32.
  std::optional<int64_t> packed_bits;
  std::optional<bool> symmetric;  // false: each weight has zero points
  std::optional<DType> codes;     // of FP8
  ActivationPromise activations;

  bool SameWeights(const WeightPromise& other) const {
    return quantized == other.quantized && claims == other.claims && layout == other.layout &&
           packed_bits == other.packed_bits && symmetric == other.symmetric &&
           codes == other.codes && activations == other.activations;
  }
};

struct QuantizationConfig {
  // quantization_config.quant_method ("fp8", "mxfp4", "compressed-tensors"); "": the weights are
  // plain.
  std::string method;
  std::vector<WeightPromise> promises;
  // Modules that are said to be left as they were ("ignore", "modules_to_not_convert").
  std::vector<std::string> left_plain;
  std::string left_plain_key;  // how the config calls that list
  bool cache_scales = false;   // the attention's cache has static scales
  DType dtype = DType::kBF16;  // of the values: the config's dtype where it is bf16, fp16 or fp32

  bool plain() const { return method.empty(); }
};

// The table may stand in the config or in a table of it. Errors: kUnsupported "quantized" for a
// method, format, algorithm or transform of the weights that is not known (GPTQ, AWQ, a Hadamard
// rotation, ...), kInvalid "config-kind" for values of a wrong kind.
Result<QuantizationConfig> ReadQuantizationConfig(const nlohmann::json& config);

// Takes the quantization_config out, for weights that are written plain. True when there was one.
bool RemoveQuantizationConfig(nlohmann::ordered_json& config);

}  // namespace weighbridge
