#include "family/disk_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

namespace weighbridge {
namespace {

using Rewrite = std::pair<std::string_view, std::string_view>;

// The local module spec writes its own norms under the names that Transformer Engine's fused layers
// have (get_gpt_layer_local_spec's sharded_state_dict_keys_map).
constexpr std::array<Rewrite, 2> kLocalNorms = {{
    {"input_layernorm.", "self_attention.linear_qkv.layer_norm_"},
    {"pre_mlp_layernorm.", "mlp.linear_fc1.layer_norm_"},
}};

bool Replace(std::string& text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  if (at == std::string::npos) return false;
  text.replace(at, from.size(), to);
  return true;
}

// Names in the modules, {layer} and {expert} unfilled.
std::vector<std::string> ModuleNames(const Parameter& p) {
  const std::string prefix = p.stack != nullptr ? p.stack->megatron : "";
  std::vector<std::string> names = {prefix + p.rule->megatron};
  const std::string local = prefix + (p.rule->local.empty() ? p.rule->megatron : p.rule->local);
  names.push_back(local);
  for (const auto& [from, to] : kLocalNorms) {
    std::string renamed = local;
    if (Replace(renamed, from, to)) names.push_back(std::move(renamed));
  }
  return names;
}

// "mlp.experts.linear_fc1.weight{expert}" and
// "mlp.experts.local_experts.{expert}.linear_fc1.weight" are both
// "mlp.experts.experts.linear_fc1.weight" with an axis of experts.
std::string StackExperts(std::string name) {
  if (!Replace(name, "local_experts.{expert}.", "")) Replace(name, "{expert}", "");
  Replace(name, "mlp.experts.", "mlp.experts.experts.");
  return name;
}

void AddUnique(std::vector<DiskName>& names, DiskName name) {
  if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(std::move(name));
}

}  // namespace

std::vector<DiskName> DiskNames(const Model& model, const Parameter& p) {
  std::vector<DiskName> out;
  for (std::string name : ModuleNames(p)) {
    DiskName disk;
    if (p.is_expert()) name = StackExperts(std::move(name));
    Replace(name, ".mtp_model_layer.", ".transformer_layer.");  // GPT models
    std::string stacked = name;
    if (p.place == Place::kDecoder && Replace(stacked, ".{layer}.", ".")) {
      disk = {stacked, {p.layer}, {model.layers()}};
      if (p.is_expert()) {
        disk.index.push_back(p.expert);
        disk.extents.push_back(p.experts);
      }
      AddUnique(out, disk);
    }
    Replace(name, "{layer}", fmt::format("{}", p.layer));
    disk = {name, {}, {}};
    if (p.is_expert()) disk = {name, {p.expert}, {p.experts}};
    AddUnique(out, std::move(disk));
  }
  return out;
}

}  // namespace weighbridge
