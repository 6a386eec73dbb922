#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "checks/layer_cut.h"

namespace weighbridge {
namespace {

using nlohmann::ordered_json;

ordered_json::json_pointer Pointer(std::string_view dotted) {
  ordered_json::json_pointer pointer;
  for (size_t dot; (dot = dotted.find('.')) != std::string_view::npos;
       dotted.remove_prefix(dot + 1)) {
    pointer.push_back(std::string(dotted.substr(0, dot)));
  }
  pointer.push_back(std::string(dotted));
  return pointer;
}

std::vector<std::string> LayerKeys(const FamilySpec* spec) {
  if (spec != nullptr && spec->dims.contains("layers")) {
    const std::vector<std::string>& plain = spec->dims.at("layers").keys;
    std::vector<std::string> keys;
    for (const std::string& table : spec->text_model.config) {
      for (const std::string& key : plain) keys.push_back(table + "." + key);
    }
    keys.insert(keys.end(), plain.begin(), plain.end());
    return keys;
  }
  return {"num_hidden_layers",
          "text_config.num_hidden_layers",
          "language_config.num_hidden_layers",
          "llm_config.num_hidden_layers",
          "n_layer",
          "n_layers",
          "num_layers"};
}

// The config lists of the family's rules that name exceptions by layer number.
std::set<std::string> NumberLists(const FamilySpec* spec) {
  std::set<std::string> keys = {"mlp_only_layers", "moe_layers"};
  if (spec == nullptr) return keys;
  for (const auto& [group, rule] : spec->layer_kinds) {
    const char* name = rule.rule == "listed" ? "key" : "except";
    if (const auto it = rule.arguments.find(name); it != rule.arguments.end())
      keys.insert(it->second);
  }
  return keys;
}

std::set<std::string> EntryLists(const FamilySpec* spec) {
  std::set<std::string> keys;
  if (spec == nullptr) return keys;
  for (const auto& [group, rule] : spec->layer_kinds) {
    if (rule.rule != "from_list") continue;
    if (const auto it = rule.arguments.find("key"); it != rule.arguments.end())
      keys.insert(it->second);
  }
  return keys;
}

std::vector<std::string> MtpKeys(const FamilySpec* spec) {
  if (spec != nullptr && spec->dims.contains("mtp_layers")) return spec->dims.at("mtp_layers").keys;
  return {"num_nextn_predict_layers", "mtp_num_hidden_layers"};
}

bool IsNumber(const ordered_json& value, int64_t least) {
  return value.is_number_integer() && value.get<int64_t>() >= least;
}

// "layer_types", "layers_block_type": a list of that name and length has an entry per layer.
bool NamesLayers(const std::string& key) { return key.find("layer") != std::string::npos; }

// Keeps the entries of the first layers, and those of the MTP layers that follow the last.
void CutEntries(ordered_json& list, int64_t whole, int64_t layers, int64_t mtp) {
  const auto size = static_cast<int64_t>(list.size());
  ordered_json kept = ordered_json::array();
  for (int64_t i = 0; i < size; ++i) {
    const bool of_mtp = i >= whole && i < whole + mtp;
    if (i < layers || of_mtp) kept.push_back(list[static_cast<size_t>(i)]);
  }
  list = std::move(kept);
}

void CutNumbers(ordered_json& list, int64_t layers) {
  ordered_json kept = ordered_json::array();
  for (const ordered_json& entry : list) {
    if (!IsNumber(entry, layers)) kept.push_back(entry);
  }
  list = std::move(kept);
}

}  // namespace

Result<LayerCount> FindLayerCount(const FamilySpec* spec, const ordered_json& config) {
  const std::vector<std::string> keys = LayerKeys(spec);
  if (keys.empty()) {
    return Fail(
        ErrorKind::kUnsupported, "layers-unknown",
        fmt::format("no one number in the config of family {} counts its layers", spec->name),
        spec->origin,
        fmt::format("`weighbridge toy --family {}` makes a small random one", spec->name));
  }
  for (const std::string& key : keys) {
    const auto pointer = Pointer(key);
    if (!config.contains(pointer) || !IsNumber(config.at(pointer), 1)) continue;
    return LayerCount{key, config.at(pointer).get<int64_t>()};
  }
  return Fail(ErrorKind::kUnsupported, "config-key-missing",
              "the config does not say how many layers there are", "config.json",
              fmt::format("'{}' is looked for", keys[0]));
}

ordered_json TruncateConfig(const FamilySpec* spec, ordered_json config, const LayerCount& count,
                            int64_t layers, bool without_mtp) {
  const auto pointer = Pointer(count.key);
  config.at(pointer) = layers;
  ordered_json& owner = config.at(pointer.parent_pointer());
  int64_t mtp = 0, all_mtp = 0;
  for (const std::string& key : MtpKeys(spec)) {
    const auto at = Pointer(key);
    ordered_json* value = config.contains(at)   ? &config.at(at)
                          : owner.contains(key) ? &owner.at(key)
                                                : nullptr;
    if (value == nullptr || !IsNumber(*value, 1)) continue;
    all_mtp = value->get<int64_t>();
    if (without_mtp) *value = 0;
    mtp = without_mtp ? 0 : all_mtp;
    break;
  }
  const std::set<std::string> numbers = NumberLists(spec), entries = EntryLists(spec);
  for (auto& [key, value] : owner.items()) {
    if (key == "first_k_dense_replace" && IsNumber(value, layers)) value = layers;
    if (!value.is_array()) continue;
    const auto size = static_cast<int64_t>(value.size());
    const bool fits = size == count.layers || size == count.layers + all_mtp;
    if (numbers.contains(key)) {
      CutNumbers(value, layers);
    } else if (fits && (entries.contains(key) || NamesLayers(key))) {
      CutEntries(value, count.layers, layers, mtp);
    }
  }
  return config;
}

}  // namespace weighbridge
