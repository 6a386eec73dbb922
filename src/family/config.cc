#include "family/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

namespace weighbridge {
namespace {

using nlohmann::json;

constexpr int64_t kMostTokens = int64_t{1} << 40;

tl::unexpected<Error> BadValue(const char* function, const json& value) {
  return Fail(ErrorKind::kInvalid, "config-value",
              fmt::format("{} does not know the value {}", function, Describe(value)),
              "config.json");
}

// Hugging Face's names and Megatron's; of several for one function the first is what is written.
constexpr std::array<std::pair<std::string_view, std::string_view>, 12> kActivations = {{
    {"silu", "silu"},
    {"swish", "silu"},
    {"gelu", "gelu"},
    {"gelu_pytorch_tanh", "fast_gelu"},
    {"gelu_new", "fast_gelu"},
    {"gelu_fast", "fast_gelu"},
    {"relu", "relu"},
    {"relu2", "squared_relu"},
    {"squared_relu", "squared_relu"},
    {"quick_gelu", "quick_gelu"},
    {"sigmoid", "sigmoid"},
    {"tanh", "tanh"},
}};

tl::unexpected<Error> NoInverse(const char* function, const json& value) {
  return Fail(ErrorKind::kInvalid, "config-value",
              fmt::format("{} never gives the value {}", function, Describe(value)));
}

Result<json> Activation(const json& value, const json&) {
  if (value.is_string()) {
    for (const auto& [hf, megatron] : kActivations) {
      if (value.get_ref<const std::string&>() == hf) return json(megatron);
    }
    // Not a fault of the checkpoint: Hugging Face knows more activations than are listed here.
    return Fail(ErrorKind::kUnsupported, "config-unsupported",
                fmt::format("the activation function {} is not known", Describe(value)),
                "config.json",
                "known: silu, gelu, gelu_pytorch_tanh, relu, relu2, quick_gelu, ...");
  }
  return BadValue("activation", value);
}

Result<json> HfActivation(const json& value, const json&) {
  if (value.is_string()) {
    for (const auto& [hf, megatron] : kActivations) {
      if (value.get_ref<const std::string&>() == megatron) return json(hf);
    }
  }
  return NoInverse("activation", value);
}

// Megatron-Core numbers the layers in a checkpoint's keys when this field is a list, whatever the
// list says, and stacks them when it is 1.
Result<json> AllOnesIsOne(const json& value, const json&) {
  if (!value.is_array()) return BadValue("all_ones_is_one", value);
  for (const json& entry : value) {
    if (entry != 1) return value;
  }
  return json(1);
}

// HybridModel's pattern: one letter per layer. `arguments`: kind -> letters.
Result<json> Letters(const json& value, const json& arguments) {
  if (!value.is_array() || !arguments.is_object()) return BadValue("letters", value);
  std::string pattern;
  for (const json& kind : value) {
    const auto it = kind.is_string() ? arguments.find(kind.get<std::string>()) : arguments.end();
    if (it == arguments.end() || !it->is_string()) return BadValue("letters", kind);
    pattern += it->get<std::string>();
  }
  return json(pattern);
}

Result<json> KindsOfLetters(const json& value, const json& arguments) {
  if (!value.is_string() || !arguments.is_object()) return NoInverse("letters", value);
  json kinds = json::array();
  for (const char letter : value.get_ref<const std::string&>()) {
    const auto it = std::find(arguments.begin(), arguments.end(), json(std::string(1, letter)));
    if (it == arguments.end()) return NoInverse("letters", value);
    kinds.push_back(it.key());
  }
  return kinds;
}

// What HF lists for each layer and Megatron knows once.
Result<json> FirstEntry(const json& value, const json&) {
  if (!value.is_array()) return value;
  if (value.empty()) return BadValue("first_entry", value);
  return value[0];
}

Result<json> Not(const json& value, const json&) {
  if (!value.is_boolean()) return BadValue("not", value);
  return json(!value.get<bool>());
}

// An object that the Bridge's YAML describes: `class` of the arguments, built from the table and
// from what the arguments hold `with` it.
Result<json> Object(const json& value, const json& arguments) {
  if (!value.is_object() || !arguments.is_object()) return BadValue("object", value);
  json object = value;
  if (const auto with = arguments.find("with"); with != arguments.end() && with->is_object()) {
    object.update(*with);
  }
  object["_target_"] = arguments.value("class", "");
  return object;
}

// Objects within it, such as a dtype, become their names.
Result<json> TableOfObject(const json& value, const json&) {
  if (!value.is_object()) return NoInverse("object", value);
  json table = json::object();
  for (const auto& [key, entry] : value.items()) {
    if (key == "_target_") continue;
    const bool object = entry.is_object() && entry.contains("_target_");
    if (object && !entry["_target_"].is_string()) return NoInverse("object", entry);
    if (object) {
      const auto& name = entry["_target_"].get_ref<const std::string&>();
      table[key] = name.substr(name.rfind('.') + 1);
    } else {
      table[key] = entry;
    }
  }
  return table;
}

Result<json> PositionEmbedding(const json& value, const json&) {
  if (!value.is_boolean()) return BadValue("position_embedding", value);
  return json(value.get<bool>() ? "yarn" : "rope");
}

Result<json> IsYarn(const json& value, const json&) {
  if (value != "yarn" && value != "rope") return NoInverse("position_embedding", value);
  return json(value == "yarn");
}

Result<json> Rsqrt(const json& value, const json&) {
  // Configs may hold NaN and Infinity, as Python writes them.
  const double x = value.is_number() ? value.get<double>() : 0;
  if (!(x > 0) || !std::isfinite(x)) return BadValue("rsqrt", value);
  return json(1.0 / std::sqrt(x));
}

// Whole where it is one but for the rounding of the root.
json WholeIfClose(double x) {
  const double whole = std::nearbyint(x);
  return whole >= 1 && std::abs(x - whole) < 1e-6 * whole ? json(static_cast<int64_t>(whole))
                                                          : json(x);
}

Result<json> InverseSquare(const json& value, const json&) {
  const double root = value.is_number() ? value.get<double>() : 0;
  if (!(root > 1e-9) || !std::isfinite(root)) return NoInverse("rsqrt", value);
  return WholeIfClose(1.0 / (root * root));
}

Result<json> Sqrt(const json& value, const json&) {
  const double x = value.is_number() ? value.get<double>() : -1;
  if (!(x >= 0) || !std::isfinite(x)) return BadValue("sqrt", value);
  return json(std::sqrt(x));
}

Result<json> Square(const json& value, const json&) {
  const double root = value.is_number() ? value.get<double>() : -1;
  if (!(root >= 0) || root > 1e9) return NoInverse("sqrt", value);
  return WholeIfClose(root * root);
}

Result<json> Window(const json& value, const json&) {
  if (!value.is_number_integer() || value.get<int64_t>() <= 0) return BadValue("window", value);
  return json::array({value.get<int64_t>() - 1, 0});
}

Result<json> WindowWidth(const json& value, const json&) {
  const bool pair = value.is_array() && value.size() == 2 && value[0].is_number_integer() &&
                    value[1].is_number_integer();
  if (!pair || value[1] != 0 || value[0] < 0 || value[0] > kMostTokens) {
    return NoInverse("window", value);
  }
  return json(value[0].get<int64_t>() + 1);
}

Result<json> ZeroIsNone(const json& value, const json&) {
  if (!value.is_number_integer()) return BadValue("zero_is_none", value);
  return value.get<int64_t>() == 0 ? json("none") : value;
}

Result<json> NoneIsZero(const json& value, const json&) {
  return value.is_null() ? json(0) : value;
}

Result<json> Same(const json& value, const json&) { return value; }

Result<int64_t> FfnMultiple(const json& value, int64_t hidden) {
  constexpr double kMost = int64_t{1} << 40;
  const double size =
      value.is_number() ? 2 * value.get<double>() * static_cast<double>(hidden) / 3 : 0;
  if (!(size >= 1 && size < kMost)) return BadValue("ffn_multiple", value);
  return (static_cast<int64_t>(size) + 255) / 256 * 256;
}

// The value under a key of an object, or at the place in a list.
const json* Entry(const json& owner, std::string_view key) {
  if (owner.is_object()) {
    const auto it = owner.find(std::string(key));
    return it == owner.end() ? nullptr : &*it;
  }
  size_t index = 0;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
  const bool number = error == std::errc() && end == key.data() + key.size();
  return number && owner.is_array() && index < owner.size() ? &owner[index] : nullptr;
}

}  // namespace

std::string Describe(const json& value) {
  constexpr size_t kMost = 80;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace);
  if (text.size() > kMost) text = text.substr(0, kMost) + "...";
  return text;
}

const json* FindKey(const json& config, std::string_view dotted) {
  const json* at = &config;
  while (!dotted.empty()) {
    const size_t dot = dotted.find('.');
    at = Entry(*at, dotted.substr(0, dot));
    if (at == nullptr || at->is_null()) return nullptr;
    dotted = dot == std::string_view::npos ? std::string_view() : dotted.substr(dot + 1);
  }
  return at;
}

bool HasNullKey(const json& config, const std::vector<std::string>& keys) {
  return std::any_of(keys.begin(), keys.end(), [&](const std::string& key) {
    const size_t dot = key.rfind('.');
    const json* table =
        dot == std::string::npos ? &config : FindKey(config, std::string_view(key).substr(0, dot));
    const json* value = table == nullptr ? nullptr : Entry(*table, key.substr(dot + 1));
    return value != nullptr && value->is_null();
  });
}

const json* FirstKey(const json& config, const std::vector<std::string>& keys) {
  for (const std::string& key : keys) {
    if (const json* value = FindKey(config, key)) return value;
  }
  return nullptr;
}

void SetDottedKey(json& config, std::string_view dotted, json value) {
  json* at = &config;
  for (size_t dot; (dot = dotted.find('.')) != std::string_view::npos;
       dotted.remove_prefix(dot + 1)) {
    json& inner = (*at)[std::string(dotted.substr(0, dot))];
    if (!inner.is_object()) inner = json::object();
    at = &inner;
  }
  (*at)[std::string(dotted)] = std::move(value);
}

json LayTextConfigOver(const json& config, const std::vector<std::string>& tables,
                       const std::vector<std::string>& outer) {
  json out = config;
  for (const std::string& table : tables) {
    const json* text = FindKey(config, table);
    if (text == nullptr || !text->is_object()) continue;
    for (const auto& [key, value] : text->items()) {
      const bool kept = FindKey(config, key) != nullptr &&
                        std::find(outer.begin(), outer.end(), key) != outer.end();
      if (!kept && (!value.is_null() || !out.contains(key))) out[key] = value;
    }
    break;
  }
  return out;
}

LayerFunction FindLayerFunction(std::string_view name) {
  return name == "ffn_multiple" ? FfnMultiple : nullptr;
}

const std::vector<ConfigFunction>& AllConfigFunctions() {
  static const std::vector<ConfigFunction> kAll = {
      {"activation", "HF's name of an activation function -> Megatron's", Activation, HfActivation},
      {"all_ones_is_one", "a list of ones -> 1, else the list", AllOnesIsOne, Same},
      {"first_entry", "the first entry of a list, another value as it is", FirstEntry, Same},
      {"letters", "a list of layer kinds -> one letter each, by `args`", Letters, KindsOfLetters},
      {"not", "the contrary of a truth value", Not, Not},
      {"object", "a table -> an object of `class` in args", Object, TableOfObject},
      {"position_embedding", "true -> yarn, false -> rope", PositionEmbedding, IsYarn},
      {"rsqrt", "1 / sqrt(x)", Rsqrt, InverseSquare},
      {"sqrt", "sqrt(x)", Sqrt, Square},
      {"window", "a window of w tokens -> [w - 1, 0]", Window, WindowWidth},
      {"zero_is_none", "0 -> none, else the number", ZeroIsNone, NoneIsZero},
  };
  return kAll;
}

const ConfigFunction* FindConfigFunction(std::string_view name) {
  for (const ConfigFunction& f : AllConfigFunctions()) {
    if (f.name == name) return &f;
  }
  return nullptr;
}

}  // namespace weighbridge
