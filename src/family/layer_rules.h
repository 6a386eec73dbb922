// Rules that say which kind each layer has ("dense", "moe", "sliding", ...).
#pragma once

#include <cstdint>
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

// One kind per layer. Errors: kInvalid when the config does not fit the rule.
Result<std::vector<std::string>> LayerKinds(const LayerRule& rule, int64_t layers,
                                            const nlohmann::json& config, const NameLookup& lookup);

// Every kind that a rule can yield, for lint.
std::vector<std::string> PossibleKinds(const LayerRule& rule);

}  // namespace weighbridge
