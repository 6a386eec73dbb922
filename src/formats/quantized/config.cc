#include "formats/quantized/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <vector>

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

// What compressed-tensors says of the weights, per group of modules.
std::vector<const nlohmann::json*> WeightGroups(const nlohmann::json& table) {
  std::vector<const nlohmann::json*> out;
  const auto groups = table.find("config_groups");
  if (groups == table.end() || !groups->is_object()) return out;
  for (const auto& [name, group] : groups->items()) {
    if (!group.is_object()) continue;
    const auto weights = group.find("weights");
    if (weights != group.end() && weights->is_object()) out.push_back(&*weights);
  }
  return out;
}

// Where the groups have different blocks, the shapes tell.
Result<Block> BlockOf(const nlohmann::json& table) {
  const auto groups = WeightGroups(table);
  if (groups.empty()) return BlockIn(table, "weight_block_size");
  WB_TRY(const Block first, BlockIn(*groups[0], "block_structure"));
  for (const nlohmann::json* group : groups) {
    WB_TRY(const Block block, BlockIn(*group, "block_structure"));
    if (block != first) return std::nullopt;
  }
  return first;
}

// All groups are said to have zero points.
bool HasZeroPoints(const nlohmann::json& table) {
  const auto groups = WeightGroups(table);
  return !groups.empty() && std::all_of(groups.begin(), groups.end(), [](const nlohmann::json* g) {
    const auto symmetric = g->find("symmetric");
    return symmetric != g->end() && *symmetric == false;
  });
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
  out.zero_points = HasZeroPoints(*table);
  return out;
}

bool RemoveQuantizationConfig(nlohmann::ordered_json& config) {
  return config.is_object() && RemoveTable(config);
}

}  // namespace weighbridge
