#include "formats/quantized/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "base/strings.h"

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

using Block = std::optional<std::array<int64_t, 2>>;

Result<Block> BlockIn(const nlohmann::json& table, const char* key) {
  const auto found = table.find(key);
  if (found == table.end() || found->is_null()) return std::nullopt;
  const auto is_extent = [](const nlohmann::json& v) {
    return v.is_number_integer() && v > 0 && v < (1 << 30);
  };
  if (!found->is_array() || found->size() != 2 ||
      !std::all_of(found->begin(), found->end(), is_extent)) {
    return Fail(ErrorKind::kInvalid, "config-value",
                fmt::format("{} is not a list of two positive integers", key),
                "config.json: quantization_config");
  }
  return std::array<int64_t, 2>{(*found)[0].get<int64_t>(), (*found)[1].get<int64_t>()};
}

// compressed-tensors has it per group of modules; where there are several, the shapes tell.
Result<Block> BlockOf(const nlohmann::json& table) {
  const auto groups = table.find("config_groups");
  if (groups != table.end() && groups->is_object() && groups->size() == 1) {
    const nlohmann::json& group = *groups->begin();
    const auto weights = group.is_object() ? group.find("weights") : group.end();
    if (group.is_object() && weights != group.end() && weights->is_object()) {
      return BlockIn(*weights, "block_structure");
    }
  }
  return BlockIn(table, "weight_block_size");
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
  const nlohmann::json* table = FindIn(config, kTable);
  if (table == nullptr) return out;
  if (!table->is_object()) {
    return Fail(ErrorKind::kInvalid, "config-value", "quantization_config is not a table",
                "config.json: quantization_config");
  }
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
  WB_TRY(out.block, BlockOf(*table));
  return out;
}

bool RemoveQuantizationConfig(nlohmann::ordered_json& config) {
  bool removed = config.is_object() && config.erase(kTable) > 0;
  if (config.is_object() && config.contains("text_config") && config["text_config"].is_object()) {
    removed = config["text_config"].erase(kTable) > 0 || removed;
  }
  return removed;
}

}  // namespace weighbridge
