// quantization_config.config_groups, as compressed-tensors and ModelOpt write it: per group of
// modules, how their weights and activations are quantized.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/quantized/config.h"

namespace weighbridge {

// One promise per group, in the order of the config. `format` is the table's own; a group may have
// another. Errors as of ReadQuantizationConfig.
Result<std::vector<WeightPromise>> ReadConfigGroups(const nlohmann::json& table);

// A value of a table: nullptr where it is absent or null. kInvalid "config-kind" for another kind;
// `where` is the table's place, "quantization_config".
Result<const nlohmann::json*> TableIn(const nlohmann::json& table, const char* key,
                                      const std::string& where);
Result<std::string> TextIn(const nlohmann::json& table, const char* key, const std::string& where);
Result<std::vector<std::string>> TextsIn(const nlohmann::json& table, const char* key,
                                         const std::string& where);
// A list of two positive integers.
Result<std::optional<std::array<int64_t, 2>>> BlockIn(const nlohmann::json& table, const char* key,
                                                      const std::string& where);

// Whether scales are static: `dynamic` is absent, null or false; "local" is static here.
Result<bool> IsStatic(const nlohmann::json& arguments, const std::string& where);

tl::unexpected<Error> RefuseQuantized(std::string what, std::string at);

}  // namespace weighbridge
