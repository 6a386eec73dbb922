// The Megatron side: what megatron-core computes from the fields of its config with the classes of
// Megatron Bridge, hidden behaviours of the runtime included.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "family/effects/effects.h"
#include "family/effects/fields.h"

namespace weighbridge {
namespace {

using nlohmann::json;

std::string LastName(const std::string& dotted) { return dotted.substr(dotted.rfind('.') + 1); }

std::string Target(const json& fields, const char* field) {
  const auto it = fields.find(field);
  if (it == fields.end()) return "";
  const json target = it->is_object() ? it->value("_target_", json()) : *it;
  return target.is_string() ? LastName(target.get<std::string>()) : "";
}

// What a reader of the config fills in, the nearest class first.
void FillDefaults(const RuntimeTable& runtime, const std::string& provider, json& fields) {
  // A class that is not known may have defaults of its own: what it leaves out is not known either.
  if (!provider.empty() && !runtime.defaults.contains(provider)) return;
  std::vector<std::string> classes = {provider};
  if (!provider.empty()) classes.emplace_back("GPTModelProvider");
  if (fields.value("multi_latent_attention", json(false)) == true) {
    classes.emplace_back("MLATransformerConfig");
  }
  classes.emplace_back("TransformerConfig");
  for (const std::string& name : classes) {
    const auto known = runtime.defaults.find(name);
    if (known == runtime.defaults.end()) continue;
    for (const auto& [field, value] : known->second) {
      if (!fields.contains(field)) fields[field] = value;
    }
  }
  const json heads = fields.value("num_attention_heads", json());
  const json hidden = fields.value("hidden_size", json());
  if (fields.value("kv_channels", json()).is_null() && heads.is_number_integer() &&
      hidden.is_number_integer() && heads > 0) {
    fields["kv_channels"] = hidden.get<int64_t>() / heads.get<int64_t>();
  }
}

// The sum of (a, b); nullopt: it is no such pair.
std::optional<int64_t> Period(const json& pattern) {
  constexpr int64_t kMost = int64_t{1} << 32;
  if (!pattern.is_array() || pattern.size() != 2) return std::nullopt;
  int64_t sum = 0;
  for (const json& part : pattern) {
    if (!part.is_number_integer() || part < 0 || part > kMost) return std::nullopt;
    sum += part.get<int64_t>();
  }
  return sum > 0 ? std::optional(sum) : std::nullopt;
}

// _is_local_attn_layer of the classes of Gemma: of (a, b) only each layer whose number, counted
// from 1, is a multiple of a + b has no window. A pattern may be longer than the model.
void ExpandPattern(int64_t layers, json& fields) {
  const json pattern = fields.value("interleaved_attn_pattern", json());
  if (!pattern.is_array()) return;
  json list = json::array();
  if (const auto period = Period(pattern)) {
    for (int64_t number = 1; number <= layers; ++number) {
      list.push_back(number % *period != 0 ? 1 : 0);
    }
  } else {
    for (const json& kind : pattern) list.push_back(kind == "sliding_attention" ? 1 : 0);
  }
  fields["window_attn_skip_freq"] = std::move(list);
}

void Apply(const Behaviour& behaviour, EffectSide& side) {
  for (const auto& [field, value] : behaviour.set) {
    json now = value;
    if (value.is_string() && value.get_ref<const std::string&>().starts_with('$')) {
      now = side.fields.value(value.get_ref<const std::string&>().substr(1), json());
    }
    side.fields[field] = std::move(now);
    side.behaviours[field] = &behaviour;
  }
}

double Number(const json& fields, const char* field, double fallback) {
  return NumberForLayer(fields.value(field, json()), false, fallback);
}

// YarnRotaryEmbedding, with the names that a config has for its arguments.
struct YarnNames {
  const char *factor, *original, *fast, *slow, *mscale, *all, *truncate;
};
constexpr YarnNames kYarn = {"yarn_rotary_scaling_factor",
                             "yarn_original_max_position_embeddings",
                             "yarn_beta_fast",
                             "yarn_beta_slow",
                             "yarn_mscale",
                             "yarn_mscale_all_dim",
                             "yarn_correction_range_round_to_int"};
constexpr YarnNames kLatentYarn = {"rotary_scaling_factor",
                                   "original_max_position_embeddings",
                                   "beta_fast",
                                   "beta_slow",
                                   "mscale",
                                   "mscale_all_dim",
                                   "mla_yarn_round"};

class RopeMaker {
 public:
  RopeMaker(const json& fields, bool windowed) : f_(fields), windowed_(windowed) {}

  Result<Rope> Make() {
    const bool latent = f_.value("multi_latent_attention", json(false)) == true;
    std::string kind = Text(latent ? "rope_type" : "position_embedding_type");
    if (latent && kind.empty()) kind = "yarn";  // Megatron-LM hands no None on
    if (kind == "none" || kind == "learned_absolute" || kind.empty()) {
      return Rope{{}, 0, 1, {"position_embedding_type"}};
    }
    const double head = Number(f_, latent ? "qk_pos_emb_head_dim" : "kv_channels", 0);
    if (!(head >= 0 && head <= kMaxRotatedChannels)) {
      return Fail(ErrorKind::kUnsupported, "config-unsupported",
                  fmt::format("a rotation of {} channels", head));
    }
    rope_.base = NumberForLayer(f_.value("rotary_base", json()), windowed_, 10000);
    rope_.fields = {"rotary_base"};
    if (!(rope_.base > 0)) {
      return Fail(ErrorKind::kUnsupported, "config-unsupported",
                  fmt::format("a RoPE base of {}", rope_.base));
    }
    if (kind == "yarn") {
      Yarn(latent ? kLatentYarn : kYarn, static_cast<int64_t>(head));
    } else {
      Plain(latent, head);
    }
    return std::move(rope_);
  }

 private:
  std::string Text(const char* field) const {
    const json value = f_.value(field, json());
    return value.is_string() ? value.get<std::string>() : "";
  }

  void Yarn(const YarnNames& n, int64_t channels) {
    rope_.fields.insert(rope_.fields.end(), {n.factor, n.original, n.fast, n.slow, n.truncate});
    YarnScaling s;
    s.factor = PositiveOr(f_, n.factor, 1);
    s.original_max_position_embeddings = PositiveOr(f_, n.original, 4096);
    s.beta_fast = PositiveOr(f_, n.fast, 32);
    s.beta_slow = PositiveOr(f_, n.slow, 1);
    // None, which the Bridge hands on where the HF config has no "truncate", does not round either.
    s.truncate = f_.value(n.truncate, json(true)) == true;
    rope_.frequencies = YarnFrequencies(rope_.base, channels, s);
    rope_.recipe = {{"kind", "yarn"}, {"base", rope_.base}, {"channels", channels}};
    AddRecipe(s, rope_.recipe);
    rope_.factor = Concentration(n);
  }

  // _yarn_get_concentration_factor: None on either side counts as mscale 1 over nothing.
  double Concentration(const YarnNames& n) {
    rope_.fields.insert(rope_.fields.end(), {n.mscale, n.all});
    const double factor = PositiveOr(f_, n.factor, 1);
    const json mscale = f_.value(n.mscale, json()), all = f_.value(n.all, json());
    if (!mscale.is_number() || !all.is_number()) return YarnMscale(factor, 1);
    return YarnMscale(factor, mscale.get<double>()) / YarnMscale(factor, all.get<double>());
  }

  void Plain(bool latent, double head) {
    rope_.fields.emplace_back("rotary_percent");
    const double percent = std::clamp(Number(f_, "rotary_percent", 1), 0.0, 1.0);
    const auto channels = static_cast<int64_t>(head * percent);
    rope_.frequencies = PlainFrequencies(rope_.base, channels);
    rope_.recipe = {{"kind", "plain"}, {"base", rope_.base}, {"channels", channels}};
    if (latent) return;
    if (f_.value("rope_scaling", json(false)) == true) {
      rope_.fields.insert(rope_.fields.end(), {"rope_scaling", "rope_scaling_factor",
                                               "llama3_original_max_position_embeddings"});
      const Llama3Scaling s{PositiveOr(f_, "rope_scaling_factor", 8),
                            PositiveOr(f_, "llama3_low_freq_factor", 1),
                            PositiveOr(f_, "llama3_high_freq_factor", 4),
                            PositiveOr(f_, "llama3_original_max_position_embeddings", 8192)};
      rope_.frequencies = Llama3Frequencies(rope_.base, channels, s);
      rope_.recipe["kind"] = "llama3";
      AddRecipe(s, rope_.recipe);
    }
    // Gemma 3's class divides the table of the layers without a window.
    if (!windowed_ && f_.contains("linear_factor_of_full_layers")) {
      rope_.fields.emplace_back("rope_scaling_factor");
      const double by = PositiveOr(f_, "linear_factor_of_full_layers", 1);
      Divide(by);
      rope_.recipe["divided_by"] = by;
    }
    rope_.fields.emplace_back("seq_len_interpolation_factor");
    const double interpolated = PositiveOr(f_, "seq_len_interpolation_factor", 1);
    Divide(interpolated);
    rope_.recipe["interpolation"] = interpolated;
    // Applied whenever it is not None, whatever the kind of table.
    if (!f_.value(kYarn.factor, json()).is_null()) rope_.factor = Concentration(kYarn);
  }

  void Divide(double by) {
    for (double& f : rope_.frequencies) f /= by;
  }

  const json& f_;
  const bool windowed_;
  Rope rope_;
};

}  // namespace

Result<EffectSide> MegatronSide(const json& fields, const Model& model, const EffectSide& hf,
                                const RuntimeTable& runtime, const RuntimeChoice& choice) {
  EffectSide side;
  side.layers = model.layers();
  side.has_input_norm = hf.has_input_norm;
  side.has_post_norms = hf.has_post_norms;
  side.fields = fields;
  const RuntimeSubject subject{Target(fields, "_target_"),
                               Target(fields, "transformer_layer_spec")};
  for (const auto& [field, value] : fields.items()) side.given.insert(field);
  FillDefaults(runtime, subject.provider, side.fields);
  // An argument of the function that makes the layers.
  const json spec = fields.value("transformer_layer_spec", json());
  side.fields["layer_spec_qk_l2_norm"] =
      spec.is_object() && spec.value("qk_l2_norm", json()) == true;
  ExpandPattern(side.layers, side.fields);
  side.fields["sqrt_hidden_size"] = std::sqrt(PositiveOr(side.fields, "hidden_size", 0));
  for (const Behaviour& behaviour : runtime.behaviours) {
    const bool counts = choice.hidden || !behaviour.hidden;
    if (counts && CountsIn(behaviour, choice.version) &&
        AppliesTo(behaviour, subject, side.fields)) {
      Apply(behaviour, side);
    }
  }
  // What no field and no known behaviour says is not held against the checkpoint.
  for (const auto& [field, value] : hf.fields.items()) {
    if (!side.fields.contains(field)) side.fields[field] = value;
  }
  NormalizeFields(side.fields, side.layers);
  const auto shared = std::make_shared<const json>(side.fields);
  side.rope = [shared](int64_t layer, bool windowed) -> Result<Rope> {
    const bool latent = shared->value("multi_latent_attention", json(false)) == true;
    // MLA's own attention does not look at it.
    if (!latent && ListSays(*shared, "no_rope_freq", layer)) {
      return Rope{{}, 0, 1, {"no_rope_freq"}};
    }
    WB_TRY(Rope rope, RopeMaker(*shared, windowed).Make());
    if (!latent) rope.fields.emplace_back("no_rope_freq");
    return rope;
  };
  return side;
}

}  // namespace weighbridge
