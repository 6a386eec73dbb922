// Faults of the config beside the weights: fields of Megatron-Core's config that say something else
// than the model is. Which field does what, and where it counts, follows TransformerConfig,
// MLATransformerConfig, GPTModel and the classes of Megatron Bridge, not the code that compares.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <iterator>

#include "checks/selftest/fault_sites.h"

namespace weighbridge {
namespace {

using nlohmann::json;
using Injected = std::optional<std::string>;

// -- what the fields say --

json Get(const json& fields, const char* field) { return fields.value(field, json()); }
bool Is(const json& fields, const char* field) { return Get(fields, field) == true; }
bool IsNumber(const json& fields, const char* field) { return Get(fields, field).is_number(); }
bool IsList(const json& fields, const char* field) {
  const json value = Get(fields, field);
  return value.is_array() && !value.empty();
}

std::string ClassOf(const json& fields, const char* field = "_target_") {
  json target = Get(fields, field);
  if (target.is_object()) target = Get(target, "_target_");
  const std::string dotted = target.is_string() ? target.get<std::string>() : "";
  return dotted.substr(dotted.rfind('.') + 1);
}

bool IsLatent(const json& fields) { return Is(fields, "multi_latent_attention"); }
bool IsHybrid(const json& fields) { return Get(fields, "hybrid_layer_pattern").is_string(); }
bool HasExperts(const json& fields) { return IsNumber(fields, "num_moe_experts"); }
// GPTModel's YaRN rotates whole heads, whatever rotary_percent says.
bool IsYarn(const json& fields) {
  return Get(fields, "position_embedding_type") == "yarn" && !IsLatent(fields);
}
bool IsGemma3(const json& fields) { return ClassOf(fields).starts_with("Gemma3"); }

bool Rotates(const json& fields) {
  const json kind = Get(fields, "position_embedding_type");
  return IsLatent(fields) || kind == "rope" || kind == "yarn" || kind == "mrope";
}

bool HasDenseLayer(const json& fields) {
  if (!HasExperts(fields)) return !IsHybrid(fields);
  const json layers = Get(fields, "moe_layer_freq");
  return layers.is_array() && std::count(layers.begin(), layers.end(), json(0)) > 0;
}

// -- changes --

Injected Set(json& fields, const char* field, json value) {
  std::string what = fmt::format("{}: {} for {}", field, value.dump(), Get(fields, field).dump());
  fields[field] = std::move(value);
  return what;
}

Injected Times(json& fields, const char* field, double factor) {
  const json old = Get(fields, field);
  if (old.is_number_integer()) {
    return Set(fields, field, static_cast<int64_t>(old.get<double>() * factor));
  }
  return Set(fields, field, old.get<double>() * factor);
}

Injected Flip(json& fields, const char* field) { return Set(fields, field, !Is(fields, field)); }

// One entry of a list of 0 and 1.
Injected FlipOne(json& fields, const char* field, Random& random) {
  json list = fields[field];
  json& entry = list[static_cast<size_t>(Pick(random, std::ssize(list)))];
  entry = entry == 1 ? 0 : 1;
  return Set(fields, field, std::move(list));
}

// A change, and whether there is a place for it.
struct Change {
  bool applies;
  Injected (*make)(json& fields, Random& random);
};

Injected AnyOf(std::initializer_list<Change> changes, json& fields, Random& random) {
  std::vector<Change> possible;
  std::copy_if(changes.begin(), changes.end(), std::back_inserter(possible),
               [](const Change& change) { return change.applies; });
  if (possible.empty()) return std::nullopt;
  return OneOf(possible, random).make(fields, random);
}

// -- positions --

Injected RopeBase(json& fields, Random& random) {
  // The first frequency is 1, whatever the base.
  const double channels =
      Get(fields, "rotary_percent").is_number() && !IsLatent(fields)
          ? fields["kv_channels"].get<double>() * fields["rotary_percent"].get<double>()
          : 4;
  if (!Rotates(fields) || channels < 4) return std::nullopt;
  const double factor = OneOf<double>({0.5, 2, 10, 50}, random);
  json base = Get(fields, "rotary_base");
  if (!base.is_array()) return Times(fields, "rotary_base", factor);
  json& entry = base[static_cast<size_t>(Pick(random, std::ssize(base)))];
  entry = entry.get<double>() * factor;
  return Set(fields, "rotary_base", std::move(base));
}

Injected RopeScaling(json& fields, Random& random) {
  const bool yarn = IsYarn(fields);
  const bool plain = Rotates(fields) && !yarn && !IsLatent(fields) && !IsGemma3(fields);
  return AnyOf(
      {{IsLatent(fields),
        [](json& f, Random& r) {
          return Set(f, "rotary_scaling_factor", OneOf<double>({4, 16, 40}, r));
        }},
       {yarn, [](json& f, Random&) { return Times(f, "yarn_rotary_scaling_factor", 2); }},
       {plain,
        [](json& f, Random& r) {
          return Set(f, "seq_len_interpolation_factor", OneOf<double>({2, 4, 8}, r));
        }},
       {IsGemma3(fields), [](json& f, Random&) { return Set(f, "rope_scaling_factor", 8.0); }},
       {plain && Get(fields, "position_embedding_type") == "rope" &&
            Get(fields, "rotary_percent") == 1.0,
        [](json& f, Random& r) {
          f["rope_scaling_factor"] = OneOf<double>({2, 8, 32}, r);
          return Set(f, "rope_scaling", true);
        }}},
      fields, random);
}

Injected RopePartial(json& fields, Random& random) {
  if (!Rotates(fields) || IsLatent(fields) || IsYarn(fields)) return std::nullopt;
  const double head = Get(fields, "kv_channels").get<double>();
  std::vector<double> shares;
  for (const double share : {0.25, 0.5, 0.75, 1.0}) {
    const auto channels = static_cast<int64_t>(head * share);
    if (channels >= 2 && channels % 2 == 0 && Get(fields, "rotary_percent") != share) {
      shares.push_back(share);
    }
  }
  if (shares.empty()) return std::nullopt;
  return Set(fields, "rotary_percent", OneOf(shares, random));
}

Injected MropeSections(json& fields, Random& random) {
  if (Get(fields, "position_embedding_type") != "mrope" || !IsList(fields, "mrope_section")) {
    return std::nullopt;
  }
  json sections = fields["mrope_section"];
  const auto from = Pick(random, std::ssize(sections));
  const auto to = (from + 1 + Pick(random, std::ssize(sections) - 1)) % std::ssize(sections);
  json& less = sections[static_cast<size_t>(from)];
  json& more = sections[static_cast<size_t>(to)];
  less = less.get<int64_t>() - 1;
  more = more.get<int64_t>() + 1;
  return Set(fields, "mrope_section", std::move(sections));
}

Injected RopeInterleaved(json& fields, Random&) {
  // MLA always rotates adjacent channels.
  if (!Rotates(fields) || IsLatent(fields)) return std::nullopt;
  return Flip(fields, "rotary_interleaved");
}

// -- norms and activation --

Injected NormEps(json& fields, Random& random) {
  return Times(fields, "layernorm_epsilon", OneOf<double>({0.1, 2, 10, 1000}, random));
}

Injected NormKind(json& fields, Random& random) {
  const bool qk = !IsLatent(fields) && !IsHybrid(fields) && !Is(fields, "qk_l2_norm");
  return AnyOf({{true,
                 [](json& f, Random&) {
                   return Set(f, "normalization",
                              Get(f, "normalization") == "RMSNorm" ? "LayerNorm" : "RMSNorm");
                 }},
                {qk, [](json& f, Random&) { return Flip(f, "qk_layernorm"); }}},
               fields, random);
}

Injected NormConvention(json& fields, Random&) {
  return Flip(fields, "layernorm_zero_centered_gamma");
}

Injected Activation(json& fields, Random& random) {
  std::vector<std::string> others = {"torch.nn.functional.silu", "torch.nn.functional.gelu",
                                     "megatron.core.activations.squared_relu",
                                     "megatron.core.activations.fast_gelu",
                                     "megatron.core.fusions.fused_bias_geglu.quick_gelu"};
  std::erase_if(others, [&](const std::string& name) {
    return name.ends_with(ClassOf(fields, "activation_func"));
  });
  return Set(fields, "activation_func", {{"_call_", false}, {"_target_", OneOf(others, random)}});
}

// -- attention --

Injected AttentionWindow(json& fields, Random& random) {
  if (IsLatent(fields) || IsHybrid(fields)) return std::nullopt;
  const json window = Get(fields, "window_size");
  if (window.is_null()) {
    fields["window_attn_skip_freq"] = nullptr;
    return Set(fields, "window_size", {3 + Pick(random, 60), 0});
  }
  const bool pair = window.is_array();
  const auto left = (pair ? window[0] : window).get<int64_t>();
  const std::vector<int64_t> others = {left - 1, left + 1, left / 2, 2 * left};
  const int64_t other = OneOf(others, random);
  if (Pick(random, 5) == 0) return Set(fields, "window_size", nullptr);
  return Set(fields, "window_size", pair ? json{other, 0} : json(other));
}

Injected SwapSymbols(json& fields, Random& random) {
  auto pattern = fields["hybrid_layer_pattern"].get<std::string>();
  const auto at = static_cast<size_t>(Pick(random, std::ssize(pattern) - 1));
  std::swap(pattern[at], pattern[at + 1]);
  return Set(fields, "hybrid_layer_pattern", std::move(pattern));
}

Injected LayerPattern(json& fields, Random& random) {
  // The classes of Gemma have patterns of their own, whatever this list says.
  const bool windows = IsList(fields, "window_attn_skip_freq") &&
                       !Get(fields, "window_size").is_null() &&
                       !ClassOf(fields).starts_with("Gemma");
  const bool rotation = Get(fields, "position_embedding_type") == "rope" && !IsLatent(fields);
  return AnyOf(
      {{IsList(fields, "moe_layer_freq"),
        [](json& f, Random& r) { return FlipOne(f, "moe_layer_freq", r); }},
       {windows, [](json& f, Random& r) { return FlipOne(f, "window_attn_skip_freq", r); }},
       {rotation && IsList(fields, "no_rope_freq"),
        [](json& f, Random& r) { return FlipOne(f, "no_rope_freq", r); }},
       {rotation && !IsList(fields, "no_rope_freq") && !IsList(fields, "linear_attention_freq") &&
            !IsGemma3(fields),
        [](json& f, Random& r) {
          json list = json::array();
          for (int64_t i = 0; i < f["num_layers"]; ++i) list.push_back(0);
          list[static_cast<size_t>(Pick(r, std::ssize(list)))] = 1;
          return Set(f, "no_rope_freq", std::move(list));
        }},
       {IsList(fields, "linear_attention_freq"),
        [](json& f, Random& r) { return FlipOne(f, "linear_attention_freq", r); }},
       {IsGemma3(fields),
        [](json& f, Random&) {
          return Set(f, "interleaved_attn_pattern", {2, 1});
        }},
       {IsHybrid(fields), SwapSymbols}},
      fields, random);
}

Injected SoftmaxScale(json& fields, Random& random) {
  if (IsLatent(fields)) return std::nullopt;  // it has a scale of its own
  const double factor = OneOf<double>({0.5, 1.01, 2}, random);
  if (ClassOf(fields) == "Gemma2ModelProvider") {
    return Times(fields, "query_pre_attn_scalar", factor < 1 || factor == 2 ? 2 : 3);
  }
  if (IsNumber(fields, "softmax_scale")) return Times(fields, "softmax_scale", factor);
  if (!IsNumber(fields, "kv_channels")) return std::nullopt;
  return Set(fields, "softmax_scale", factor / std::sqrt(fields["kv_channels"].get<double>()));
}

Injected LogitSoftcap(json& fields, Random& random) {
  const auto has = [&](const char* field) { return IsNumber(fields, field); };
  return AnyOf({{has("attn_logit_softcapping"),
                 [](json& f, Random&) { return Times(f, "attn_logit_softcapping", 2); }},
                {has("attn_logit_softcapping"),
                 [](json& f, Random&) { return Set(f, "attn_logit_softcapping", nullptr); }},
                {has("final_logit_softcapping"),
                 [](json& f, Random&) { return Times(f, "final_logit_softcapping", 2); }},
                {has("final_logit_softcapping"),
                 [](json& f, Random&) { return Set(f, "final_logit_softcapping", nullptr); }}},
               fields, random);
}

// -- router --

Injected RouterFormula(json& fields, Random& random) {
  if (!HasExperts(fields)) return std::nullopt;
  const bool softmax = Get(fields, "moe_router_score_function") == "softmax";
  const bool groups =
      Get(fields, "moe_router_num_groups").is_number() && Get(fields, "moe_router_num_groups") > 1;
  return AnyOf(
      {{true,
        [](json& f, Random&) {
          const bool was = Get(f, "moe_router_score_function") == "softmax";
          return Set(f, "moe_router_score_function", was ? "sigmoid" : "softmax");
        }},
       {softmax, [](json& f, Random&) { return Flip(f, "moe_router_pre_softmax"); }},
       {true,
        [](json& f, Random&) {
          return Set(f, "moe_router_topk", f["moe_router_topk"].get<int64_t>() + 1);
        }},
       {true,
        [](json& f, Random& r) {
          return Set(f, "moe_router_topk_scaling_factor", OneOf<double>({0.5, 4, 16}, r));
        }},
       {groups,
        [](json& f, Random&) {
          f["moe_router_group_topk"] = nullptr;
          return Set(f, "moe_router_num_groups", nullptr);
        }},
       {!softmax, [](json& f, Random&) { return Flip(f, "moe_router_enable_expert_bias"); }}},
      fields, random);
}

// -- sizes --

Injected Doubled(json& fields, std::initializer_list<const char*> names, Random& random) {
  std::vector<const char*> there;
  for (const char* name : names) {
    if (IsNumber(fields, name)) there.push_back(name);
  }
  if (there.empty()) return std::nullopt;
  return Times(fields, OneOf(there, random), 2);
}

Injected HeadGeometry(json& fields, Random& random) {
  if (IsLatent(fields)) {
    return Doubled(fields, {"num_attention_heads", "qk_head_dim", "v_head_dim"}, random);
  }
  return Doubled(fields, {"num_attention_heads", "num_query_groups", "kv_channels"}, random);
}

Injected SsmParameters(json& fields, Random& random) {
  return Doubled(fields,
                 {"mamba_num_heads", "mamba_head_dim", "mamba_num_groups", "mamba_state_dim",
                  "linear_key_head_dim", "linear_value_head_dim", "linear_num_key_heads",
                  "linear_num_value_heads", "linear_conv_kernel_dim"},
                 random);
}

Injected SizeMismatch(json& fields, Random& random) {
  if (HasExperts(fields)) {
    return Doubled(fields,
                   {"moe_ffn_hidden_size", "num_moe_experts", "moe_shared_expert_intermediate_size",
                    "hidden_size", HasDenseLayer(fields) ? "ffn_hidden_size" : "kv_lora_rank"},
                   random);
  }
  return Doubled(fields, {"hidden_size", "ffn_hidden_size", "kv_lora_rank"}, random);
}

// mup's multipliers count with use_mup alone, and then the softmax scale is mup's too: here the
// same as without it.
Injected EmbeddingScale(json& fields, Random& random) {
  if (IsNumber(fields, "softmax_scale") || IsNumber(fields, "query_pre_attn_scalar")) {
    return std::nullopt;
  }
  fields["use_mup"] = true;
  fields["mup_attn_scale_power"] = 0.5;
  fields["mup_base_head_dim"] = 1.0;
  fields["mup_width_mult"] = 1.0;
  const char* one = Pick(random, 2) == 0 ? "mup_embedding_mult" : "mup_output_mult";
  fields["mup_embedding_mult"] = fields["mup_output_mult"] = 1.0;
  return Set(fields, one, OneOf<double>({0.5, 2, 12}, random));
}

// -- a field that is not there --

struct Default {
  const char* field;
  json value;
};

// Of GPTModelProvider (megatron/bridge/models/gpt_provider.py), which has Megatron-Core's own for
// what it does not change.
Injected ConfigLost(json& fields, Random& random) {
  if (ClassOf(fields) != "GPTModelProvider") return std::nullopt;
  const std::vector<Default> defaults = {{"normalization", "LayerNorm"},
                                         {"layernorm_epsilon", 1e-5},
                                         {"rotary_base", 10000.0},
                                         {"rotary_percent", 1.0},
                                         {"rotary_interleaved", false},
                                         {"activation_func", "gelu"},
                                         {"layernorm_zero_centered_gamma", false},
                                         {"position_embedding_type", "learned_absolute"},
                                         {"qk_layernorm", false},
                                         {"share_embeddings_and_output_weights", true},
                                         {"no_rope_freq", nullptr},
                                         {"window_size", nullptr}};
  std::vector<const char*> lost;
  for (const Default& known : defaults) {
    const auto it = fields.find(known.field);
    if (it == fields.end()) continue;
    const json said = it->is_object() ? json(ClassOf(fields, known.field)) : *it;
    if (said != known.value) lost.push_back(known.field);
  }
  if (lost.empty()) return std::nullopt;
  const char* field = OneOf(lost, random);
  std::string what = fmt::format("{} left out: {}", field, fields[field].dump());
  fields.erase(field);
  return what;
}

template <Injected (*kMake)(json& fields, Random& random)>
Injected InConfig(const FaultSites&, HeldCheckpoint& checkpoint, Random& random) {
  json* fields = checkpoint.config_fields();
  return fields == nullptr ? std::nullopt : kMake(*fields, random);
}

}  // namespace

const std::vector<ModelFault>& ConfigFaults() {
  static const std::vector<ModelFault> kFaults = {
      {"activation", InConfig<Activation>},
      {"attention-window", InConfig<AttentionWindow>},
      {"config-lost", InConfig<ConfigLost>},
      {"embedding-scale", InConfig<EmbeddingScale>},
      {"head-geometry", InConfig<HeadGeometry>},
      {"layer-pattern", InConfig<LayerPattern>},
      {"logit-softcap", InConfig<LogitSoftcap>},
      {"mrope-sections", InConfig<MropeSections>},
      {"norm-convention", InConfig<NormConvention>},
      {"norm-eps", InConfig<NormEps>},
      {"norm-kind", InConfig<NormKind>},
      {"rope-base", InConfig<RopeBase>},
      {"rope-interleaved", InConfig<RopeInterleaved>},
      {"rope-partial", InConfig<RopePartial>},
      {"rope-scaling", InConfig<RopeScaling>},
      {"router-formula", InConfig<RouterFormula>},
      {"size-mismatch", InConfig<SizeMismatch>},
      {"softmax-scale", InConfig<SoftmaxScale>},
      {"ssm-parameters", InConfig<SsmParameters>},
  };
  return kFaults;
}

}  // namespace weighbridge
