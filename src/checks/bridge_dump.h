// What the Python package's inspect_bridge wrote down of a bridge in Python (an object of Megatron
// Bridge's shape): its rules in order, the provider that it makes, and the inventories of both
// sides where they were at hand. docs/python.md describes the document.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "tensor/tensor.h"

namespace weighbridge {

inline constexpr char kBridgeDumpSchema[] = "weighbridge.bridge/1";

// HF names by role ("q", "gate"); one without roles has the role "".
using RuleSources = std::vector<std::pair<std::string, std::string>>;

// What a rule that holds mappings which its class does not build did to made-up tensors, on one
// rank, beside its class.
struct RuleTrial {
  std::string like;     // the class that it was compared with; empty: it was not tried
  std::string changed;  // what it did otherwise; empty: nothing
  std::string untried;  // why it was not compared
};

// One entry of the registry, a mapping from a Megatron name to HF names.
struct RegistryRule {
  size_t number = 0;  // its place in the registry, from 0
  std::string megatron;
  RuleSources hf;
  std::string mapping_class;  // "QKVMapping", for messages
  // The class and those that it is made of, nearest first, each with its module.
  std::vector<std::string> classes;
  // Code besides Megatron Bridge's common mappings: method -> where it stands,
  // "my_bridge.MyMapping.hf_to_megatron".
  std::map<std::string, std::string> own;
  // Mappings to which it may leave the conversion and which its class does not build: where it
  // holds them ("_mapping", "_parts[0]") -> their class.
  std::map<std::string, std::string> held;
  RuleTrial trial;
  // How mappings that its class builds have been told to cut: "column", "row", "replicated".
  std::vector<std::string> cuts;
  std::vector<int64_t> permute_dims;  // empty: none
  bool transposes_on_export = false;
  bool gathers_on_export = false;  // all experts into one tensor (is_grouped_export)
  // The arguments of the mapping of one parameter, where the rule makes it with others than its
  // own: as text; empty: with its own.
  std::string resolved_args;
  // What the rule raised while it was inspected; the rest is what could be read before. Empty:
  // nothing.
  std::string raised;
  // What a class that resolves names by code of its own makes of Megatron names.
  std::map<std::string, RuleSources> resolved;

  // "rule 17 (QKVMapping decoder.layers.*.self_attention.linear_qkv.weight)"
  std::string Text() const;
};

// A method between files and rules, or in their place, that is not the one of Megatron Bridge's
// base classes, and what it did to made-up tensors (docs/python.md).
struct BridgeHook {
  std::string method;  // "maybe_modify_loaded_hf_weight"
  std::string code;    // where it stands, "my_bridge.MyBridge.maybe_modify_loaded_hf_weight"
  std::map<size_t, std::string> changed;  // by the number of the rule, what it changed
  std::map<size_t, std::string> untried;  // by the number of the rule, why
};

struct DumpedTensor {
  std::string name;
  Shape shape;
};

struct BridgeDump {
  std::string bridge;  // the class
  std::vector<RegistryRule> rules;
  nlohmann::json config;    // of the Hugging Face model
  nlohmann::json provider;  // its fields, as run_config.yaml has them; null: not at hand
  std::map<std::string, std::string> left_out;  // fields that are no plain values -> their type
  std::vector<BridgeHook> hooks;
  std::optional<std::vector<DumpedTensor>> hf, megatron;
  std::vector<std::string> notes;  // what could not be inspected
};

// Errors: kInvalid "bridge-dump" with the place of what is wrong.
Result<BridgeDump> ParseBridgeDump(const nlohmann::json& document);

// Megatron Bridge's matching: "*" is a run of digits, "**" any text, the whole name must match.
// The texts that the wildcards stand for, from left to right; nullopt: no match. Takes time and
// memory of the product of both lengths, whatever the wildcards; texts of more than 4096 letters do
// not match.
std::optional<std::vector<std::string>> MatchRule(std::string_view pattern, std::string_view name);

// Megatron Bridge's substitution: all "**" are filled first, then the "*".
std::string FillRule(std::string pattern, const std::vector<std::string>& captures);

// What `rule` reads for the Megatron tensor `name`; nullopt: it does not match.
std::optional<RuleSources> SourcesOf(const RegistryRule& rule, const std::string& name);

// The first rule from `begin` on that matches; nullptr: none.
const RegistryRule* FirstRule(const BridgeDump& dump, const std::string& name, size_t begin = 0);

}  // namespace weighbridge
