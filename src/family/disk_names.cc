#include "family/disk_names.h"

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

// A norm by itself, and the layers that modules of Megatron fuse it into. Nothing writes two of
// them.
constexpr std::array<Rewrite, 10> kFused = {{
    {".input_layernorm.", ".self_attention.linear_qkv.layer_norm_"},
    {".input_layernorm.", ".self_attention.linear_q_down_proj.layer_norm_"},
    {".input_layernorm.", ".self_attention.linear_kv_down_proj.layer_norm_"},
    {".input_layernorm.", ".self_attention.linear_qkv_down_proj.layer_norm_"},
    {".input_layernorm.", ".self_attention.in_proj.layer_norm_"},
    {".pre_mlp_layernorm.", ".mlp.linear_fc1.layer_norm_"},
    {".self_attention.q_layernorm.", ".self_attention.linear_q_up_proj.layer_norm_"},
    {".self_attention.kv_layernorm.", ".self_attention.linear_kv_up_proj.layer_norm_"},
    {".norm.", ".mixer.in_proj.layer_norm_"},
    {".final_layernorm.", ".final_norm."},
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
  std::vector<std::string> names;
  for (const std::string& name : p.rule->disk) names.push_back(prefix + name);
  names.push_back(prefix + p.rule->megatron);
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
  Replace(name, ".experts.", ".experts.experts.");
  return name;
}

// Megatron-Core's HybridModel (state-space and attention layers in one stack) numbers its layers.
bool IsHybrid(const Model& model) {
  const std::vector<Field>& config = model.config();
  return std::any_of(config.begin(), config.end(),
                     [](const Field& f) { return f.name == "is_hybrid_model" && f.value == true; });
}

// The key of a module's name, with the layers stacked or numbered.
DiskName Placed(const Model& model, const Parameter& p, std::string name, bool stacked) {
  if (p.is_expert()) name = StackExperts(std::move(name));
  if (!IsHybrid(model)) Replace(name, ".mtp_model_layer.", ".transformer_layer.");
  DiskName disk;
  const bool may_stack = p.stack != nullptr && p.place != Place::kMtp;
  if (stacked && may_stack && Replace(name, ".{layer}.", ".")) {
    disk.index.push_back(p.layer);
    disk.extents.push_back(p.stack->is_tower() ? model.LayersOf(*p.stack) : model.layers());
  }
  name = model.Fill(name, p.layer, p.expert);
  if (p.is_expert()) {
    disk.index.push_back(p.expert);
    disk.extents.push_back(p.experts);
  }
  disk.key = std::move(name);
  return disk;
}

bool NumbersLayers(const Model& model) {
  if (IsHybrid(model) || model.spec().numbered_layers) return true;
  for (const Field& field : model.config()) {
    const bool asks =
        field.name == "hetereogenous_dist_checkpoint" || field.name == "heterogeneous_block_specs";
    if (asks && field.value == true) return true;
    if (field.name != "moe_layer_freq" && field.name != "linear_attention_freq") continue;
    if (field.value.is_array()) return true;
    if (field.value.is_number_integer() && field.value.get<int64_t>() > 1) return true;
  }
  return false;
}

}  // namespace

std::vector<DiskPart> DiskParts(const Parameter& p) {
  std::vector<DiskPart> parts;
  int64_t begin = 0;
  for (size_t i = 0; i < p.rule->parts.size(); ++i) {
    parts.push_back({p.rule->parts[i], begin, p.cut.components[i]});
    begin += p.cut.components[i];
  }
  return parts;
}

std::vector<DiskName> DiskNames(const Model& model, const Parameter& p) {
  std::vector<DiskName> out;
  const auto add = [&](DiskName disk) {
    if (std::find(out.begin(), out.end(), disk) == out.end()) out.push_back(std::move(disk));
  };
  for (const std::string& name : ModuleNames(p)) {
    for (const bool stacked : {true, false}) add(Placed(model, p, name, stacked));
  }
  for (const Dialect dialect : {Dialect::kTe, Dialect::kLocal}) {
    add({model.MegatronName(p, dialect), {}, {}});
  }
  return out;
}

std::optional<NormKeySet> NormKeys(const Model& model, const Parameter& p, bool stacked) {
  if (!p.rule->disk.empty() || p.rule->megatron.find("norm") == std::string::npos) {
    return std::nullopt;
  }
  const std::string prefix = p.stack != nullptr ? p.stack->megatron : "";
  const std::string te = prefix + p.rule->megatron;
  const std::string local = p.rule->local.empty() ? te : prefix + p.rule->local;
  std::string in_files = local;
  for (const auto& [from, to] : kLocalNorms) {
    if (Replace(in_files, from, to)) break;
  }
  const auto key = [&](const std::string& name) { return Placed(model, p, name, stacked).key; };
  return NormKeySet{key(te), key(in_files), key(local)};
}

std::vector<NormAlias> NormAliases(const Model& model, const Parameter& p) {
  std::vector<NormAlias> out;
  if (p.rule->megatron.find("norm") == std::string::npos) return out;
  const std::vector<DiskName> names = DiskNames(model, p);
  for (const DiskName& name : names) {
    for (const auto& [alone, fused] : kFused) {
      for (const auto& [from, to] : {Rewrite{alone, fused}, Rewrite{fused, alone}}) {
        DiskName other = name;
        if (Replace(other.key, from, to)) out.push_back({std::move(other), name.key});
      }
    }
  }
  return out;
}

DiskName WrittenName(const Model& model, const Parameter& p, Dialect dialect) {
  const std::vector<std::string> names = ModuleNames(p);
  // The last of the local names is the renamed one, where there is one.
  const bool first = dialect == Dialect::kTe || !p.rule->disk.empty();
  const bool tower = p.stack != nullptr && p.stack->is_tower();
  const bool stacked = tower ? p.stack->stacked : !NumbersLayers(model);
  return Placed(model, p, first ? names.front() : names.back(), stacked);
}

}  // namespace weighbridge
