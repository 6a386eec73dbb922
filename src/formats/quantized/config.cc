#include "formats/quantized/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/strings.h"
#include "formats/quantized/config_groups.h"

namespace weighbridge {
namespace {

constexpr const char* kTable = "quantization_config";
constexpr std::array<std::string_view, 5> kMethods = {"fp8", "fbgemm_fp8", "mxfp4",
                                                      "compressed-tensors", "modelopt"};

const nlohmann::json* FindIn(const nlohmann::json& config, const char* key) {
  const auto text = config.find("text_config");
  const bool nested = text != config.end() && text->is_object();
  for (const nlohmann::json* table : {&config, nested ? &*text : nullptr}) {
    if (table == nullptr) continue;
    const auto found = table->find(key);
    if (found != table->end() && !found->is_null()) return &*found;
  }
  return nullptr;
}

// The table in the config, or in one of its parts: "llm_config", "thinker_config.text_config".
const nlohmann::json* FindTable(const nlohmann::json& config, int depth = 3) {
  const auto found = config.find(kTable);
  if (found != config.end() && !found->is_null()) return &*found;
  for (const auto& [name, part] : config.items()) {
    if (!part.is_object() || depth == 0) continue;
    if (const nlohmann::json* inner = FindTable(part, depth - 1)) return inner;
  }
  return nullptr;
}

bool RemoveTable(nlohmann::ordered_json& config, int depth = 3) {
  bool removed = config.erase(kTable) > 0;
  for (auto& [name, part] : config.items()) {
    if (part.is_object() && depth > 0) removed = RemoveTable(part, depth - 1) || removed;
  }
  return removed;
}

// The algorithms of ModelOpt whose weights are read; the others scale columns before (AWQ, SVD) or
// pack otherwise.
struct Algorithm {
  std::string_view name;
  std::vector<std::string_view> schemes;
  bool static_inputs = false;
};

const std::vector<Algorithm>& Algorithms() {
  static const std::vector<Algorithm> kAlgorithms = {
      {"FP8", {"fp8"}, true},     {"FP8_PB_WO", {"fp8"}},
      {"FP8_PB_REAL", {"fp8"}},   {"FP8_PER_CHANNEL_PER_TOKEN", {"fp8"}},
      {"MXFP8", {"fp8"}},         {"NVFP4", {"nvfp4"}, true},
      {"W4A16_NVFP4", {"nvfp4"}}, {"W4A8_NVFP4_FP8", {"nvfp4"}},
  };
  return kAlgorithms;
}

using Kind = ActivationPromise::Kind;

// DeepSeek-V4 keeps its experts in FP4, whatever its quantization_config says.
bool HasFp4Experts(const nlohmann::json& config) {
  const nlohmann::json* experts = FindIn(config, "expert_dtype");
  if (experts != nullptr) return *experts == "fp4";
  const nlohmann::json* type = FindIn(config, "model_type");
  return type != nullptr && *type == "deepseek_v4";
}

Status ReadFp8(const nlohmann::json& table, const nlohmann::json& config, QuantizationConfig& out) {
  WeightPromise promise;
  promise.where = kTable;
  promise.claims.push_back({fmt::format("quant_method {}", out.method), {"fp8"}});
  if (HasFp4Experts(config)) promise.also = "mxfp4";
  WB_TRY(const auto block, BlockIn(table, "weight_block_size", kTable));
  if (block) {
    promise.layout =
        ScaleLayout::Blocks((*block)[0], (*block)[1],
                            fmt::format("weight_block_size [{}, {}]", (*block)[0], (*block)[1]));
  }
  WB_TRY(const std::string code, TextIn(table, "fmt", kTable));
  if (code.find("e4m3") != std::string::npos) promise.codes = DType::kF8E4M3;
  if (code.find("e5m2") != std::string::npos) promise.codes = DType::kF8E5M2;
  WB_TRY(const std::string scheme, TextIn(table, "activation_scheme", kTable));
  if (scheme == "static") {
    promise.activations = {
        Kind::kStatic, "activation_scheme static", {"activation_scale", "input_scale"}};
  } else if (!scheme.empty()) {
    promise.activations = {
        Kind::kNone, fmt::format("activation_scheme {}", ToPrintable(scheme)), {}};
  }
  out.promises.push_back(std::move(promise));
  return {};
}

Status ReadModelOpt(const nlohmann::json& table, QuantizationConfig& out) {
  WB_TRY(out.promises, ReadConfigGroups(table));
  // What its groups say of activations differs from algorithm to algorithm.
  for (WeightPromise& promise : out.promises) promise.activations = {};
  WB_TRY(const std::string name, TextIn(table, "quant_algo", kTable));
  if (name.empty() || name == "MIXED_PRECISION") return {};
  const auto known = std::find_if(Algorithms().begin(), Algorithms().end(),
                                  [&](const Algorithm& a) { return a.name == name; });
  if (known == Algorithms().end()) {
    return RefuseQuantized(
        fmt::format("the weights are quantized by ModelOpt's {}, which this version does not read",
                    ToPrintable(name)),
        "quantization_config.quant_algo");
  }
  if (out.promises.empty()) out.promises.push_back({.where = kTable});
  for (WeightPromise& promise : out.promises) {
    promise.claims.push_back({"quant_algo " + name, known->schemes});
    if (known->static_inputs) {
      promise.activations = {Kind::kStatic, "quant_algo " + name, {"input_scale"}};
    }
  }
  return {};
}

// Rotations of the weights (QuIP, SpinQuant): the values are others than those of the model.
Status RefuseTransforms(const nlohmann::json& table) {
  WB_TRY(const nlohmann::json* transforms, TableIn(table, "transform_config", kTable));
  if (transforms == nullptr || transforms->empty()) return {};
  std::string names;
  const auto groups = transforms->find("config_groups");
  if (groups != transforms->end() && groups->is_object()) {
    if (groups->empty()) return {};
    for (const auto& [name, group] : groups->items()) {
      const auto type = group.is_object() ? group.find("type") : group.end();
      const bool typed = group.is_object() && type != group.end() && type->is_string();
      names += fmt::format("{}{}{}", names.empty() ? "" : ", ", ToPrintable(name),
                           typed ? " (" + ToPrintable(type->get<std::string>()) + ")" : "");
    }
  }
  return RefuseQuantized(
      fmt::format(
          "the weights are transformed before they are quantized{}, which this version does "
          "not undo",
          names.empty() ? "" : ": " + names),
      "quantization_config.transform_config");
}

Status RefuseSparsity(const nlohmann::json& table) {
  WB_TRY(const nlohmann::json* sparsity, TableIn(table, "sparsity_config", kTable));
  if (sparsity == nullptr) return {};
  WB_TRY(const std::string format,
         TextIn(*sparsity, "format", "quantization_config.sparsity_config"));
  if (format.empty() || format == "dense") return {};
  return RefuseQuantized(fmt::format("the weights are stored in the sparse format '{}', which this "
                                     "version does not read",
                                     ToPrintable(format)),
                         "quantization_config.sparsity_config");
}

Status ReadCompressedTensors(const nlohmann::json& table, QuantizationConfig& out) {
  WB_RETURN_IF_ERROR(RefuseTransforms(table));
  WB_RETURN_IF_ERROR(RefuseSparsity(table));
  WB_TRY(out.promises, ReadConfigGroups(table));
  if (!out.promises.empty()) return {};
  return Fail(
      ErrorKind::kInvalid, "config-kind",
      "quantization_config has no config_groups: nothing says how the weights are quantized",
      "config.json: quantization_config.config_groups");
}

Status ReadMethod(const nlohmann::json& table, const nlohmann::json& config,
                  QuantizationConfig& out) {
  if (out.method == "compressed-tensors") return ReadCompressedTensors(table, out);
  if (out.method == "modelopt") return ReadModelOpt(table, out);
  if (out.method != "mxfp4") return ReadFp8(table, config, out);
  out.promises.push_back({.where = kTable, .claims = {{"quant_method mxfp4", {"mxfp4"}}}});
  return {};
}

Status ReadLeftPlain(const nlohmann::json& table, QuantizationConfig& out) {
  for (const char* key :
       {"ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules"}) {
    WB_TRY(out.left_plain, TextsIn(table, key, kTable));
    out.left_plain_key = key;
    if (!out.left_plain.empty()) break;
  }
  return {};
}

// ModelOpt also writes a string.
Status ReadCache(const nlohmann::json& table, QuantizationConfig& out) {
  const auto found = table.find("kv_cache_scheme");
  if (found == table.end() || found->is_null() || found->is_string()) return {};
  WB_TRY(const nlohmann::json* scheme, TableIn(table, "kv_cache_scheme", kTable));
  WB_TRY(out.cache_scales, IsStatic(*scheme, "quantization_config.kv_cache_scheme"));
  return {};
}

DType DTypeOf(const nlohmann::json& config) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    const nlohmann::json* value = FindIn(config, key);
    if (value == nullptr || !value->is_string()) continue;
    const auto dtype = ParseShortName(value->get<std::string>());
    if (dtype == DType::kF16 || dtype == DType::kF32 || dtype == DType::kBF16) return *dtype;
  }
  return DType::kBF16;
}

}  // namespace

Result<QuantizationConfig> ReadQuantizationConfig(const nlohmann::json& config) {
  QuantizationConfig out;
  if (!config.is_object()) return out;
  out.dtype = DTypeOf(config);
  const nlohmann::json* table = FindTable(config);
  if (table == nullptr) return out;
  if (!table->is_object()) return WrongKind(kTable, *table, "a table");
  out.method = "unnamed";
  const auto method = table->find("quant_method");
  if (method != table->end() && method->is_string() && !method->get<std::string>().empty()) {
    out.method = method->get<std::string>();
  }
  if (std::find(kMethods.begin(), kMethods.end(), out.method) == kMethods.end()) {
    return Fail(ErrorKind::kUnsupported, "quantized",
                fmt::format("the weights are quantized ({}), which this version does not read",
                            ToPrintable(out.method)),
                "config.json: quantization_config",
                fmt::format("it reads {}; dequantize to bf16 first", fmt::join(kMethods, ", ")));
  }
  WB_RETURN_IF_ERROR(ReadMethod(*table, config, out));
  WB_RETURN_IF_ERROR(ReadLeftPlain(*table, out));
  WB_RETURN_IF_ERROR(ReadCache(*table, out));
  return out;
}

bool RemoveQuantizationConfig(nlohmann::ordered_json& config) {
  return config.is_object() && RemoveTable(config);
}

}  // namespace weighbridge
