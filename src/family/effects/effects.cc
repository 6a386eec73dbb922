#include "family/effects/effects.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "family/config.h"

namespace weighbridge {
namespace {

using nlohmann::json;

constexpr std::array<EffectInfo, 68> kEffects = {{
    {"activation", "activation", "the activation", "mlp"},
    {"attention.bias", "bias-missing", "the biases of q, k and v", "self_attention.linear_qkv"},
    {"attention.chosen", "attention-window", "how many keys an indexer chooses",
     "self_attention.core_attention"},
    {"attention.clip", "config-lost", "the clipping of q, k and v", "self_attention"},
    {"attention.gate", "head-geometry", "the gate of attention's output",
     "self_attention.linear_qkv"},
    {"attention.sinks", "attention-sinks", "the attention sinks", "self_attention.core_attention"},
    {"attention.softcap", "logit-softcap", "the soft cap of attention scores",
     "self_attention.core_attention"},
    {"attention.window", "attention-window", "the window of attention",
     "self_attention.core_attention"},
    {"embedding.scale", "embedding-scale", "the embedding's multiplier", "embedding"},
    {"layer.mixer", "layer-pattern", "the kind of mixer", ""},
    {"layer.mlp", "layer-pattern", "the kind of MLP", ""},
    {"layers.pattern", "layer-pattern", "the number of layers that the pattern has", "decoder"},
    {"linear.bias", "bias-missing", "the biases of linear layers", ""},
    {"logits.scale", "embedding-scale", "the logits' multiplier", "output_layer"},
    {"logits.softcap", "logit-softcap", "the soft cap of the logits", "output_layer"},
    {"moe.shared_gate", "shared-expert-missing", "the gate of the shared experts",
     "mlp.shared_experts"},
    {"moe.shared_size", "size-mismatch", "the size of the shared experts", "mlp.shared_experts"},
    {"mtp.depth", "mtp-missing", "the number of MTP layers", "mtp"},
    {"multipliers.attention_in", "embedding-scale", "the multiplier of attention's input",
     "self_attention.linear_qkv"},
    {"multipliers.attention_out", "embedding-scale", "the multiplier of attention's output",
     "self_attention.linear_proj"},
    {"multipliers.key", "embedding-scale", "the keys' multiplier", "self_attention.linear_qkv"},
    {"multipliers.mlp", "embedding-scale", "the multipliers of the MLP", "mlp"},
    {"multipliers.ssm", "embedding-scale", "the multipliers of the mixer beside attention",
     "mamba_mixer"},
    {"norm.final.convention", "norm-convention", "the final norm", "decoder.final_layernorm"},
    {"norm.final.eps", "norm-eps", "the epsilon of the final norm", "decoder.final_layernorm"},
    {"norm.final.kind", "norm-kind", "the final norm", "decoder.final_layernorm"},
    {"norm.input.convention", "norm-convention", "the input norm", "input_layernorm"},
    {"norm.input.eps", "norm-eps", "the epsilon of the input norm", "input_layernorm"},
    {"norm.input.kind", "norm-kind", "the input norm", "input_layernorm"},
    {"norm.latent.eps", "norm-eps", "the epsilon of the norms of the q and kv latents",
     "self_attention.linear_kv_up_proj.layer_norm"},
    {"norm.mixer.eps", "norm-eps", "the epsilon of the mixer's norm", "mixer.norm"},
    {"norm.post_attention.eps", "norm-eps", "the epsilon of the norm after attention",
     "self_attention.linear_proj.post_layernorm"},
    {"norm.post_mlp.eps", "norm-eps", "the epsilon of the norm after the MLP",
     "mlp.linear_fc2.post_layernorm"},
    {"norm.pre_mlp.convention", "norm-convention", "the norm before the MLP", "pre_mlp_layernorm"},
    {"norm.pre_mlp.eps", "norm-eps", "the epsilon of the norm before the MLP", "pre_mlp_layernorm"},
    {"norm.pre_mlp.kind", "norm-kind", "the norm before the MLP", "pre_mlp_layernorm"},
    {"norm.qk.eps", "norm-eps", "the epsilon of the norms of q and k",
     "self_attention.q_layernorm"},
    {"norm.qk.kind", "norm-kind", "the norms of q and k", "self_attention.q_layernorm"},
    {"positions.learned", "size-mismatch", "learned positions", "embedding"},
    {"rope.factor", "rope-scaling", "the factor on q and k after the rotation",
     "self_attention.rotary_pos_emb"},
    {"rope.layout", "rope-interleaved", "which channels are rotated together",
     "self_attention.rotary_pos_emb"},
    {"rope.sections", "mrope-sections", "the sections of multimodal RoPE",
     "self_attention.rotary_pos_emb"},
    {"rope.table", "rope-scaling", "the RoPE table", "self_attention.rotary_pos_emb"},
    {"router.balancing", "router-formula", "the routing by balancing", "mlp.router"},
    {"router.bias", "router-formula", "a bias on the choice of experts", "mlp.router"},
    {"router.capacity", "router-formula", "the experts' capacity, beyond which tokens drop",
     "mlp.router"},
    {"router.groups", "router-formula", "the groups of experts, those kept, scores counted",
     "mlp.router"},
    {"router.input_scaled", "router-formula", "the scaling of the experts' input", "mlp.router"},
    {"router.normalized", "router-formula", "whether the chosen weights are normalized",
     "mlp.router"},
    {"router.refused", "router-formula", "a router that Megatron-Core does not build",
     "mlp.router"},
    {"router.scaling", "router-formula", "the routed experts' multiplier", "mlp.router"},
    {"router.score", "router-formula", "the score function", "mlp.router"},
    {"router.topk", "router-formula", "the number of experts per token", "mlp.router"},
    {"softmax.scale", "softmax-scale", "the softmax scale", "self_attention.core_attention"},
    {"ssm.conv_kernel", "ssm-parameters", "the convolution's width", "mixer"},
    {"ssm.dt_max", "ssm-parameters", "the upper limit of dt", "mixer"},
    {"ssm.dt_min", "ssm-parameters", "the lower limit of dt", "mixer"},
    {"ssm.groups", "ssm-parameters", "the groups of B and C", "mixer"},
    {"ssm.head_dim", "ssm-parameters", "the mixer's head dimension", "mixer"},
    {"ssm.heads", "ssm-parameters", "the mixer's heads", "mixer"},
    {"ssm.kernel", "ssm-parameters", "the delta net's convolution", "self_attention"},
    {"ssm.key_dim", "ssm-parameters", "the delta net's key dimension", "self_attention"},
    {"ssm.key_heads", "ssm-parameters", "the delta net's key heads", "self_attention"},
    {"ssm.norm_first", "ssm-parameters", "whether the mixer's norm comes before its gate", "mixer"},
    {"ssm.state", "ssm-parameters", "the state's size", "mixer"},
    {"ssm.value_dim", "ssm-parameters", "the delta net's value dimension", "self_attention"},
    {"ssm.value_heads", "ssm-parameters", "the delta net's value heads", "self_attention"},
    {"tying", "tie-mismatch", "the output layer", "output_layer"},
}};

static_assert(std::is_sorted(kEffects.begin(), kEffects.end(),
                             [](const EffectInfo& a, const EffectInfo& b) {
                               return a.name < b.name;
                             }));

// Reads fields for one effect and remembers which, and those whose value is of another kind.
class Reader {
 public:
  Reader(const json& fields, std::set<std::string>& odd) : fields_(fields), odd_(odd) {}

  // nullptr: not known.
  const json* Find(const char* field) {
    used_.emplace_back(field);
    const auto it = fields_.find(field);
    return it == fields_.end() ? nullptr : &*it;
  }
  json Get(const char* field) {
    const json* value = Find(field);
    return value == nullptr ? json() : *value;
  }
  // 0 and 1 count as Python counts them, and so does None. nullopt: not known.
  std::optional<bool> Truth(const char* field) {
    const json* value = Find(field);
    if (value == nullptr) return std::nullopt;
    if (value->is_null()) return false;
    if (!Fits(field, *value, value->is_boolean() || *value == 0 || *value == 1)) {
      return std::nullopt;
    }
    return *value == true || *value == 1;
  }
  bool Is(const char* field) { return Truth(field).value_or(false); }
  std::optional<double> Number(const char* field) {
    const json value = Get(field);
    if (!Fits(field, value, value.is_number())) return std::nullopt;
    return value.get<double>();
  }
  std::optional<int64_t> Integer(const char* field) {
    const json value = Get(field);
    if (!Fits(field, value, value.is_number_integer())) return std::nullopt;
    return value.get<int64_t>();
  }
  std::string Text(const char* field) {
    const json value = Get(field);
    return Fits(field, value, value.is_string()) ? value.get<std::string>() : "";
  }
  // A list of numbers, `count` of them where it is given; null: none is known.
  json Numbers(const char* field, std::optional<size_t> count = std::nullopt) {
    const json value = Get(field);
    const bool fits =
        value.is_array() && value.size() == count.value_or(value.size()) &&
        std::all_of(value.begin(), value.end(), [](const json& n) { return n.is_number(); });
    return Fits(field, value, fits) ? value : json();
  }
  // A number, or one for the layers with a window and one for the others.
  void OneOrTwoNumbers(const char* field) {
    const json value = Get(field);
    if (value.is_array() && value.size() == 2) {
      Numbers(field);
    } else {
      Number(field);
    }
  }
  // Entry `layer` of a field that is a list of 0 and 1; a bare 0 stands for an empty one.
  std::optional<bool> Entry(const char* field, int64_t layer) {
    const json value = Get(field);
    const auto is_bit = [](const json& e) { return e.is_boolean() || e == 0 || e == 1; };
    const bool fits =
        value.is_array() ? std::all_of(value.begin(), value.end(), is_bit) : value == 0;
    if (!Fits(field, value, fits || value == false) || !value.is_array() ||
        layer >= static_cast<int64_t>(value.size())) {
      return std::nullopt;
    }
    const json& entry = value[static_cast<size_t>(layer)];
    return entry == 1 || entry == true;
  }
  // Megatron-Core: [left, right], both counted; Gemma 3's class a width. Negative: no bound.
  std::optional<int64_t> WindowWidth(const char* field) {
    const json value = Get(field);
    if (value.is_number_integer()) return value.get<int64_t>();
    const bool fits = value.is_array() && value.size() == 2 && value[0].is_number_integer() &&
                      value[1].is_number_integer();
    if (!Fits(field, value, fits)) return std::nullopt;
    const auto left = value[0].get<int64_t>();
    return left < 0 ? std::nullopt : std::optional(left + 1);
  }
  // The text, or nothing of a list of texts.
  std::string OneText(const char* field) {
    const json value = Get(field);
    const bool several =
        value.is_array() &&
        std::all_of(value.begin(), value.end(), [](const json& t) { return t.is_string(); });
    return several ? "" : Text(field);
  }
  std::vector<std::string>& used() { return used_; }

 private:
  bool Fits(const char* field, const json& value, bool fits) {
    if (!fits && !value.is_null()) odd_.insert(field);
    return fits;
  }

  const json& fields_;
  std::set<std::string>& odd_;
  std::vector<std::string> used_;
};

// What the RoPE of either side is made from.
constexpr const char* kRopeOneOrTwo[] = {"rotary_base", "rotary_percent"};
constexpr const char* kRopeNumbers[] = {"rope_scaling_factor",
                                        "llama3_low_freq_factor",
                                        "llama3_high_freq_factor",
                                        "llama3_original_max_position_embeddings",
                                        "linear_factor_of_full_layers",
                                        "seq_len_interpolation_factor",
                                        "yarn_rotary_scaling_factor",
                                        "yarn_original_max_position_embeddings",
                                        "yarn_beta_fast",
                                        "yarn_beta_slow",
                                        "yarn_mscale",
                                        "yarn_mscale_all_dim",
                                        "rotary_scaling_factor",
                                        "original_max_position_embeddings",
                                        "beta_fast",
                                        "beta_slow",
                                        "mscale",
                                        "mscale_all_dim"};
constexpr const char* kRopeSwitches[] = {"rope_scaling", "yarn_correction_range_round_to_int",
                                         "mla_yarn_round"};

// Of HybridModel's pattern, where | divides pipeline stages and what follows / is of MTP layers;
// 0: the pattern has no such layer.
char SymbolAt(const std::string& pattern, int64_t layer) {
  for (const char symbol : pattern) {
    if (symbol == '/') return 0;
    if (symbol == '|') continue;
    if (layer-- == 0) return symbol;
  }
  return 0;
}

class Resolver {
 public:
  Resolver(const EffectSide& side, std::optional<bool> windowed, Effects& out)
      : side_(side), windowed_(windowed), out_(out) {}

  // Fields that were read and whose value is of another kind than theirs.
  const std::set<std::string>& odd() const { return odd_; }

  Status Layer(int64_t layer) {
    const std::string mixer = Mixer(layer), mlp = Mlp(layer);
    const bool both = mixer == "attention beside mamba";
    if (mixer == "attention" || mixer == "latent attention" || both) {
      WB_RETURN_IF_ERROR(Attention(layer, mixer == "latent attention"));
    }
    if (mixer == "mamba" || both) Mamba();
    if (both) Multipliers();
    if (mixer == "gated delta net") DeltaNet();
    if (side_.has_input_norm && mixer != "none") Norm("input", "layernorm_epsilon");
    if (mlp == "none") return {};
    if (side_.has_input_norm) Norm("pre_mlp", "layernorm_epsilon");
    if (side_.has_post_norms) Add("norm.post_mlp.eps", Number("post_norm_epsilon"));
    Activation();
    if (mlp == "experts") Router();
    return {};
  }

  void Whole() {
    Norm("final", "layernorm_epsilon");
    Add("linear.bias", [](Reader& r) -> json { return r.Is("add_bias_linear"); });
    Add("layers.pattern", [](Reader& r) -> json {
      const std::string pattern = r.Text("hybrid_layer_pattern");
      if (pattern.empty()) return Unknown();
      const auto end = std::min(pattern.size(), pattern.find('/'));
      return end - static_cast<size_t>(std::count(
                       pattern.begin(), pattern.begin() + static_cast<std::ptrdiff_t>(end), '|'));
    });
    Add("embedding.scale", [](Reader& r) -> json {
      const double scale = r.Number("embedding_scale").value_or(1);
      return r.Is("use_mup") ? scale * r.Number("mup_embedding_mult").value_or(1) : scale;
    });
    Add("logits.scale", [](Reader& r) -> json {
      const double scale = r.Number("logits_scale").value_or(1);
      if (!r.Is("use_mup")) return scale;
      const double given = r.Number("mup_output_mult").value_or(1);
      const double width = r.Number("mup_width_mult").value_or(1);
      return scale * (given == 1 && width != 0 ? 1 / width : given);
    });
    Add("logits.softcap", Cap("final_logit_softcapping"));
    Add("tying", [](Reader& r) -> json {
      const auto shared = r.Truth("share_embeddings_and_output_weights");
      if (!shared) return Unknown();
      return *shared ? "the embedding" : "a matrix of its own";
    });
    Add("positions.learned",
        [](Reader& r) -> json { return r.Text("position_embedding_type") == "learned_absolute"; });
    Add("mtp.depth", [](Reader& r) -> json { return r.Integer("mtp_num_layers").value_or(0); });
  }

 private:
  using Formula = std::function<json(Reader&)>;

  static json Unknown() { return json(json::value_t::discarded); }

  void Add(std::string name, const Formula& formula) {
    Reader reader(side_.fields, odd_);
    json value = formula(reader);
    if (value.is_discarded()) return;
    out_[std::move(name)] = {std::move(value), std::move(reader.used())};
  }

  // A field as it is; not known where the side does not know it.
  static Formula Number(const char* field) {
    return [field](Reader& r) -> json { return r.Number(field) ? r.Get(field) : Unknown(); };
  }

  // 0 and None cap nothing.
  static Formula Cap(const char* field) {
    return [field](Reader& r) -> json {
      const double cap = r.Number(field).value_or(0);
      return cap == 0 ? json() : json(cap);
    };
  }

  std::string Mixer(int64_t layer) {
    Add("layer.mixer", [&](Reader& r) -> json {
      if (const std::string pattern = r.Text("hybrid_layer_pattern"); !pattern.empty()) {
        switch (SymbolAt(pattern, layer)) {
          case 'M':
            return "mamba";
          case 'G':
            return "gated delta net";
          case '*':
            return "attention";
          case '+':
            return "latent attention";
          case '-':
          case 'E':
            return "none";
          default:
            return Unknown();
        }
      }
      const bool linear = r.Text("experimental_attention_variant") == "gated_delta_net" &&
                          r.Entry("linear_attention_freq", layer).value_or(false);
      if (linear) return "gated delta net";
      if (r.Is("attention_beside_mamba")) return "attention beside mamba";
      return r.Is("multi_latent_attention") ? "latent attention" : "attention";
    });
    return TextOf("layer.mixer");
  }

  std::string Mlp(int64_t layer) {
    Add("layer.mlp", [&](Reader& r) -> json {
      if (const std::string pattern = r.Text("hybrid_layer_pattern"); !pattern.empty()) {
        const char symbol = SymbolAt(pattern, layer);
        if (symbol == 0) return Unknown();
        return symbol == 'E' ? "experts" : symbol == '-' ? "dense" : "none";
      }
      if (r.Integer("num_moe_experts").value_or(0) == 0) return "dense";
      return r.Entry("moe_layer_freq", layer).value_or(true) ? "experts" : "dense";
    });
    return TextOf("layer.mlp");
  }

  std::string TextOf(const char* name) const {
    const auto it = out_.find(name);
    return it == out_.end() ? "" : it->second.value.get<std::string>();
  }

  Status Attention(int64_t layer, bool latent) {
    Add("attention.window", [&](Reader& r) -> json {
      const auto width = r.WindowWidth("window_size");
      const bool skipped = width && !r.Entry("window_attn_skip_freq", layer).value_or(true);
      return width && !skipped ? json(*width) : json();
    });
    Add("attention.chosen", [](Reader& r) -> json {
      if (r.Text("experimental_attention_variant") != "dsa") return nullptr;
      const auto keys = r.Integer("dsa_indexer_topk");
      return keys ? json(*keys) : json();
    });
    Add("attention.softcap", Cap("attn_logit_softcapping"));
    Add("attention.clip", [](Reader& r) -> json {
      const auto bound = r.Number("clip_qkv");
      return bound ? json(*bound) : json();  // 0 leaves nothing of q, k and v
    });
    Add("attention.sinks", [](Reader& r) -> json {
      const std::string type = r.Text("softmax_type");
      return type == "learnable" ? "learned" : type == "off-by-one" ? "zero" : "none";
    });
    if (!latent) {
      Add("attention.bias",
          [](Reader& r) -> json { return r.Is("add_qkv_bias") || r.Is("add_bias_linear"); });
      Add("attention.gate", [](Reader& r) -> json { return r.Is("attention_output_gate"); });
    }
    latent ? LatentScale() : Scale();
    WB_RETURN_IF_ERROR(RopeOf(layer, latent));
    if (latent) Add("norm.latent.eps", Number("latent_norm_epsilon"));
    if (!latent) QkNorm(layer);
    if (side_.has_post_norms) Add("norm.post_attention.eps", Number("post_norm_epsilon"));
    return {};
  }

  void Scale() {
    Add("softmax.scale", [](Reader& r) -> json {
      const auto channels = r.Number("kv_channels");
      if (r.Is("use_mup") && channels) {
        return std::sqrt(r.Number("mup_base_head_dim").value_or(1)) /
               std::pow(*channels, r.Number("mup_attn_scale_power").value_or(1));
      }
      if (const auto scale = r.Number("softmax_scale")) return *scale;
      const auto scalar = r.Number("query_pre_attn_scalar");
      const double d = scalar.value_or(channels.value_or(0));
      return d > 0 ? json(1 / std::sqrt(d)) : Unknown();
    });
  }

  void LatentScale() {
    Add("softmax.scale", [](Reader& r) -> json {
      const double d =
          r.Number("qk_head_dim").value_or(0) + r.Number("qk_pos_emb_head_dim").value_or(0);
      const double m = YarnMscale(r.Number("rotary_scaling_factor").value_or(1),
                                  r.Number("mscale_all_dim").value_or(0));
      return d > 0 ? json(m * m / std::sqrt(d)) : Unknown();
    });
  }

  void QkNorm(int64_t layer) {
    Add("norm.qk.kind", [&](Reader& r) -> json {
      const bool left_out =
          r.Is("qk_l2_norm_with_rope") && r.Entry("no_rope_freq", layer).value_or(false);
      if (r.Is("qk_l2_norm")) return left_out ? "none" : "L2, without weights";
      return r.Is("qk_layernorm") ? r.Text("normalization") : "none";
    });
    if (TextOf("norm.qk.kind") != "none") Add("norm.qk.eps", Number("layernorm_epsilon"));
  }

  Status RopeOf(int64_t layer, bool latent) {
    CheckRopeFields();
    const bool windowed = windowed_.value_or(!out_["attention.window"].value.is_null());
    WB_TRY(Rope rope, side_.rope(layer, windowed));
    const bool rotates = !rope.frequencies.empty();
    out_["rope.table"] = {
        {{"frequencies", rope.frequencies}, {"base", rope.base}, {"recipe", rope.recipe}},
        rope.fields};
    out_["rope.factor"] = {rotates ? rope.factor : 1, std::move(rope.fields)};
    if (!rotates) return {};
    Add("rope.layout", [&](Reader& r) -> json {
      const auto pairs = r.Truth(latent ? "mla_rope_interleaved" : "rotary_interleaved");
      if (!pairs) return Unknown();
      return *pairs ? "adjacent channels" : "halves of the head";
    });
    Add("rope.sections", [](Reader& r) -> json {
      return r.Text("position_embedding_type") == "mrope" ? r.Numbers("mrope_section") : json();
    });
    return {};
  }

  // The table is made elsewhere, from fields that count as not said where they are no numbers; what
  // config.json has keys for is checked there.
  void CheckRopeFields() {
    Reader reader(side_.fields, odd_);
    const auto check = [&](const auto& fields, auto kind) {
      for (const char* field : fields) {
        if (!side_.keys.contains(field)) (reader.*kind)(field);
      }
    };
    check(kRopeOneOrTwo, &Reader::OneOrTwoNumbers);
    check(kRopeNumbers, &Reader::Number);
    check(kRopeSwitches, &Reader::Truth);
  }

  void Norm(const std::string& which, const char* epsilon) {
    Add("norm." + which + ".kind", [](Reader& r) -> json {
      const std::string kind = r.Text("normalization");
      return kind.empty() ? Unknown() : json(kind);
    });
    Add("norm." + which + ".convention", [](Reader& r) -> json {
      return r.Is("layernorm_zero_centered_gamma") ? "multiplies by 1 + w" : "multiplies by w";
    });
    Add("norm." + which + ".eps", Number(epsilon));
  }

  void Activation() {
    Add("activation", [](Reader& r) -> json {
      const std::string function = r.Text("activation_func");
      if (function.empty()) return Unknown();
      const auto clamp = r.Number("activation_func_clamp_value");  // 0 leaves nothing
      const double offset = r.Number("glu_linear_offset").value_or(0);
      std::string text = function;
      if (clamp) text += fmt::format(" of values clamped at {}", *clamp);
      if (r.Is("gated_linear_unit")) {
        text += offset == 0 ? ", times up" : fmt::format(", times (up + {})", offset);
      }
      return text;
    });
  }

  void Router() {
    Add("router.topk", Number("moe_router_topk"));
    Add("router.score", [](Reader& r) -> json {
      const std::string score = r.Text("moe_router_score_function");
      return score.empty() ? Unknown() : json(score);
    });
    Add("router.normalized", [](Reader& r) -> json {
      const int64_t k = r.Integer("moe_router_topk").value_or(0);
      if (r.Text("moe_router_score_function") == "softmax") return !r.Is("moe_router_pre_softmax");
      if (k == 1 && !r.Is("router_normalizes_one")) return false;
      const auto always = r.Truth("router_normalizes");
      return always ? json(*always) : Unknown();
    });
    Add("router.refused", [](Reader& r) -> json {
      // The fields that a reader would have to change.
      for (const char* field :
           {"moe_router_topk", "moe_router_score_function", "moe_router_enable_expert_bias"}) {
        r.Get(field);
      }
      return r.Get("router_refused");
    });
    Add("router.scaling", [](Reader& r) -> json {
      const double scaling = r.Number("moe_router_topk_scaling_factor").value_or(1);
      return scaling == 0 ? 1 : scaling;
    });
    Add("router.groups", [](Reader& r) -> json {
      const int64_t groups = r.Integer("moe_router_num_groups").value_or(0);
      const int64_t kept = r.Integer("moe_router_group_topk").value_or(0);
      if (kept <= 0 || groups <= 1 || kept >= groups) return nullptr;
      const int64_t experts = r.Integer("num_moe_experts").value_or(0);
      const json* members = r.Find("router_group_members");
      int64_t counted = r.Integer("moe_router_topk").value_or(0) / kept;
      if (members != nullptr && members->is_number_integer()) counted = members->get<int64_t>();
      return {groups, kept, std::min(counted, experts / groups)};
    });
    Add("router.bias", [](Reader& r) -> json { return r.Is("moe_router_enable_expert_bias"); });
    Add("router.input_scaled", [](Reader& r) -> json { return r.Is("moe_apply_probs_on_input"); });
    Add("router.capacity", [](Reader& r) -> json {
      const auto factor = r.Number("moe_expert_capacity_factor");
      return factor ? json(*factor) : json();
    });
    Add("router.balancing", [](Reader& r) -> json {
      const std::string type = r.OneText("moe_router_load_balancing_type");
      return type == "sinkhorn" || type == "quantile_balancing" ? json(type) : json();
    });
    Add("moe.shared_gate", [](Reader& r) -> json {
      return r.Integer("moe_shared_expert_intermediate_size").value_or(0) > 0 &&
             r.Is("moe_shared_expert_gate");
    });
    Add("moe.shared_size", [](Reader& r) -> json {
      return r.Integer("moe_shared_expert_intermediate_size").value_or(0);
    });
  }

  void Mamba() {
    Add("ssm.heads", [](Reader& r) -> json {
      if (const auto heads = r.Integer("mamba_num_heads")) return *heads;
      const int64_t dim = r.Integer("mamba_head_dim").value_or(0);
      const auto hidden = r.Integer("hidden_size");
      return hidden && dim > 0 ? json(*hidden * 2 / dim) : Unknown();
    });
    Add("ssm.head_dim", Number("mamba_head_dim"));
    Add("ssm.groups", Number("mamba_num_groups"));
    Add("ssm.state", Number("mamba_state_dim"));
    Add("ssm.conv_kernel", Number("mamba_conv_kernel"));
    Add("ssm.dt_min", Number("dt_min"));
    Add("ssm.dt_max", [](Reader& r) -> json {
      if (r.Find("dt_max") == nullptr) return Unknown();
      const auto limit = r.Number("dt_max");
      return limit && !std::isinf(*limit) ? json(*limit) : json();
    });
    Add("norm.mixer.eps", Number("mixer_norm_epsilon"));
    Add("ssm.norm_first", [](Reader& r) -> json { return r.Is("norm_before_gate"); });
  }

  // Of Falcon-H1: what its layers multiply by.
  void Multipliers() {
    Add("multipliers.attention_in", Number("attention_in_multiplier"));
    Add("multipliers.attention_out", Number("attention_out_multiplier"));
    Add("multipliers.key", Number("key_multiplier"));
    Add("multipliers.mlp", [](Reader& r) -> json { return Numbers(r, "mlp_multipliers", 2); });
    Add("multipliers.ssm", [](Reader& r) -> json {
      json all = Numbers(r, "ssm_multipliers", 5);
      if (all.is_discarded()) return all;
      for (const char* field : {"ssm_in_multiplier", "ssm_out_multiplier"}) {
        all.push_back(r.Number(field).value_or(1));
      }
      return all;
    });
  }

  static json Numbers(Reader& r, const char* field, size_t count) {
    json list = r.Numbers(field, count);
    return list.is_null() ? Unknown() : list;
  }

  void DeltaNet() {
    Add("ssm.kernel", Number("linear_conv_kernel_dim"));
    Add("ssm.key_dim", Number("linear_key_head_dim"));
    Add("ssm.value_dim", Number("linear_value_head_dim"));
    Add("ssm.key_heads", Number("linear_num_key_heads"));
    Add("ssm.value_heads", Number("linear_num_value_heads"));
    Add("norm.mixer.eps", Number("layernorm_epsilon"));
  }

  const EffectSide& side_;
  const std::optional<bool> windowed_;
  Effects& out_;
  std::set<std::string> odd_;
};

}  // namespace

Result<Effects> LayerEffects(const EffectSide& side, int64_t layer, std::optional<bool> windowed) {
  Effects effects;
  WB_RETURN_IF_ERROR(Resolver(side, windowed, effects).Layer(layer));
  return effects;
}

Effects WholeEffects(const EffectSide& side) {
  Effects effects;
  Resolver(side, std::nullopt, effects).Whole();
  return effects;
}

std::map<std::string, std::string> OddFields(const EffectSide& side) {
  Effects effects;
  Resolver resolver(side, std::nullopt, effects);
  resolver.Whole();
  for (int64_t layer = 0; layer < side.layers; ++layer) {
    effects.clear();
    if (!resolver.Layer(layer)) break;  // whoever compares the layers meets the error too
  }
  std::map<std::string, std::string> odd;
  for (const std::string& field : resolver.odd()) {
    const auto keys = side.keys.find(field);
    odd[field] = fmt::format("{} is {}", keys == side.keys.end() ? field : keys->second.front(),
                             Describe(side.fields.at(field)));
  }
  return odd;
}

const EffectInfo* FindEffectInfo(std::string_view name) {
  const auto it =
      std::lower_bound(kEffects.begin(), kEffects.end(), name,
                       [](const EffectInfo& e, std::string_view n) { return e.name < n; });
  return it != kEffects.end() && it->name == name ? &*it : nullptr;
}

}  // namespace weighbridge
