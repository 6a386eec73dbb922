#include "family/derive.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "family/config.h"
#include "family/expression.h"
#include "family/layer_rules.h"

namespace weighbridge {
namespace {

using nlohmann::json;

constexpr int64_t kMaxLayers = 100000;

bool IsNone(const json& value) { return value.is_null() || value == "none"; }

bool IsIdentifier(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_';
  });
}

// "NAME", "NAME - 3", "NAME + 1": a dim and what is added to it.
struct ShiftedName {
  std::string name;
  int64_t shift = 0;
};

std::optional<ShiftedName> ParseShifted(const std::string& expression) {
  std::string text;
  std::copy_if(expression.begin(), expression.end(), std::back_inserter(text),
               [](unsigned char c) { return std::isspace(c) == 0; });
  const size_t sign = text.find_first_of("+-");
  const std::string name = text.substr(0, sign);
  if (!IsIdentifier(name) || std::isdigit(static_cast<unsigned char>(name[0])) != 0) {
    return std::nullopt;
  }
  if (sign == std::string::npos) return ShiftedName{name, 0};
  const std::string digits = text.substr(sign + 1);
  const bool number = !digits.empty() && digits.size() < 10 &&
                      std::all_of(digits.begin(), digits.end(),
                                  [](unsigned char c) { return std::isdigit(c) != 0; });
  if (!number) return std::nullopt;
  return ShiftedName{name, (text[sign] == '-' ? -1 : 1) * std::stoll(digits)};
}

// What is known of one kind of RoPE table.
struct RopeKind {
  std::optional<bool> is;             // a field that says so
  std::map<std::string, json> table;  // its fields, without None

  // A table whose factor is 1 changes nothing.
  bool Holds() const {
    if (is) return *is;
    const auto factor = table.find("factor");
    return factor != table.end() && factor->second.is_number() && factor->second != 1.0;
  }
};

class Deriver {
 public:
  Deriver(const FamilySpec& spec, const json& fields, bool bridge)
      : spec_(spec), fields_(fields), rules_(spec.config), text_toy_(TextToy(spec)) {
    if (!bridge) return;
    for (const auto& [field, rule] : spec.bridge.fields) rules_[field] = rule;
  }

  Result<json> Run() {
    Identity();
    WB_TRY(layers_, Layers());
    // A dim may share its key with a field of another use, and then is what shapes weights.
    for (const bool dims : {false, true}) {
      for (const auto& [field, rule] : rules_) {
        const auto value = fields_.find(field);
        if (value == fields_.end() || rule.dim.empty() == dims) continue;
        WB_RETURN_IF_ERROR(Invert(field, rule, *value));
      }
    }
    Rope();
    WB_RETURN_IF_ERROR(Others());
    NestTextConfig();
    return std::move(config_);
  }

 private:
  void Identity() {
    for (const json* toy : {text_toy_, &spec_.toy}) {
      for (const auto& [key, value] : toy->items()) {
        if (value.is_boolean() || value.is_string()) config_[key] = value;
      }
    }
    if (!spec_.hf_architectures.empty()) config_["architectures"] = {spec_.hf_architectures[0]};
    if (!spec_.hf_model_types.empty()) config_["model_type"] = spec_.hf_model_types[0];
  }

  // What [toy] has outside stays there, the rest is the text model's.
  void NestTextConfig() {
    if (text_toy_ == &spec_.toy) return;
    const std::string& table = spec_.text_model.config[0];
    json text = json::object(), whole = json::object();
    for (const auto& [key, value] : config_.items()) {
      if (key == table) continue;
      const bool outside = key == "architectures" || spec_.toy.contains(key);
      (outside || key == "model_type" ? whole : text)[key] = value;
    }
    for (const auto& [key, value] : text_toy_->items()) {
      if (value.is_string() && !text.contains(key)) text[key] = value;
    }
    // The Bridge's class may hold the table itself.
    if (const json* held = FindKey(config_, table); held != nullptr && held->is_object()) {
      for (const auto& [key, value] : held->items()) {
        if (!value.is_null() || !text.contains(key)) text[key] = value;
      }
    }
    SetDottedKey(whole, table, std::move(text));
    config_ = std::move(whole);
  }

  static const json* TextToy(const FamilySpec& spec) {
    const auto& tables = spec.text_model.config;
    const json* text = tables.empty() ? nullptr : FindKey(spec.toy, tables[0]);
    return text != nullptr && text->is_object() ? text : &spec.toy;
  }

  Result<int64_t> Layers() const {
    const auto it = fields_.find("num_layers");
    const bool integer = it != fields_.end() && it->is_number_integer();
    if (integer && *it > 0 && *it <= kMaxLayers) return it->get<int64_t>();
    return Fail(ErrorKind::kInvalid, "config-value",
                it == fields_.end() ? "the Megatron config does not say num_layers"
                                    : fmt::format("num_layers is {}", Describe(*it)));
  }

  void Set(const std::string& dotted, json value) {
    SetDottedKey(config_, dotted, std::move(value));
  }

  // The spelling of [toy], else the first.
  void SetOneOf(const std::vector<std::string>& keys, json value) {
    const auto known = std::find_if(keys.begin(), keys.end(), [&](const std::string& key) {
      return FindKey(*text_toy_, key) != nullptr || FindKey(spec_.toy, key) != nullptr;
    });
    Set(known == keys.end() ? keys.front() : *known, std::move(value));
  }

  // A flag whose key holds a number (a window's width): the field that gives the number says it.
  bool SaysByBeingThere(const Symbol& flag) const {
    const json* value = FirstKey(*text_toy_, flag.keys);
    if (value == nullptr) value = FirstKey(spec_.toy, flag.keys);
    return value != nullptr && value->is_number();
  }

  // The value of a dim that a field gives alone.
  std::optional<int64_t> FieldOf(const std::string& dim) const {
    for (const auto& [field, rule] : rules_) {
      const auto value = fields_.find(field);
      if (rule.dim != dim || !rule.function.empty() || value == fields_.end()) continue;
      if (value->is_number_integer()) return value->get<int64_t>();
    }
    return std::nullopt;
  }

  // "A * B", one of which a field gives: the other one.
  void SetFactor(const std::string& expression, int64_t value, int depth) {
    const size_t times = expression.find(" * ");
    if (times == std::string::npos) return;
    const std::string a = expression.substr(0, times), b = expression.substr(times + 3);
    for (const auto& [known, other] : {std::pair(a, b), std::pair(b, a)}) {
      const auto factor = FieldOf(known);
      if (factor && *factor > 0 && value % *factor == 0) {
        return SetSymbol(other, value / *factor, depth + 1);
      }
    }
  }

  // The config key behind a dim or flag, as far as one stands behind it alone.
  void SetSymbol(const std::string& expression, int64_t value, int depth = 0) {
    if (depth > 8) return;
    const auto shifted = ParseShifted(expression);
    if (!shifted) return SetFactor(expression, value, depth);
    const int64_t symbol = value - shifted->shift;
    if (const auto flag = spec_.flags.find(shifted->name); flag != spec_.flags.end()) {
      if (SaysByBeingThere(flag->second)) return;
      if (!flag->second.keys.empty()) return SetOneOf(flag->second.keys, symbol != 0);
      if (flag->second.expression) SetSymbol(*flag->second.expression, symbol, depth + 1);
      return;
    }
    const auto dim = spec_.dims.find(shifted->name);
    if (dim == spec_.dims.end()) return;
    if (!dim->second.keys.empty()) return SetOneOf(dim->second.keys, symbol);
    if (dim->second.expression) SetSymbol(*dim->second.expression, symbol, depth + 1);
  }

  static Result<json> Undo(const std::string& field, const ConfigRule& rule, const json& value) {
    if (rule.function.empty()) return value;
    Result<json> undone = FindConfigFunction(rule.function)->invert(value, rule.arguments);
    if (!undone) {
      return Fail(ErrorKind::kInvalid, "config-value",
                  fmt::format("{}: {}", field, undone.error().what));
    }
    return undone;
  }

  Status Invert(const std::string& field, const ConfigRule& rule, const json& value) {
    if (!rule.when.empty()) {
      SetSymbol(rule.when, IsNone(value) ? 0 : 1);
      if (IsNone(value)) {
        return rule.none_as.is_null() ? Status{} : InvertSource(field, rule, rule.none_as);
      }
    }
    return InvertSource(field, rule, value);
  }

  Status InvertSource(const std::string& field, const ConfigRule& rule, const json& value) {
    if (!rule.rope.empty()) return InvertRope(field, rule, value);
    if (!rule.layer_kind.empty() && rule.equals.empty()) return InvertKinds(field, rule, value);
    if (!rule.layer_kind.empty()) {
      InvertLayers(field, rule, value);
      return {};
    }
    if (!rule.list.empty()) {
      if (!value.is_array() || value.size() != rule.list.size()) return {};
      for (size_t i = 0; i < rule.list.size(); ++i) {
        WB_RETURN_IF_ERROR(Invert(field, rule.list[i], value[i]));
      }
      return {};
    }
    if (!rule.table.empty()) {
      for (const auto& [key, entry] : rule.table) {
        if (value.is_object() && value.contains(key)) {
          WB_RETURN_IF_ERROR(Invert(field, entry, value[key]));
        }
      }
      return {};
    }
    if (!rule.constant.is_null()) return {};
    if (IsNone(value) && rule.function == "window") {
      // Said, since the class of Hugging Face may have a window where the key is not there.
      if (!rule.hf.empty()) SetOneOf(rule.hf, nullptr);
      return {};
    }
    if (IsNone(value) && rule.function != "zero_is_none") return {};
    WB_TRY(const json undone, Undo(field, rule, IsNone(value) ? json() : value));
    if (!rule.hf.empty()) {
      SetOneOf(rule.hf, undone);
    } else if (undone.is_number_integer() || undone.is_boolean()) {
      SetSymbol(rule.dim.empty() ? rule.flag : rule.dim,
                undone.is_boolean() ? undone.get<bool>() : undone.get<int64_t>());
    }
    return {};
  }

  Status InvertRope(const std::string& field, const ConfigRule& rule, const json& value) {
    if (IsNone(value)) return {};
    WB_TRY(json undone, Undo(field, rule, value));
    const size_t dot = rule.rope.find('.');
    RopeKind& kind = rope_[rule.rope.substr(0, dot)];
    if (dot == std::string::npos) {
      kind.is = undone == true;
    } else {
      kind.table[rule.rope.substr(dot + 1)] = std::move(undone);
    }
    return {};
  }

  // A field that names the kind of each layer.
  Status InvertKinds(const std::string& field, const ConfigRule& rule, const json& value) {
    if (IsNone(value)) return {};
    WB_TRY(const json kinds, Undo(field, rule, value));
    if (!kinds.is_array() || static_cast<int64_t>(kinds.size()) != layers_) return {};
    std::vector<std::string> names;
    for (const json& kind : kinds) {
      if (!kind.is_string()) return {};
      names.push_back(kind.get<std::string>());
    }
    InvertLayerKinds(spec_.layer_kinds.at(rule.layer_kind), names, *text_toy_,
                     [&](const std::string& key, json v) { Set(key, std::move(v)); });
    return {};
  }

  void InvertLayers(const std::string& field, const ConfigRule& rule, const json& value) {
    const json list = ExpandLayerFrequency(field, value, layers_);
    if (!list.is_array() || static_cast<int64_t>(list.size()) != layers_) return;
    std::vector<bool> is;
    for (const json& entry : list) is.push_back(entry == 1 || entry == true);
    InvertLayerRule(
        spec_.layer_kinds.at(rule.layer_kind), rule.equals, is,
        [&](const std::string& key, json v) { Set(key, std::move(v)); },
        [&](const std::string& expression, int64_t v) { SetSymbol(expression, v); });
  }

  void Rope() {
    for (const auto& [name, kind] : rope_) {
      if (!kind.Holds()) continue;
      rope_type_ = name;
      json table = {{"rope_type", name}};
      for (const auto& [key, value] : kind.table) table[key] = value;
      config_["rope_scaling"] = std::move(table);
      return;
    }
    // Its class would take a table of its own.
    for (const auto& [type, defaults] : spec_.hf_defaults.items()) {
      if (defaults.contains("rope_parameters")) {
        config_["rope_scaling"] = {{"rope_type", "default"}};
      }
    }
  }

  Status Others() {
    for (const auto& [key, rule] : spec_.hf_config) {
      if (!rule.rope.empty() && rule.rope != rope_type_) continue;
      if (!rule.constant.is_null()) {
        Set(key, rule.constant);
      } else if (!rule.field.empty()) {
        const auto it = fields_.find(rule.field);
        if (it != fields_.end() && !IsNone(*it)) Set(key, *it);
      } else if (const auto value = Value(rule.expression)) {
        Set(key, *value);
      }
    }
    return {};
  }

  // nullopt: a field of it is not recorded, or it has no value for these.
  std::optional<int64_t> Value(const std::string& expression) const {
    const Result<int64_t> value =
        Evaluate(expression, [&](std::string_view name) -> Result<int64_t> {
          const auto it = fields_.find(std::string(name));
          if (it != fields_.end() && IsNone(*it)) return 0;
          if (it != fields_.end() && it->is_boolean()) return it->get<bool>() ? 1 : 0;
          if (it != fields_.end() && it->is_number_integer()) return it->get<int64_t>();
          return Fail(ErrorKind::kInvalid, "config-value", "no integer");
        });
    return value ? std::optional<int64_t>(*value) : std::nullopt;
  }

  const FamilySpec& spec_;
  const json& fields_;
  std::map<std::string, ConfigRule> rules_;
  const json* text_toy_;  // the part of [toy] that describes the text model
  json config_ = json::object();
  std::map<std::string, RopeKind> rope_;
  std::string rope_type_;
  int64_t layers_ = 0;
};

}  // namespace

Result<json> DeriveHfConfig(const FamilySpec& spec, const json& fields, bool bridge) {
  return Deriver(spec, fields, bridge).Run();
}

json ExpandLayerFrequency(const std::string& field, const json& value, int64_t layers) {
  const bool known = field == "moe_layer_freq" || field == "window_attn_skip_freq" ||
                     field == "linear_attention_freq";
  if (!known || !value.is_number_integer() || value < 1 || layers > kMaxLayers) return value;
  const auto n = value.get<int64_t>();
  json list = json::array();
  for (int64_t i = 0; i < layers; ++i) {
    // Megatron-Core: every n-th layer has experts, from the first on; every n-th has full
    // attention, beginning with layer n.
    list.push_back(field == "moe_layer_freq" ? i % n == 0 : (i + 1) % n != 0);
  }
  for (json& entry : list) entry = entry.get<bool>() ? 1 : 0;
  return list;
}

}  // namespace weighbridge
