// Reading HF configs by dotted keys, and the functions between HF keys and Megatron fields.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace weighbridge {

// The value at "rope_parameters.rope_theta", or in a list at "sizes.0"; nullptr when absent or null
// on the way.
const nlohmann::json* FindKey(const nlohmann::json& config, std::string_view dotted);

// Whether one of the keys is there and null, which FindKey takes as absent.
bool HasNullKey(const nlohmann::json& config, const std::vector<std::string>& keys);

// The first of `keys` that is present and not null; nullptr when there is none.
const nlohmann::json* FirstKey(const nlohmann::json& config, const std::vector<std::string>& keys);

// A function of an entry that each layer has for itself and of one of the model's dims; nullptr
// when there is none of that name. "ffn_multiple": DeciLM's, the size of a gated MLP as a multiple
// of 2/3 of the hidden size, rounded up to a multiple of 256. Errors: kInvalid.
using LayerFunction = Result<int64_t> (*)(const nlohmann::json& value, int64_t of);
LayerFunction FindLayerFunction(std::string_view name);

// Sets the value at a dotted key; what is no object on the way becomes one.
void SetDottedKey(nlohmann::json& config, std::string_view dotted, nlohmann::json value);

// The config as its text model sees it: the first of `tables` that is an object, laid over the
// whole config but for the keys of `outer` that this one has. Null counts as absent.
nlohmann::json LayTextConfigOver(const nlohmann::json& config,
                                 const std::vector<std::string>& tables,
                                 const std::vector<std::string>& outer);

// `value` as JSON text for messages, shortened.
std::string Describe(const nlohmann::json& value);

struct ConfigFunction {
  std::string_view name;
  std::string_view meaning;  // one line, for `families show` and the docs
  // `value`: the HF value (null when absent and the function wants to know); kInvalid when it does
  // not fit.
  Result<nlohmann::json> (*apply)(const nlohmann::json& value, const nlohmann::json& arguments);
  // The way back, for the HF config of a Megatron checkpoint: a value that `apply` takes to
  // `value`, where null is None. kInvalid when there is none.
  Result<nlohmann::json> (*invert)(const nlohmann::json& value, const nlohmann::json& arguments);
};

// Sorted by name.
const std::vector<ConfigFunction>& AllConfigFunctions();
const ConfigFunction* FindConfigFunction(std::string_view name);

}  // namespace weighbridge
