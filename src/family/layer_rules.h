// Rules that say which kind each layer has ("dense", "moe", "sliding", ...).
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "family/expression.h"
#include "family/spec.h"

namespace weighbridge {

struct LayerRuleInfo {
  std::string_view name;
  std::vector<std::string_view> required, optional;  // arguments
};

// Every rule, sorted by name.
const std::vector<LayerRuleInfo>& AllLayerRules();

// One kind per layer; those of `stacks` are not looked at. Errors: kInvalid when the config does
// not fit the rule.
Result<std::vector<std::string>> LayerKinds(const LayerRule& rule, int64_t layers,
                                            const nlohmann::json& config, const NameLookup& lookup);

// The way back: the arguments that make layer i of `kind` exactly where is[i]. `set_key` takes
// config keys, `set_dim` expressions of the rule (a number or a dim) with their value. False when
// the rule cannot say it, or has no config key to say it with.
bool InvertLayerRule(const LayerRule& rule, const std::string& kind, const std::vector<bool>& is,
                     const std::function<void(const std::string&, nlohmann::json)>& set_key,
                     const std::function<void(const std::string&, int64_t)>& set_dim);

// The way back from the kind of each layer, for a rule that reads them from a list or a pattern. Of
// several entries for one kind the one that `sample`, another config of the family, has is taken,
// else the first. False as above.
bool InvertLayerKinds(const LayerRule& rule, const std::vector<std::string>& kinds,
                      const nlohmann::json& sample,
                      const std::function<void(const std::string&, nlohmann::json)>& set_key);

// Every kind that a rule can yield, for lint.
std::vector<std::string> PossibleKinds(const LayerRule& rule);

}  // namespace weighbridge
