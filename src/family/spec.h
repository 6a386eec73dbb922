// A family file as it was read: docs/families.md describes every key. Plain values.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "tensor/dtype.h"

namespace weighbridge {

// A dim or flag: the first config key that is present and not null, else the default expression.
struct Symbol {
  std::vector<std::string> keys;
  std::string count;  // a config key whose list's or table's size counts where no key is there
  std::optional<std::string> expression;
  bool agree = false;  // the expression is the value, and what a key says must be the same
  // Where a key is there and null, when that is something else than its absence.
  std::optional<std::string> null_expression;
};

// A dim that each layer has for itself: `entry` of the layer's object in the config list `key`,
// else the default.
struct LayerDim {
  std::string key, entry;
  std::string function, of;  // of config.h's layer functions, with an expression as its argument
  std::optional<std::string> expression;
};

// A rule for layer kinds with its arguments as written.
struct LayerRule {
  std::string rule;
  std::map<std::string, std::string> arguments;  // expressions, kinds, config keys
  std::map<std::string, std::string> map;        // config entry -> kind
  std::vector<LayerRule> fallback;               // 0 or 1: used when the config key is absent
  std::map<std::string, LayerRule> stacks;       // stack -> the rule for its own layers
};

// One Megatron config field.
struct ConfigRule {
  std::vector<std::string> hf;  // keys, the first that is present wins
  std::string function;         // empty: the value as it is
  nlohmann::json arguments;     // of the function
  nlohmann::json constant;      // when not null, the value
  nlohmann::json fallback;      // when the source has none; null: its absence is an error
  nlohmann::json unsaid;        // when the RoPE table is of the kind and lacks the field
  nlohmann::json null_value;    // when a key is there and null; null: as where it is absent
  std::string dim, flag;        // expressions
  std::string rope;             // "KIND" or "KIND.FIELD" of the RoPE table
  std::string layer_kind, equals;
  std::vector<ConfigRule> list;
  std::map<std::string, ConfigRule> table;  // its entries, each with a source of its own
  std::string when;                         // where false, the value is none
  nlohmann::json none_as;  // when not null, what none stands for when the field is read backwards
};

// A key of config.json where [config] does not lead back to it.
struct HfConfigRule {
  std::string field;        // a Megatron field, taken as it is
  std::string expression;   // of Megatron fields: integers and truth values, none is 0
  nlohmann::json constant;  // when not null, the value
  std::string rope;         // only where the RoPE table is of this kind
};

struct StackRule {
  std::string name, megatron, hf, count;
  std::map<std::string, std::string> kinds;  // group -> kind, instead of the rule
  std::string params_of;                     // another stack, whose parameters this one has too
  std::string missing;                       // cause id
  // "first": a tower, which stands whole on the first pipeline stage; its layers have no kinds but
  // those of `kinds`. Empty: the layers are spread over the stages.
  std::string place;
  bool stacked = false;  // of a tower: on disk its layers are an axis, else numbers in the key

  bool is_tower() const { return !place.empty(); }
};

// The text model inside a model of several parts.
struct TextModelRule {
  // Dotted keys of config.json; the first that is there is the text model's config. Where none is,
  // all keys stand outside.
  std::vector<std::string> config;
  std::vector<std::string> outer;  // keys for which the whole model's config counts first
  // Where the model that holds the text model is a part itself (a thinker), its tables; their keys
  // count as if they stood outside.
  std::vector<std::string> within;
};

// One way in which HF stores a parameter.
struct HfStorage {
  std::vector<std::string> names;
  std::string transform = "identity";
  std::map<std::string, std::string> options;  // expressions; flags are "true"/"false"
};

struct ParamRule {
  std::vector<std::string> stacks;  // empty: one tensor outside of layers
  std::string place;                // "first", "last"; only without stack
  std::vector<std::string> layers;  // kinds that must hold; "!moe" negates
  std::string experts;              // expression; empty: not per expert
  std::string megatron, local;      // local empty: the same
  std::vector<HfStorage> storage;   // [0] is the primary
  std::vector<std::string> shape;   // of a scalar empty, and `scalar`
  bool scalar = false;
  std::string op = "none";
  std::string tp = "replicated";
  std::vector<std::string> components;
  // Names of the components that are tensors of their own on disk ("z", "x", "B", "C", "dt").
  std::vector<std::string> parts;
  // Names on disk when the module's is not it; the first is what is written, versions of
  // Megatron-Core differ in it.
  std::vector<std::string> disk;
  // Whether its module keeps an `_extra_state`; absent: as its name says (HoldsExtraState).
  std::optional<bool> extra_state;
  std::optional<DType> dtype;
  std::string when, unless, missing;
  int line = 0;
  bool inherited = false;  // from an extended file: a rule of the same name replaces it
};

// A Megatron parameter that no HF tensor feeds and that may or may not be there.
struct MegatronIgnoreRule {
  std::vector<std::string> stacks, layers;
  std::string megatron, local;
  std::vector<std::string> shape;
  std::string when, unless, why;
};

struct CopyRule {
  std::vector<std::string> stacks;
  std::string hf, same_as, when, why;
  std::string megatron;  // [tied] only: the name of the copy on the last pipeline stage
};

// Values of a config key with which the model has tensors or computes something that Megatron-Core
// does not know.
struct UnsupportedRule {
  std::vector<std::string> keys;    // the first that is present and not null is judged
  nlohmann::json values;            // a list: what is refused, or with `others` all that is not
  bool others = false;              // `except` instead of `values`
  std::vector<std::string> layers;  // only where a layer has these kinds
  std::string when, why;            // `when`: an expression; where it is false nothing is refused
};

struct IgnoreRule {
  std::vector<std::string> stacks;
  std::string hf, why;
};

// How Megatron Bridge builds the model: what run_config.yaml says beside [config].
struct BridgeRule {
  std::string provider;  // class, with its module
  // Which function gives the modules of a layer, per name of a spec ("te", "local", "te_mixed",
  // "local_mixed"): its name as text, or an object of `function` and the arguments that are fixed.
  std::map<std::string, nlohmann::json> layer_specs;
  // Fields of the provider that are no fields of [config], or are spelled otherwise there; those of
  // `local` count under the local spec.
  std::map<std::string, ConfigRule> fields, local_fields;
  // Fields to which the bridge gives a value that is not the model's: told where it is found, and
  // never written.
  std::map<std::string, nlohmann::json> faults;
};

struct FamilySpec {
  std::string name, kind, megatron_model, origin;  // origin: the file
  // Whose mapping it is: "bridge", Megatron Bridge has it too, or "own".
  std::string mapping = "bridge";
  std::vector<std::string> extends;
  // A family with the same Megatron model: where a Megatron checkpoint fits both and does not say
  // which it is, it is of that one.
  std::string variant_of;
  bool abstract = false;
  // On disk the keys of the decoder have layer numbers, whatever the config says.
  bool numbered_layers = false;
  std::vector<std::string> hf_architectures, hf_model_types;
  std::vector<std::string> quantization;  // as what its authors release it beside bf16: "fp8"
  std::map<std::string, Symbol> dims, flags;
  std::map<std::string, LayerDim> layer_dims;
  std::map<std::string, LayerRule> layer_kinds;
  std::map<std::string, ConfigRule> config;
  // What the Hugging Face class computes where the fields of [config] say something else or
  // nothing: fields of effects/effects.h.
  std::map<std::string, ConfigRule> effects;
  BridgeRule bridge;
  std::map<std::string, HfConfigRule> hf_config;  // dotted key -> rule
  // model_type -> key -> what that class of transformers takes where the key is absent or null. A
  // RoPE table is absent where neither of its spellings is there.
  nlohmann::json hf_defaults = nlohmann::json::object();
  std::vector<StackRule> stacks;
  std::vector<ParamRule> params;
  std::optional<CopyRule> tied;
  std::vector<CopyRule> copies;
  std::vector<IgnoreRule> ignores;
  std::vector<MegatronIgnoreRule> megatron_ignores;
  std::vector<UnsupportedRule> unsupported;
  TextModelRule text_model;
  // Other spellings of all HF names: beginnings -> what stands there instead.
  std::vector<std::map<std::string, std::string>> spellings;
  nlohmann::json toy = nlohmann::json::object();  // HF config of a small random model: key -> value
};

}  // namespace weighbridge
