#include "checks/rule_code.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace weighbridge {
namespace {

// What they do stands in the dump: the names that a rule has and what they resolve to, its
// arguments.
constexpr std::array<std::string_view, 6> kSeen = {"__init__",  "resolve",  "_validate_patterns",
                                                   "group_key", "__repr__", "__doc__"};

// Methods of a known class are known with it, where it is the rule's own, one that it is made of,
// or that of a mapping that it holds ("_tp_mapping.hf_to_megatron").
bool IsKnown(const RegistryRule& rule, const std::string& entry, const std::string& code) {
  const size_t held = entry.rfind('.');
  const std::string method = held == std::string::npos ? entry : entry.substr(held + 1);
  if (std::find(kSeen.begin(), kSeen.end(), method) != kSeen.end()) return true;
  const size_t dot = code.rfind('.');
  if (dot == std::string::npos || code.substr(dot + 1) != method) return false;
  const std::string kind = code.substr(0, dot);
  if (FindMappingClass(kind) == nullptr) return false;
  return held != std::string::npos ||
         std::find(rule.classes.begin(), rule.classes.end(), kind) != rule.classes.end();
}

std::vector<std::string> UnknownMethods(const RegistryRule& rule) {
  std::vector<std::string> codes;
  for (const auto& [method, code] : rule.own) {
    if (!IsKnown(rule, method, code)) codes.push_back(code);
  }
  return codes;
}

// The nearest class that converts, whatever was made of it.
const MappingClass* NearestClass(const RegistryRule& rule) {
  for (const std::string& code : rule.classes) {
    const MappingClass* known = FindMappingClass(code);
    if (known != nullptr && !known->passes_on) return known;
  }
  return nullptr;
}

}  // namespace

const MappingClass* KnownClassOf(const RegistryRule& rule) {
  return rule.held.empty() ? ClassByCode(rule) : nullptr;
}

const MappingClass* ClassByCode(const RegistryRule& rule) {
  return UnknownMethods(rule).empty() ? NearestClass(rule) : nullptr;
}

const MappingClass* ClassThatItChanges(const RegistryRule& rule) {
  if (rule.trial.changed.empty()) return nullptr;
  const MappingClass* nearest = NearestClass(rule);
  return nearest == FindMappingClass(rule.trial.like) ? nearest : nullptr;
}

std::string HeldText(const RegistryRule& rule) {
  std::string text;
  for (const auto& [place, kind] : rule.held) {
    text += fmt::format("{}{} in {}", text.empty() ? "" : ", ", kind, place);
  }
  return text;
}

std::vector<std::string> OwnCodeOf(const RegistryRule& rule) {
  std::vector<std::string> codes = UnknownMethods(rule);
  if (codes.empty() && rule.held.empty() && NearestClass(rule) == nullptr) {
    codes.push_back(rule.classes.empty() ? rule.mapping_class : rule.classes[0]);
  }
  return codes;
}

}  // namespace weighbridge
