// The config of a random model: a base, edits, and what every config.json has.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/json.h"
#include "base/strings.h"
#include "checks/toy.h"
#include "family/config.h"

namespace weighbridge {
namespace {

using nlohmann::ordered_json;

constexpr const char* TorchName(DType dtype) {
  return dtype == DType::kBF16 ? "bfloat16" : dtype == DType::kF16 ? "float16" : "float32";
}

void AddKeys(const LayerRule& rule, std::set<std::string>& keys) {
  for (const char* name : {"key", "except"}) {
    if (const auto it = rule.arguments.find(name); it != rule.arguments.end())
      keys.insert(it->second);
  }
  for (const LayerRule& inner : rule.fallback) AddKeys(inner, keys);
  for (const auto& [stack, inner] : rule.stacks) AddKeys(inner, keys);
}

void AddKeys(const ConfigRule& rule, std::set<std::string>& keys) {
  keys.insert(rule.hf.begin(), rule.hf.end());
  if (!rule.rope.empty()) keys.insert({"rope_scaling", "rope_parameters"});
  for (const ConfigRule& inner : rule.list) AddKeys(inner, keys);
  for (const auto& [key, inner] : rule.table) AddKeys(inner, keys);
}

// A key of the text model as it stands in `config`.
std::string PlacedKey(const FamilySpec& spec, const ordered_json& config, const std::string& key) {
  const nlohmann::json plain = config;
  if (FindKey(plain, key) != nullptr) return key;
  for (const std::string& table : spec.text_model.config) {
    const nlohmann::json* text = FindKey(plain, table);
    if (text != nullptr && FindKey(*text, key) != nullptr) return table + "." + key;
  }
  return key;
}

// Every config key that the family reads or its toy has.
std::set<std::string> KnownKeys(const FamilySpec& spec) {
  std::set<std::string> keys = {"architectures", "model_type",           "torch_dtype",
                                "dtype",         "bos_token_id",         "eos_token_id",
                                "pad_token_id",  "transformers_version", "initializer_range"};
  for (const auto& [key, value] : spec.toy.items()) keys.insert(key);
  for (const auto* symbols : {&spec.dims, &spec.flags}) {
    for (const auto& [name, symbol] : *symbols) keys.insert(symbol.keys.begin(), symbol.keys.end());
  }
  for (const auto& [group, rule] : spec.layer_kinds) AddKeys(rule, keys);
  for (const auto& [name, dim] : spec.layer_dims) keys.insert(dim.key);
  for (const auto& [field, rule] : spec.config) AddKeys(rule, keys);
  return keys;
}

// The other spellings of a size that `key` names: only keys that no second size reads.
std::vector<std::string> OtherSpellings(const FamilySpec& spec, const std::string& key) {
  std::map<std::string, int> readers;
  for (const auto* symbols : {&spec.dims, &spec.flags}) {
    for (const auto& [name, symbol] : *symbols) {
      for (const std::string& k : symbol.keys) ++readers[k];
    }
  }
  std::vector<std::string> others;
  for (const auto* symbols : {&spec.dims, &spec.flags}) {
    for (const auto& [name, symbol] : *symbols) {
      const auto& keys = symbol.keys;
      if (std::find(keys.begin(), keys.end(), key) == keys.end() || readers[key] > 1) continue;
      for (const std::string& k : keys) {
        if (k != key && readers[k] == 1) others.push_back(k);
      }
    }
  }
  return others;
}

Status Apply(const ConfigEdit& edit, ordered_json& config) {
  ordered_json* at = &config;
  std::string_view rest = edit.key;
  for (size_t dot; (dot = rest.find('.')) != std::string_view::npos; rest.remove_prefix(dot + 1)) {
    ordered_json& inner = (*at)[std::string(rest.substr(0, dot))];
    if (inner.is_null()) inner = ordered_json::object();
    if (!inner.is_object()) {
      return Fail(ErrorKind::kUsage, "usage",
                  fmt::format("--set {}: '{}' is {}, not an object", edit.key, rest.substr(0, dot),
                              inner.dump()));
    }
    at = &inner;
  }
  (*at)[std::string(rest)] = edit.value;
  return {};
}

bool Missing(const ordered_json& config, const char* key) {
  const auto it = config.find(key);
  return it == config.end() || it->is_null();
}

void Complete(const FamilySpec& spec, DType dtype, ordered_json& config) {
  if (Missing(config, "architectures") && Missing(config, "_class_name") &&
      !spec.hf_architectures.empty()) {
    config["architectures"] = {spec.hf_architectures[0]};
  }
  if (Missing(config, "model_type") && !spec.hf_model_types.empty()) {
    config["model_type"] = spec.hf_model_types[0];
  }
  if (!Missing(config, "_class_name")) return;  // diffusers knows no dtype of a model
  // Every version of transformers reads torch_dtype; 5 writes dtype.
  if (config.contains("dtype")) config["dtype"] = TorchName(dtype);
  if (config.contains("torch_dtype") || !config.contains("dtype")) {
    config["torch_dtype"] = TorchName(dtype);
  }
}

}  // namespace

Result<ConfigEdit> ParseConfigEdit(const std::string& text) {
  const size_t equals = text.find('=');
  const std::string key = text.substr(0, equals);
  if (equals == std::string::npos || key.empty() || key.front() == '.' || key.back() == '.' ||
      key.find("..") != std::string::npos) {
    return Fail(ErrorKind::kUsage, "usage",
                fmt::format("--set '{}' is not KEY=VALUE", ToPrintable(text)), "",
                "for example --set hidden_size=256");
  }
  const std::string value = text.substr(equals + 1);
  if (value == "True") return ConfigEdit{key, true};
  if (value == "False") return ConfigEdit{key, false};
  if (value == "None") return ConfigEdit{key, nullptr};
  if (auto json = ParseOrderedJson(value, "--set")) return ConfigEdit{key, std::move(*json)};
  if (value.starts_with("[") || value.starts_with("{") || value.starts_with("\"")) {
    return Fail(
        ErrorKind::kUsage, "usage",
        fmt::format("--set {}: '{}' is not valid JSON", ToPrintable(key), ToPrintable(value)));
  }
  return ConfigEdit{key, ToValidUtf8(value)};
}

Result<ConfigEdit> LayersEdit(const FamilySpec& spec, int64_t layers) {
  constexpr std::string_view kUsual = "num_hidden_layers";
  const auto dim = spec.dims.find("layers");
  if (dim == spec.dims.end() || dim->second.keys.empty()) {
    return Fail(
        ErrorKind::kUsage, "usage",
        fmt::format("no one number in the config of family {} counts its layers", spec.name),
        spec.origin, "--set KEY=VALUE sets each number");
  }
  const std::vector<std::string>& keys = dim->second.keys;
  const bool usual = std::find(keys.begin(), keys.end(), kUsual) != keys.end();
  return ConfigEdit{usual ? std::string(kUsual) : keys[0], layers};
}

Result<ordered_json> ToyConfig(const FamilySpec& spec, const ordered_json& base,
                               const std::vector<ConfigEdit>& edits, DType dtype,
                               std::vector<std::string>& notes) {
  ordered_json config = base;
  if (base.is_null()) {
    if (spec.toy.empty()) {
      return Fail(ErrorKind::kUsage, "usage",
                  fmt::format("family {} describes no small model ([toy] in its file)", spec.name),
                  spec.origin, "start from a config with --config FILE");
    }
    config = ordered_json(spec.toy);
  }
  if (!config.is_object()) {
    return Fail(ErrorKind::kInvalid, "config-value", "the config is not a JSON object",
                "config.json");
  }
  const std::set<std::string> known = KnownKeys(spec);
  for (const ConfigEdit& edit : edits) {
    const std::string top = edit.key.substr(0, edit.key.find('.'));
    if (!known.contains(edit.key) && !known.contains(top) && !config.contains(top)) {
      const std::string near =
          DidYouMean(edit.key, std::vector<std::string>(known.begin(), known.end()));
      notes.push_back(fmt::format("family {} reads no config key '{}'{}{}", spec.name,
                                  ToPrintable(edit.key), near.empty() ? "" : "; ", near));
    }
    for (const std::string& other : OtherSpellings(spec, edit.key)) config.erase(other);
    WB_RETURN_IF_ERROR(Apply({PlacedKey(spec, config, edit.key), edit.value}, config));
  }
  Complete(spec, dtype, config);
  // As transformers writes it; a config that was given keeps its order.
  if (base.is_null()) config = ordered_json(nlohmann::json(config));
  return config;
}

}  // namespace weighbridge
