#include "formats/quantized/config_groups.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/json.h"
#include "base/strings.h"

namespace weighbridge {
namespace {

using Json = nlohmann::json;

struct Format {
  std::string_view name;
  std::vector<std::string_view> schemes;
};

// compressed-tensors' CompressionFormat, as far as weights of it are read.
const std::vector<Format>& Formats() {
  static const std::vector<Format> kFormats = {
      {"float-quantized", {"fp8"}},         {"int-quantized", {"int8"}},
      {"naive-quantized", {"fp8", "int8"}}, {"pack-quantized", {"int4"}},
      {"nvfp4-pack-quantized", {"nvfp4"}},  {"mxfp4-pack-quantized", {"mxfp4"}},
      {"mxfp8-quantized", {"fp8"}},
  };
  return kFormats;
}

const Json* Present(const Json& table, const char* key) {
  const auto found = table.find(key);
  return found == table.end() || found->is_null() ? nullptr : &*found;
}

Result<std::optional<int64_t>> IntegerIn(const Json& table, const char* key,
                                         const std::string& where) {
  const Json* value = Present(table, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number_integer() || *value < -1 || *value > (1 << 30)) {
    return WrongKind(where + "." + key, *value, "a small integer");
  }
  return value->get<int64_t>();
}

Result<std::optional<bool>> FlagIn(const Json& table, const char* key, const std::string& where) {
  const Json* value = Present(table, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) return WrongKind(where + "." + key, *value, "true or false");
  return value->get<bool>();
}

std::string Lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

// num_bits and type, which only go with some schemes.
SchemeClaim BitsClaim(int64_t bits, const std::string& type) {
  SchemeClaim claim{fmt::format("num_bits {}{}", bits, type.empty() ? "" : ", type " + type), {}};
  if (bits == 8 && type != "int") claim.schemes.push_back("fp8");
  if (bits == 8 && type != "float") claim.schemes.push_back("int8");
  // int-quantized keeps four bits in a byte.
  if (bits == 4 && type != "float") claim.schemes.insert(claim.schemes.end(), {"int4", "int8"});
  if (bits == 4 && type != "int") claim.schemes.insert(claim.schemes.end(), {"nvfp4", "mxfp4"});
  return claim;
}

Result<ScaleLayout> LayoutOf(const Json& weights, const std::string& where) {
  using Kind = ScaleLayout::Kind;
  WB_TRY(const std::string written, TextIn(weights, "strategy", where));
  WB_TRY(const auto group, IntegerIn(weights, "group_size", where));
  WB_TRY(const auto block, BlockIn(weights, "block_structure", where));
  const std::string strategy = Lower(written);
  if (block) {
    return ScaleLayout::Blocks((*block)[0], (*block)[1],
                               fmt::format("block_structure [{}, {}]", (*block)[0], (*block)[1]));
  }
  if (strategy == "tensor") return ScaleLayout{Kind::kTensor, {}, "strategy tensor"};
  if (strategy == "channel" || (strategy.empty() && group == -1)) {
    return ScaleLayout{Kind::kChannel, {}, "strategy channel"};
  }
  const bool groups = strategy.empty() || strategy == "group" || strategy == "tensor_group";
  if (groups && group.value_or(0) > 0) {
    return ScaleLayout::Blocks(1, *group, fmt::format("group_size {}", *group));
  }
  if (strategy.empty() && !group) return ScaleLayout{};
  return Fail(ErrorKind::kInvalid, "config-kind",
              fmt::format("strategy '{}' of weights needs a positive group_size or a "
                          "block_structure, or is none that weights have",
                          ToPrintable(written)),
              "config.json: " + where);
}

// `said` has the format's name for messages; a format that is not known is refused.
Result<std::optional<SchemeClaim>> FormatClaim(const std::string& format,
                                               const std::string& where) {
  if (format.empty() || format == "mixed-precision") return std::nullopt;
  for (const Format& known : Formats()) {
    if (known.name == format) return SchemeClaim{"format " + format, known.schemes};
  }
  return RefuseQuantized(
      fmt::format("the weights are stored in the format '{}', which this version does not read",
                  ToPrintable(format)),
      where + ".format");
}

Status ReadWeights(const Json& weights, const std::string& where, const std::string& format,
                   WeightPromise& promise) {
  WB_TRY(const auto bits, IntegerIn(weights, "num_bits", where));
  WB_TRY(const std::string type, TextIn(weights, "type", where));
  WB_TRY(promise.symmetric, FlagIn(weights, "symmetric", where));
  WB_TRY(promise.layout, LayoutOf(weights, where));
  const Json* order = Present(weights, "actorder");
  if (order != nullptr && (*order == true || *order == "group" || *order == "dynamic")) {
    return RefuseQuantized("the columns of the weights are in an activation order (actorder)",
                           where + ".actorder");
  }
  if (!bits) return {};
  if (format == "pack-quantized" && type != "float") {
    promise.packed_bits = *bits;
  } else {
    promise.claims.push_back(BitsClaim(*bits, Lower(type)));
  }
  return {};
}

Status ReadActivations(const Json& group, const std::string& where, WeightPromise& promise) {
  using Kind = ActivationPromise::Kind;
  WB_TRY(const Json* input, TableIn(group, "input_activations", where));
  if (input == nullptr) {
    promise.activations = {Kind::kNone, "no input_activations", {}};
    return {};
  }
  const std::string inner = where + ".input_activations";
  WB_TRY(const bool is_static, IsStatic(*input, inner));
  WB_TRY(const std::string strategy, TextIn(*input, "strategy", inner));
  if (!is_static) {
    promise.activations = {Kind::kNone, "input_activations dynamic true", {}};
  } else if (Lower(strategy) == "tensor_group") {
    promise.activations = {
        Kind::kStatic, "input_activations of strategy tensor_group", {"input_global_scale"}};
  } else {
    promise.activations = {Kind::kStatic, "input_activations dynamic false", {"input_scale"}};
  }
  return {};
}

Result<WeightPromise> ReadGroup(const Json& group, const std::string& where,
                                const std::string& table_format) {
  WeightPromise promise;
  promise.where = where;
  if (Present(group, "targets") != nullptr) {
    WB_TRY(promise.targets, TextsIn(group, "targets", where));
  }
  WB_TRY(std::string format, TextIn(group, "format", where));
  if (format.empty()) format = table_format;
  WB_TRY(const Json* weights, TableIn(group, "weights", where));
  promise.quantized = weights != nullptr;
  if (weights != nullptr) {
    WB_TRY(const auto claim, FormatClaim(format, where));
    if (claim) promise.claims.push_back(*claim);
    WB_RETURN_IF_ERROR(ReadWeights(*weights, where + ".weights", format, promise));
  }
  WB_RETURN_IF_ERROR(ReadActivations(group, where, promise));
  return promise;
}

}  // namespace

tl::unexpected<Error> RefuseQuantized(std::string what, std::string at) {
  return Fail(ErrorKind::kUnsupported, "quantized", std::move(what), "config.json: " + at,
              "dequantize to bf16 first; nothing is taken for the values of such weights");
}

Result<const Json*> TableIn(const Json& table, const char* key, const std::string& where) {
  const Json* value = Present(table, key);
  if (value != nullptr && !value->is_object()) {
    return WrongKind(where + "." + key, *value, "a table");
  }
  return value;
}

Result<std::string> TextIn(const Json& table, const char* key, const std::string& where) {
  const Json* value = Present(table, key);
  if (value == nullptr) return std::string();
  if (!value->is_string()) return WrongKind(where + "." + key, *value, "a string");
  return value->get<std::string>();
}

Result<std::vector<std::string>> TextsIn(const Json& table, const char* key,
                                         const std::string& where) {
  std::vector<std::string> out;
  const Json* value = Present(table, key);
  if (value == nullptr) return out;
  const auto is_text = [](const Json& v) { return v.is_string(); };
  if (!value->is_array() || !std::all_of(value->begin(), value->end(), is_text)) {
    return WrongKind(where + "." + key, *value, "a list of strings");
  }
  for (const Json& text : *value) out.push_back(text.get<std::string>());
  return out;
}

Result<std::optional<std::array<int64_t, 2>>> BlockIn(const Json& table, const char* key,
                                                      const std::string& where) {
  const Json* value = Present(table, key);
  if (value == nullptr) return std::nullopt;
  const auto is_extent = [](const Json& v) {
    return v.is_number_integer() && v > 0 && v < (1 << 30);
  };
  if (!value->is_array() || value->size() != 2 ||
      !std::all_of(value->begin(), value->end(), is_extent)) {
    return WrongKind(where + "." + key, *value, "a list of two positive integers");
  }
  return std::array<int64_t, 2>{(*value)[0].get<int64_t>(), (*value)[1].get<int64_t>()};
}

Result<bool> IsStatic(const Json& arguments, const std::string& where) {
  const Json* dynamic = Present(arguments, "dynamic");
  if (dynamic == nullptr || *dynamic == "local") return true;
  if (!dynamic->is_boolean()) return WrongKind(where + ".dynamic", *dynamic, "true or false");
  return !dynamic->get<bool>();
}

Result<std::vector<WeightPromise>> ReadConfigGroups(const Json& table) {
  const std::string where = "quantization_config";
  WB_TRY(const Json* groups, TableIn(table, "config_groups", where));
  WB_TRY(const std::string format, TextIn(table, "format", where));
  std::vector<WeightPromise> out;
  if (groups == nullptr) return out;
  for (const auto& [name, group] : groups->items()) {
    const std::string inner = where + ".config_groups." + ToPrintable(name);
    if (!group.is_object()) return WrongKind(inner, group, "a table");
    WB_TRY(out.emplace_back(), ReadGroup(group, inner, format));
  }
  return out;
}

}  // namespace weighbridge
