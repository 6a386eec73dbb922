#include "engine/describe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <set>
#include <string_view>

#include "base/strings.h"
#include "family/config.h"

namespace weighbridge {
namespace {

using nlohmann::json;

tl::unexpected<Error> NoBlock(std::string what, std::string at = "") {
  return Fail(ErrorKind::kUnsupported, "engine-unsupported",
              fmt::format("the engine has no block for {}", what), std::move(at),
              "`verify` compares the weights and the configs without running the model");
}

// -- numbers --

double NumberOf(const json& fields, const char* field, double fallback) {
  const auto it = fields.find(field);
  return it != fields.end() && it->is_number() ? it->get<double>() : fallback;
}

json ValueOf(const Effects& effects, const std::string& name, json fallback = nullptr) {
  const auto it = effects.find(name);
  return it == effects.end() ? std::move(fallback) : it->second.value;
}

// Each norm has its own; what is not said has the config's.
json NormOf(const EffectSide& side, const Effects& effects) {
  const json& f = side.fields;
  const double common = NumberOf(f, "layernorm_epsilon", 1e-5);
  json epsilon = json::object();
  for (const char* name :
       {"input", "pre_mlp", "qk", "latent", "mixer", "post_attention", "post_mlp", "final"}) {
    epsilon[name] = ValueOf(effects, fmt::format("norm.{}.eps", name), common);
  }
  return {{"kind", f.value("normalization", json("LayerNorm"))},
          {"one_plus", f.value("layernorm_zero_centered_gamma", json(false)) == true},
          {"epsilon", std::move(epsilon)}};
}

json RopeOf(const Effects& effects) {
  const json table = ValueOf(effects, "rope.table");
  if (!table.is_object() || table.at("frequencies").empty()) return nullptr;
  json rope = table.at("recipe");
  rope["attention_factor"] = ValueOf(effects, "rope.factor", 1.0);
  rope["pairs"] = ValueOf(effects, "rope.layout") == "adjacent channels";
  return rope;
}

json RouterOf(const Effects& effects) {
  json router = json::object();
  for (const char* name :
       {"topk", "score", "normalized", "scaling", "groups", "bias", "input_scaled"}) {
    router[name] = ValueOf(effects, fmt::format("router.{}", name));
  }
  return router;
}

Status CheckLayer(const Effects& effects, int64_t layer) {
  const std::string at = fmt::format("layer {}", layer);
  const json mixer = ValueOf(effects, "layer.mixer");
  constexpr std::array<std::string_view, 6> kMixers = {"attention",       "latent attention",
                                                       "mamba",           "attention beside mamba",
                                                       "gated delta net", "none"};
  if (!mixer.is_string() || std::find(kMixers.begin(), kMixers.end(),
                                      mixer.get_ref<const std::string&>()) == kMixers.end()) {
    return NoBlock("this kind of layer", at);
  }
  for (const char* name : {"router.capacity", "router.balancing"}) {
    if (!ValueOf(effects, name).is_null()) return NoBlock(FindEffectInfo(name)->title.data(), at);
  }
  return {};
}

Result<json> DescribeLayer(const EffectSide& side, int64_t layer) {
  WB_TRY(const Effects effects, LayerEffects(side, layer));
  WB_RETURN_IF_ERROR(CheckLayer(effects, layer));
  const json& f = side.fields;
  const auto heads = f.value("num_attention_heads", json());
  const auto groups = f.value("num_query_groups", json());
  const bool latent = ValueOf(effects, "layer.mixer") == "latent attention";
  json spec = {
      {"heads", heads},
      {"groups", groups.is_null() ? heads : groups},
      {"head_dim", f.value("kv_channels", json())},
      {"norm", NormOf(side, effects)},
      {"qk_l2_norm", ValueOf(effects, "norm.qk.kind") == "L2, without weights"},
      {"rope", RopeOf(effects)},
      {"attention",
       {{"scale", ValueOf(effects, "softmax.scale")},
        {"window", ValueOf(effects, "attention.window")},
        {"softcap", ValueOf(effects, "attention.softcap")},
        {"clip", ValueOf(effects, "attention.clip")},
        {"sinks", ValueOf(effects, "attention.sinks", "none")}}},
      {"activation",
       {{"function", f.value("activation_func", json("gelu"))},
        {"gated", f.value("gated_linear_unit", json(false)) == true},
        {"clamp", f.value("activation_func_clamp_value", json())},
        {"offset", NumberOf(f, "glu_linear_offset", 0)}}},
  };
  spec["gated_attention"] = f.value("attention_output_gate", json(false)) == true;
  const auto sizes = [&](std::initializer_list<const char*> names) {
    json out = json::object();
    for (const char* name : names) out[name] = ValueOf(effects, fmt::format("ssm.{}", name));
    return out;
  };
  spec["delta_net"] = sizes({"key_heads", "value_heads", "key_dim", "value_dim"});
  spec["mamba"] = sizes({"heads", "head_dim", "groups", "state", "dt_min", "dt_max", "norm_first"});
  json& multipliers = spec["multipliers"] = json::object();
  for (const char* name : {"attention_in", "attention_out", "key", "mlp", "ssm"}) {
    multipliers[name] = ValueOf(effects, fmt::format("multipliers.{}", name));
  }
  if (latent) {
    spec["latent"] = {{"nope", f.value("qk_head_dim", json())},
                      {"rope", f.value("qk_pos_emb_head_dim", json())},
                      {"value", f.value("v_head_dim", json())}};
  }
  if (ValueOf(effects, "layer.mlp") == "experts") spec["router"] = RouterOf(effects);
  for (const json& divisor : {spec["heads"], spec["groups"], spec["delta_net"]["key_heads"],
                              spec["mamba"]["heads"], spec["mamba"]["groups"]}) {
    if (divisor.is_number() && divisor < 1) {
      return Fail(ErrorKind::kInvalid, "config-contradiction", "a model without heads or groups",
                  fmt::format("layer {}", layer));
    }
  }
  return spec;
}

// -- tensors --

// How transformers holds a parameter, by the transform that leads to Megatron's: roles in the
// order of the transform's sources. "{e}" is the expert.
struct Role {
  std::string_view megatron, transform;
  std::array<std::string_view, 4> hf;
};

constexpr Role kRoles[] = {
    {"embedding.word_embeddings.weight", "pad_vocab", {"embed_tokens.weight"}},
    {"decoder.final_layernorm.weight", "identity", {"norm.weight"}},
    {"decoder.final_layernorm.bias", "identity", {"norm.bias"}},
    {"output_layer.weight", "pad_vocab", {"lm_head.weight"}},
    {"input_layernorm.weight", "identity", {"input_layernorm.weight"}},
    {"self_attention.linear_qkv.layer_norm_weight", "identity", {"input_layernorm.weight"}},
    {"self_attention.linear_qkv.layer_norm_bias", "identity", {"input_layernorm.bias"}},
    {"self_attention.linear_qkv.weight",
     "qkv",
     {"q_proj.weight", "k_proj.weight", "v_proj.weight"}},
    {"self_attention.linear_qkv.weight", "qkv_concat", {"qkv_proj.weight"}},
    {"self_attention.linear_qkv.weight", "identity", {"query_key_value.weight"}},
    {"self_attention.linear_qkv.bias", "qkv", {"q_proj.bias", "k_proj.bias", "v_proj.bias"}},
    {"self_attention.linear_qkv.bias", "qkv_concat", {"qkv_proj.bias"}},
    {"self_attention.linear_qkv.bias", "identity", {"query_key_value.bias"}},
    {"self_attention.q_layernorm.weight", "identity", {"q_norm.weight"}},
    {"self_attention.q_layernorm.bias", "identity", {"q_norm.bias"}},
    {"self_attention.k_layernorm.bias", "identity", {"k_norm.bias"}},
    {"self_attention.k_layernorm.weight", "identity", {"k_norm.weight"}},
    {"self_attention.core_attention.softmax_offset", "identity", {"sinks"}},
    {"self_attention.linear_proj.weight", "identity", {"o_proj.weight"}},
    {"self_attention.linear_proj.bias", "identity", {"o_proj.bias"}},
    {"self_attention.linear_proj.post_layernorm.weight",
     "identity",
     {"post_attention_norm.weight"}},
    {"self_attention.linear_q_proj.weight", "identity", {"q_proj.weight"}},
    {"self_attention.linear_q_down_proj.weight", "identity", {"q_a_proj.weight"}},
    {"self_attention.linear_q_up_proj.layer_norm_weight", "identity", {"q_a_layernorm.weight"}},
    {"self_attention.linear_q_up_proj.weight", "identity", {"q_b_proj.weight"}},
    {"self_attention.linear_kv_down_proj.weight", "identity", {"kv_a_proj_with_mqa.weight"}},
    {"self_attention.linear_kv_up_proj.layer_norm_weight", "identity", {"kv_a_layernorm.weight"}},
    {"self_attention.linear_kv_up_proj.weight", "identity", {"kv_b_proj.weight"}},
    {"pre_mlp_layernorm.weight", "identity", {"pre_mlp_norm.weight"}},
    {"mlp.linear_fc1.layer_norm_weight", "identity", {"pre_mlp_norm.weight"}},
    {"mlp.linear_fc1.layer_norm_bias", "identity", {"pre_mlp_norm.bias"}},
    {"mlp.linear_fc1.weight", "gated_mlp", {"gate_proj.weight", "up_proj.weight"}},
    {"mlp.linear_fc1.weight", "identity", {"gate_up_proj.weight"}},
    {"mlp.linear_fc1.bias", "gated_mlp", {"gate_proj.bias", "up_proj.bias"}},
    {"mlp.linear_fc1.bias", "identity", {"gate_up_proj.bias"}},
    {"mlp.linear_fc2.weight", "identity", {"down_proj.weight"}},
    {"mlp.linear_fc2.bias", "identity", {"down_proj.bias"}},
    {"mlp.linear_fc2.post_layernorm.weight", "identity", {"post_mlp_norm.weight"}},
    {"mlp.router.weight", "identity", {"router.weight"}},
    {"mlp.router.bias", "identity", {"router.bias"}},
    {"mlp.router.expert_bias", "identity", {"router.correction_bias"}},
    {"mlp.experts.linear_fc1.weight{expert}",
     "gated_mlp",
     {"experts.{e}.gate_proj.weight", "experts.{e}.up_proj.weight"}},
    {"mlp.experts.linear_fc1.weight{expert}", "expert_gated_mlp", {"experts.gate_up_proj"}},
    {"mlp.experts.linear_fc1.bias{expert}", "expert_gated_mlp", {"experts.gate_up_proj_bias"}},
    {"mlp.experts.linear_fc2.weight{expert}", "identity", {"experts.{e}.down_proj.weight"}},
    {"mlp.experts.linear_fc2.weight{expert}", "expert", {"experts.down_proj"}},
    {"mlp.experts.linear_fc2.bias{expert}", "expert", {"experts.down_proj_bias"}},
    {"mlp.shared_experts.linear_fc1.weight",
     "gated_mlp",
     {"shared_experts.gate_proj.weight", "shared_experts.up_proj.weight"}},
    {"mlp.shared_experts.linear_fc2.weight", "identity", {"shared_experts.down_proj.weight"}},
    {"mlp.shared_experts.gate_weight", "identity", {"shared_expert_gate.weight"}},
    {"mlp.experts.linear_fc1.weight{expert}", "identity", {"experts.{e}.up_proj.weight"}},
    {"mlp.shared_experts.linear_fc1.weight", "identity", {"shared_experts.up_proj.weight"}},
    {"decoder.final_norm.weight", "identity", {"norm.weight"}},
    {"self_attention.linear_qkv.weight",
     "qkv_gated",
     {"q_proj.weight", "k_proj.weight", "v_proj.weight"}},
    {"self_attention.linear_qkv.bias", "qkv_gated", {"q_proj.bias", "k_proj.bias", "v_proj.bias"}},
    {"self_attention.in_proj.layer_norm_weight", "identity", {"input_layernorm.weight"}},
    {"self_attention.in_proj.weight",
     "gdn_in_proj",
     {"delta_net.in_proj_qkvz.weight", "delta_net.in_proj_ba.weight"}},
    {"self_attention.in_proj.weight",
     "gdn_in_proj_flat",
     {"delta_net.in_proj_qkv.weight", "delta_net.in_proj_z.weight", "delta_net.in_proj_b.weight",
      "delta_net.in_proj_a.weight"}},
    {"self_attention.conv1d.weight", "identity", {"delta_net.conv1d.weight"}},
    {"self_attention.A_log", "identity", {"delta_net.A_log"}},
    {"self_attention.dt_bias", "identity", {"delta_net.dt_bias"}},
    {"self_attention.out_norm.weight", "identity", {"delta_net.norm.weight"}},
    {"self_attention.out_proj.weight", "identity", {"mixer.out_proj.weight"}},
    {"mixer.in_proj.layer_norm_weight", "identity", {"input_layernorm.weight"}},
    {"mixer.in_proj.weight", "identity", {"mamba.in_proj.weight"}},
    {"mixer.conv1d_weight", "identity", {"mamba.conv1d.weight"}},
    {"mixer.conv1d_bias", "identity", {"mamba.conv1d.bias"}},
    {"mixer.A_log", "identity", {"mamba.A_log"}},
    {"mixer.D", "identity", {"mamba.D"}},
    {"mixer.dt_bias", "identity", {"mamba.dt_bias"}},
    {"mixer.norm.weight", "identity", {"mamba.norm.weight"}},
    {"mixer.out_proj.weight", "identity", {"mixer.out_proj.weight"}},
    {"enorm.weight", "identity", {"enorm.weight"}},
    {"hnorm.weight", "identity", {"hnorm.weight"}},
    {"eh_proj.weight", "identity", {"eh_proj.weight"}},
    {"eh_proj.weight", "swap_halves", {"he_proj.weight"}},
    {"final_layernorm.weight", "identity", {"shared_head.norm.weight"}},
    {"norm.weight", "identity", {"input_layernorm.weight"}},
    {"mamba_mixer.in_proj.weight", "identity", {"mamba.in_proj.weight"}},
    {"mamba_mixer.conv1d_weight", "identity", {"mamba.conv1d.weight"}},
    {"mamba_mixer.conv1d_bias", "identity", {"mamba.conv1d.bias"}},
    {"mamba_mixer.A_log", "identity", {"mamba.A_log"}},
    {"mamba_mixer.D", "identity", {"mamba.D"}},
    {"mamba_mixer.dt_bias", "identity", {"mamba.dt_bias"}},
    {"mamba_mixer.norm.weight", "identity", {"mamba.norm.weight"}},
    {"mamba_mixer.out_proj.weight", "identity", {"mamba.out_proj.weight"}},
};

const Role* FindRole(std::string_view megatron, std::string_view transform) {
  const auto it = std::find_if(std::begin(kRoles), std::end(kRoles), [&](const Role& role) {
    return role.megatron == megatron && role.transform == transform;
  });
  return it == std::end(kRoles) ? nullptr : it;
}

// An MLP without a gate has one matrix, which transformers calls what it likes.
std::string RoleName(const Role& role, size_t source, const Parameter& p) {
  std::string name(role.hf[source]);
  if (const size_t at = name.find("{e}"); at != std::string::npos) {
    name.replace(at, 3, fmt::format("{}", p.expert));
  }
  const bool single = p.rule->components.empty();
  if (single && name.starts_with("gate_up_proj.")) name.erase(0, 5);
  return name;
}

constexpr std::string_view kMtpInner = ".mtp_model_layer.";

constexpr std::string_view kEmbedding = "embedding.word_embeddings.weight";
constexpr std::string_view kOutput = "output_layer.weight";

// What the names of the text model begin with where it is a part of another: it is what holds the
// word embeddings ("thinker.language_model."). Empty: the names are the model's own.
std::string_view TextPrefix(const FamilySpec& spec) {
  for (const ParamRule& rule : spec.params) {
    const std::string_view name = rule.megatron;
    if (!rule.stacks.empty() || !name.ends_with(kEmbedding)) continue;
    const std::string_view prefix = name.substr(0, name.size() - kEmbedding.size());
    if (prefix.empty() || prefix.ends_with('.')) return prefix;
  }
  return {};
}

// Where Megatron cannot fuse the norms of the latents into the projections after them (an indexer
// reads what leaves one), they are modules that bear the names of the norms of heads.
constexpr std::pair<std::string_view, std::string_view> kLatentNorms[] = {
    {"self_attention.q_layernorm.weight", "self_attention.linear_q_up_proj.layer_norm_weight"},
    {"self_attention.kv_layernorm.weight", "self_attention.linear_kv_up_proj.layer_norm_weight"}};

bool IsLatent(const Model& model) {
  return std::any_of(model.config().begin(), model.config().end(), [](const Field& field) {
    return field.name == "multi_latent_attention" && field.value == true;
  });
}

std::string NameInLayer(const Model& model, const std::string& name) {
  for (const auto& [module, fused] : kLatentNorms) {
    if (name == module && IsLatent(model)) return std::string(fused);
  }
  return name;
}

// The name within a layer, or of the model where a text model is inside another.
std::string TextName(const Model& model, const Parameter& p) {
  constexpr std::string_view kLayer = "{layer}.";
  const std::string& name = p.rule->megatron;
  if (p.stack != nullptr) {
    const std::string& stack = p.stack->megatron;
    // The layer within an MTP layer has the names of any.
    if (stack.ends_with(kMtpInner)) return NameInLayer(model, name);
    // A mixer may be a stack of its own.
    const size_t at = stack.rfind(kLayer);
    return (at == std::string::npos ? "" : stack.substr(at + kLayer.size())) +
           NameInLayer(model, name);
  }
  const std::string_view prefix = TextPrefix(model.spec());
  return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
}

bool IsOfStage(const Model& model, const Parameter& p, StageId stage) {
  // Up to as many tokens as it chooses keys an indexer leaves none out, and more are not run.
  if (p.is_indexer()) return false;
  switch (stage.kind) {
    case StageKind::kEmbedding:
      return p.stack == nullptr && TextName(model, p) == kEmbedding;
    case StageKind::kLayer:
      return p.stack != nullptr && !p.stack->is_tower() && p.place == Place::kDecoder &&
             p.layer == stage.layer;
    case StageKind::kMtp:
      // The first takes the model's states after the final norm.
      if (p.place == Place::kFinalNorm) return stage.layer == 0;
      return p.stack != nullptr && p.place == Place::kMtp && p.layer == stage.layer;
    case StageKind::kOutput:
      return p.stack == nullptr && (p.place == Place::kFinalNorm || TextName(model, p) == kOutput);
  }
  return false;
}

// Of MTP layers not asked.
bool IsOfAnyStage(const Model& model, const Parameter& p) {
  return IsOfStage(model, p, {StageKind::kEmbedding}) ||
         IsOfStage(model, p, {StageKind::kLayer, p.layer}) ||
         IsOfStage(model, p, {StageKind::kOutput});
}

// "audio_tower" of "thinker.audio_tower.layers.{layer}.fc1.weight" where the text model's names
// begin with "thinker.language_model.".
std::string PartOf(const Parameter& p, std::string_view text) {
  std::string_view name = p.stack == nullptr ? p.rule->megatron : p.stack->megatron;
  for (size_t dot = text.find('.'); dot != text.npos; dot = text.find('.')) {
    if (!name.starts_with(text.substr(0, dot + 1))) break;
    name.remove_prefix(dot + 1);
    text.remove_prefix(dot + 1);
  }
  return std::string(name.substr(0, name.find('.')));
}

// The names of what a layer holds; `mtp`: of the layer within an MTP layer.
std::set<std::string> NamesOf(const Model& model, bool mtp, int64_t layer) {
  std::set<std::string> names;
  for (const Parameter& p : model.parameters()) {
    if (!IsOfStage(model, p, {mtp ? StageKind::kMtp : StageKind::kLayer, layer})) continue;
    if (mtp && (p.stack == nullptr || !p.stack->megatron.ends_with(kMtpInner))) continue;
    names.insert(TextName(model, p));
  }
  return names;
}

// The last decoder layer that is built as the layer within an MTP layer is; -1: none.
int64_t LayerLike(const Model& model, int64_t mtp) {
  const std::set<std::string> names = NamesOf(model, /*mtp=*/true, mtp);
  int64_t layer = names.empty() ? -1 : model.layers() - 1;
  while (layer >= 0 && NamesOf(model, /*mtp=*/false, layer) != names) --layer;
  return layer;
}

// Whether layers differ in what no parameter shows: Megatron counts MTP layers from 1 again.
bool HasUnlikeLayers(const EffectSide& side) {
  const auto unlike = [&](const char* field) {
    const json list = side.fields.value(field, json());
    return list.is_array() &&
           std::any_of(list.begin(), list.end(), [&](const json& e) { return e != list[0]; });
  };
  return unlike("window_attn_skip_freq") || unlike("no_rope_freq");
}

const Parameter* Embedding(const Model& model) {
  for (const Parameter& p : model.parameters()) {
    if (IsOfStage(model, p, {StageKind::kEmbedding})) return &p;
  }
  return nullptr;
}

bool Flag(const Parameter& p, const char* name) {
  const auto it = p.storage->options.find(name);
  return it != p.storage->options.end() && it->second == "true";
}

Status AddHf(const Model& model, const Parameter& p, json& spec, std::vector<HfUse>& uses) {
  const Role* role = FindRole(TextName(model, p), p.storage->transform);
  const bool stacked = role != nullptr && role->transform.starts_with("expert");
  if (role == nullptr || (Flag(p, "transposed") && !stacked)) {
    return NoBlock(
        fmt::format("{} as transformers holds it ({})", TextName(model, p), p.storage->transform),
        p.hf.empty() ? "" : p.hf[0]);
  }
  for (size_t i = 0; i < p.hf.size(); ++i) uses.push_back({RoleName(*role, i, p), p.hf[i]});
  if (stacked && p.rule->megatron.find(".weight") != std::string::npos) {
    spec["experts_transposed"] = Flag(p, "transposed");
    if (role->transform == "expert_gated_mlp") {
      spec["experts_interleaved"] = Flag(p, "interleaved");
    }
  }
  return {};
}

// A limit of LongestKnown.
Result<int64_t> TokensUpTo(const EffectSide& side, const std::string& field, const json& limit,
                           const std::string& origin) {
  if (limit.is_number_unsigned()) {
    constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
    const auto tokens = static_cast<int64_t>(std::min(limit.get<uint64_t>(), kMost));
    if (tokens > 0) return tokens;
  } else if (limit.is_number_integer() && limit > 0) {
    return limit.get<int64_t>();
  }
  const auto keys = side.keys.find(field);
  // What the family computes of several values need not be wrong for being 0.
  if (keys == side.keys.end() && limit.is_number_integer() && field != "dsa_indexer_topk") {
    return Fail(ErrorKind::kUnsupported, "engine-unsupported",
                "from the first position on this model computes otherwise, which the engine does "
                "not know",
                origin);
  }
  return Fail(ErrorKind::kUnsupported, "config-unsupported",
              fmt::format("{} is {}, and has to be a whole number from 1 on",
                          keys == side.keys.end() ? field : keys->second.front(),
                          ToPrintable(Describe(limit))),
              origin);
}

}  // namespace

bool HasForwardPass(const FamilySpec& spec) {
  const std::string output = std::string(TextPrefix(spec)).append(kOutput);
  const auto computes = [&](const ParamRule& rule) {
    return rule.stacks.empty() && rule.megatron == output &&
           FindRole(kOutput, rule.storage[0].transform) != nullptr;
  };
  return HasEffects(spec) && std::any_of(spec.params.begin(), spec.params.end(), computes);
}

Result<std::optional<int64_t>> LongestKnown(const EffectSide& side, const std::string& origin) {
  const bool chooses = side.fields.value("experimental_attention_variant", json()) == "dsa";
  std::optional<int64_t> least;
  for (const char* field :
       {"attention_chunk", "without_temperature", "every_key_up_to", "dsa_indexer_topk"}) {
    const json limit = side.fields.value(field, json());
    if (limit.is_null() || (field == std::string_view("dsa_indexer_topk") && !chooses)) continue;
    WB_TRY(const int64_t tokens, TokensUpTo(side, field, limit, origin));
    least = std::min(least.value_or(tokens), tokens);
  }
  return least;
}

OtherParts OtherPartsOf(const Model& model) {
  const std::string_view text = TextPrefix(model.spec());
  OtherParts parts;
  for (const Parameter& p : model.parameters()) {
    if (p.is_indexer() || p.place == Place::kMtp || IsOfAnyStage(model, p)) continue;
    ++parts.tensors;
    parts.names.insert(PartOf(p, text));
  }
  return parts;
}

MtpLayers MtpLayersOf(const Model& model, const EffectSide& hf, const EffectSide& megatron) {
  MtpLayers layers;
  for (const Parameter& p : model.parameters()) {
    if (p.place == Place::kMtp) layers.count = std::max(layers.count, p.layer + 1);
  }
  for (int64_t layer = 0; layer < layers.count; ++layer) {
    if (LayerLike(model, layer) < 0) return {0, "no layer of the model is built as they are"};
  }
  if (layers.count > 0 && (HasUnlikeLayers(hf) || HasUnlikeLayers(megatron))) {
    return {0, "nothing says which window and rotation they have"};
  }
  return layers;
}

Result<json> DescribeStage(const EffectSide& side, const Model& model, StageId stage) {
  if (stage.kind == StageKind::kLayer) return DescribeLayer(side, stage.layer);
  if (stage.kind == StageKind::kMtp) return DescribeLayer(side, LayerLike(model, stage.layer));
  const Effects effects = WholeEffects(side);
  if (ValueOf(effects, "positions.learned") == true) return NoBlock("learned positions");
  return json{{"norm", NormOf(side, effects)},
              {"vocab", model.vocab()},
              {"embedding_scale", ValueOf(effects, "embedding.scale", 1.0)},
              {"logits_scale", ValueOf(effects, "logits.scale", 1.0)},
              {"logits_softcap", ValueOf(effects, "logits.softcap")}};
}

Result<std::vector<HfUse>> HfTensorsOf(const Model& model, StageId stage, json& spec) {
  std::vector<HfUse> uses;
  for (const Parameter& p : model.parameters()) {
    if (IsOfStage(model, p, stage)) WB_RETURN_IF_ERROR(AddHf(model, p, spec, uses));
  }
  if (stage.kind == StageKind::kOutput && model.tied() && Embedding(model) != nullptr) {
    uses.push_back({"lm_head.weight", Embedding(model)->hf[0]});
  }
  if (uses.empty()) return NoBlock("a model whose embedding and output are no text model's");
  // All experts of a layer may stand in one tensor.
  std::sort(uses.begin(), uses.end(),
            [](const HfUse& a, const HfUse& b) { return a.role < b.role; });
  uses.erase(std::unique(uses.begin(), uses.end(),
                         [](const HfUse& a, const HfUse& b) { return a.role == b.role; }),
             uses.end());
  return uses;
}

std::vector<MegatronUse> MegatronTensorsOf(const Model& model, StageId stage) {
  std::vector<MegatronUse> uses;
  for (const Parameter& p : model.parameters()) {
    if (!IsOfStage(model, p, stage)) continue;
    std::string role = TextName(model, p);
    if (const size_t at = role.find("{expert}"); at != std::string::npos) {
      role.replace(at, 8, fmt::format("{}", p.expert));
    }
    uses.push_back({std::move(role), &p});
  }
  if (stage.kind == StageKind::kOutput && model.tied() && Embedding(model) != nullptr) {
    uses.push_back({std::string(kOutput), Embedding(model)});
  }
  return uses;
}

}  // namespace weighbridge
