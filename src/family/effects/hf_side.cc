// The Hugging Face side: what transformers 5.17 computes from config.json. What its class means in
// Megatron-Core's fields is [config] of the family, what they cannot say is [effects]; the RoPE
// table is read as transformers' modeling_rope_utils.py reads it.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "family/config.h"
#include "family/effects/effects.h"
#include "family/effects/fields.h"

namespace weighbridge {
namespace {

using nlohmann::json;

constexpr double kDefaultBase = 10000;

std::string ShownKey(const json& config, const std::vector<std::string>& keys) {
  for (const std::string& key : keys) {
    if (FindKey(config, key) != nullptr) return key;
  }
  return keys.front();
}

// The keys of config.json behind a rule, and whether it has one of them.
class KeyFinder {
 public:
  KeyFinder(const FamilySpec& spec, const json& config, EffectSide& side)
      : spec_(spec), config_(config), side_(side) {}

  void Note(const std::string& field, const ConfigRule& rule) {
    if (!rule.hf.empty()) return Take(field, rule.hf, /*default_may_differ=*/true);
    if (!rule.rope.empty()) return Take(field, {"rope_scaling", "rope_parameters"}, false);
    if (!rule.dim.empty()) return Symbol(field, spec_.dims, rule.dim, false);
    if (!rule.flag.empty()) return Symbol(field, spec_.flags, rule.flag, true);
    side_.given.insert(field);
  }

 private:
  void Symbol(const std::string& field, const std::map<std::string, weighbridge::Symbol>& symbols,
              const std::string& name, bool default_may_differ) {
    const auto it = symbols.find(name);
    if (it == symbols.end() || it->second.keys.empty()) {
      side_.given.insert(field);
    } else {
      Take(field, it->second.keys, default_may_differ);
    }
  }

  void Take(const std::string& field, const std::vector<std::string>& keys,
            bool default_may_differ) {
    side_.keys[field] = {ShownKey(config_, keys)};
    if (!default_may_differ || FirstKey(config_, keys) != nullptr) side_.given.insert(field);
  }

  const FamilySpec& spec_;
  const json& config_;
  EffectSide& side_;
};

double Read(const json& table, const char* key, double fallback) {
  return PositiveOr(table, key, fallback);
}

std::vector<double> Numbers(const json& table, const char* key) {
  std::vector<double> out;
  const auto it = table.find(key);
  if (it == table.end() || !it->is_array()) return out;
  for (const json& entry : *it) out.push_back(entry.is_number() ? entry.get<double>() : 1);
  return out;
}

// transformers takes rope_scaling, the older spelling, before rope_parameters; nullptr: neither.
const json* TableOf(const json& config) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json* table = FindKey(config, key);
    if (table != nullptr && table->is_object() && !table->empty()) return table;
  }
  return nullptr;
}

// The RoPE of one kind of layer.
class RopeReader {
 public:
  RopeReader(const json& config, const json& fields, bool windowed)
      : config_(config), fields_(fields), windowed_(windowed) {
    const json* all = TableOf(config);
    const json* own =
        all == nullptr ? nullptr : FindKey(*all, windowed ? "sliding_attention" : "full_attention");
    per_kind_ = own != nullptr && own->is_object();
    if (per_kind_) {
      table_ = *own;
    } else if (all != nullptr) {
      table_ = *all;
    }
  }

  Result<Rope> Table() const {
    WB_RETURN_IF_ERROR(CheckKinds());
    const double head = Read(fields_, Latent() ? "qk_pos_emb_head_dim" : "kv_channels", 0);
    const double share = Share();
    Rope rope;
    rope.base = Base();
    rope.fields = {"rotary_base", "rotary_percent", "rope_scaling"};
    std::string kind = Kind();
    const auto channels = static_cast<int64_t>(kind == "proportional" ? head : head * share);
    if (channels > kMaxRotatedChannels) {
      return Fail(ErrorKind::kUnsupported, "config-unsupported",
                  fmt::format("a rotation of {} channels", channels), "config.json");
    }
    WB_RETURN_IF_ERROR(Fill(kind, channels, share, rope));
    return rope;
  }

  // What Megatron's forms have no fields for.
  void NoteHidden(json& fields) const {
    if (Kind() == "llama3") {
      fields["llama3_low_freq_factor"] = Read(table_, "low_freq_factor", 1);
      fields["llama3_high_freq_factor"] = Read(table_, "high_freq_factor", 4);
      fields["llama3_original_max_position_embeddings"] = Original();
    }
    fields["mla_yarn_round"] = Truncates();
  }

 private:
  // Whatever is of another kind would be taken for absent, and so would a number that Read refuses.
  Status CheckKinds() const {
    for (const char* key : {"rope_scaling", "rope_parameters"}) {
      const json* table = FindKey(config_, key);
      if (table != nullptr && !table->is_object()) return Refuse(key, *table, "a table");
      if (table == nullptr) continue;
      for (const char* kind : {"sliding_attention", "full_attention"}) {
        const json* own = FindKey(*table, kind);
        if (own != nullptr && !own->is_object()) return Refuse(kind, *own, "a table");
      }
    }
    for (const char* key : {"rope_type", "type"}) {
      const json* type = FindKey(table_, key);
      if (type != nullptr && !type->is_string()) return Refuse(key, *type, "a type of RoPE");
    }
    for (const char* key :
         {"rope_theta", "partial_rotary_factor", "factor", "low_freq_factor", "high_freq_factor",
          "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor"}) {
      WB_RETURN_IF_ERROR(CheckNumber(table_, key, key, /*may_be_zero=*/false));
    }
    for (const char* key : {"mscale", "mscale_all_dim"}) {
      WB_RETURN_IF_ERROR(CheckNumber(table_, key, key, /*may_be_zero=*/true));
    }
    for (const char* key : {"max_position_embeddings", "original_max_position_embeddings"}) {
      WB_RETURN_IF_ERROR(CheckNumber(config_, key, key, /*may_be_zero=*/true));
    }
    for (const auto& [field, key] : {std::pair("rotary_base", "rope_theta"),
                                     std::pair("rotary_percent", "partial_rotary_factor")}) {
      if (!HasTwo(field, key))
        WB_RETURN_IF_ERROR(CheckNumber(fields_, field, key, /*may_be_zero=*/true));
    }
    return {};
  }

  // One for each kind of layer (NumberForLayer), which the family makes: a list in config.json
  // itself is no such thing.
  bool HasTwo(const char* field, const char* key) const {
    const json value = fields_.value(field, json());
    const json* raw = FindKey(config_, key);
    return value.is_array() && value.size() == 2 && value[0].is_number() && value[1].is_number() &&
           (raw == nullptr || *raw != value);
  }

  static Status Refuse(std::string_view shown, const json& value, std::string_view wanted) {
    return Fail(ErrorKind::kUnsupported, "config-unsupported",
                fmt::format("{} is {}, and has to be {}", shown, Describe(value), wanted),
                "config.json");
  }

  static Status CheckNumber(const json& table, const char* key, std::string_view shown,
                            bool may_be_zero) {
    const auto it = table.find(key);
    if (it == table.end() || it->is_null()) return {};
    const double value = it->is_number() ? it->get<double>() : std::nan("");
    const bool fits = std::isfinite(value) && (value > 0 || (value == 0 && may_be_zero));
    if (fits) return {};
    return Refuse(shown, *it, may_be_zero ? "a number from 0 on" : "a number above 0");
  }

  bool Latent() const { return fields_.value("multi_latent_attention", json(false)) == true; }

  double Base() const {
    const auto it = fields_.find("rotary_base");
    const double family =
        it == fields_.end() ? kDefaultBase : NumberForLayer(*it, windowed_, kDefaultBase);
    return Read(table_, "rope_theta", family);
  }

  double Share() const {
    const bool whole = fields_.value("default_rope_is_whole", json(false)) == true;
    if (whole && Kind() == "default") return 1;
    const double family =
        NumberForLayer(fields_.value("rotary_percent", json(1.0)), windowed_, 1.0);
    return std::min(1.0, Read(table_, "partial_rotary_factor", family));
  }

  // Gemma 3 and OLMo 3 scale the layers without a window only, where an older config has one table.
  std::string Kind() const {
    const json* type = FirstKey(table_, {"rope_type", "type"});
    std::string kind = type != nullptr && type->is_string() ? type->get<std::string>() : "default";
    if (kind == "mrope") kind = "default";
    const bool scales_full = fields_.value("rope_scaling_of_full_layers", json(false)) == true;
    return windowed_ && scales_full && !per_kind_ ? "default" : kind;
  }

  bool Truncates() const { return table_.value("truncate", json(true)) != false; }

  double Longest() const { return Read(config_, "max_position_embeddings", 2048); }

  // transformers prefers the config's own entry, and falls back to its longest position.
  double Original() const {
    const double outside = Read(config_, "original_max_position_embeddings", 0);
    return outside > 0 && !per_kind_ ? outside
                                     : Read(table_, "original_max_position_embeddings", Longest());
  }

  Status Fill(const std::string& kind, int64_t channels, double share, Rope& rope) const {
    const double factor = Read(table_, "factor", 1);
    const bool plain = kind == "default" || kind == "dynamic";
    rope.recipe = {{"kind", plain ? "plain" : kind},
                   {"base", rope.base},
                   {"channels", channels},
                   {"factor", factor}};
    if (plain) {
      // Dynamic: plain up to the longest position of the config.
      rope.frequencies = PlainFrequencies(rope.base, channels);
    } else if (kind == "linear") {
      rope.frequencies = LinearFrequencies(rope.base, channels, factor);
    } else if (kind == "llama3") {
      const Llama3Scaling s{factor, Read(table_, "low_freq_factor", 1),
                            Read(table_, "high_freq_factor", 4), Original()};
      rope.frequencies = Llama3Frequencies(rope.base, channels, s);
      AddRecipe(s, rope.recipe);
    } else if (kind == "yarn") {
      Yarn(channels, rope);
    } else if (kind == "longrope") {
      return LongRope(channels, rope);
    } else if (kind == "proportional") {
      rope.frequencies = ProportionalFrequencies(rope.base, channels, share, factor);
    } else {
      return Fail(ErrorKind::kUnsupported, "config-unsupported",
                  fmt::format("the RoPE type '{}' is not known", kind), "config.json");
    }
    return {};
  }

  void Yarn(int64_t channels, Rope& rope) const {
    const double original = Original();
    YarnScaling s;
    s.factor = Read(table_, "factor", std::max(1.0, Longest() / original));
    s.original_max_position_embeddings = original;
    s.beta_fast = Read(table_, "beta_fast", 32);
    s.beta_slow = Read(table_, "beta_slow", 1);
    s.truncate = Truncates();
    rope.frequencies = YarnFrequencies(rope.base, channels, s);
    AddRecipe(s, rope.recipe);
    const double mscale = Read(table_, "mscale", 0), all = Read(table_, "mscale_all_dim", 0);
    const double by_factor = mscale != 0 && all != 0
                                 ? YarnMscale(s.factor, mscale) / YarnMscale(s.factor, all)
                                 : YarnMscale(s.factor, 1);
    rope.factor = Read(table_, "attention_factor", by_factor);
  }

  Status LongRope(int64_t channels, Rope& rope) const {
    const json given = table_.value("short_factor", json());
    const bool fits = given.is_array() && 2 * given.size() == static_cast<size_t>(channels) &&
                      std::all_of(given.begin(), given.end(), [](const json& n) {
                        return n.is_number() && n.get<double>() > 0;
                      });
    if (!fits) {
      return Refuse("short_factor", given,
                    fmt::format("a list of {} numbers above 0", channels / 2));
    }
    const double original = Original();
    const double factor = Read(table_, "factor", Longest() / original);
    rope.frequencies = LongRopeFrequencies(rope.base, channels, Numbers(table_, "short_factor"));
    rope.recipe["short_factor"] = Numbers(table_, "short_factor");
    const double by_factor =
        factor <= 1 || original <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(original));
    rope.factor = Read(table_, "attention_factor", by_factor);
    return {};
  }

  const json& config_;
  const json& fields_;
  const bool windowed_;
  bool per_kind_ = false;
  json table_ = json::object();
};

// What the family does not say in [effects] is as usual.
void FillUnsaid(const Model& model, EffectSide& side) {
  json& fields = side.fields;
  const auto fill = [&](const char* field, json value) {
    if (fields.contains(field)) return false;
    fields[field] = std::move(value);
    side.given.insert(field);
    return true;
  };
  const json epsilon = fields.value("layernorm_epsilon", json());
  for (const char* norm : {"post_norm_epsilon", "latent_norm_epsilon", "mixer_norm_epsilon"}) {
    if (!fill(norm, epsilon)) continue;
    side.keys[norm] = side.keys["layernorm_epsilon"];
    if (!side.given.contains("layernorm_epsilon")) side.given.erase(norm);
  }
  fill("dt_min", 0.0);
  fill("dt_max", nullptr);
  const auto kernel = model.dims().find("conv_kernel");
  if (kernel != model.dims().end()) fill("mamba_conv_kernel", kernel->second);
  fill("mla_rope_interleaved", true);
  fill("router_normalizes", true);
  fill("router_normalizes_one", true);
  fill("router_group_members", 2);
  fill("embedding_scale", 1.0);
}

bool EndsWithAny(const std::string& name, std::initializer_list<std::string_view> endings) {
  return std::any_of(endings.begin(), endings.end(),
                     [&](std::string_view ending) { return name.ends_with(ending); });
}

}  // namespace

bool HasEffects(const FamilySpec& spec) {
  return !spec.bridge.provider.empty() || spec.effects.contains("described");
}

Result<EffectSide> HfSide(const Model& model) {
  const FamilySpec& spec = model.spec();
  if (!HasEffects(spec)) {
    return Fail(
        ErrorKind::kUnsupported, "no-effects",
        fmt::format("nobody has described yet what a config of family {} computes", spec.name), "",
        "its weights can be judged (`verify`); `families list` names the levels of each");
  }
  WB_TRY(const RuntimeTable* runtime, BuiltInRuntime());
  EffectSide side;
  side.layers = model.layers();
  side.fields = json::object();
  if (const auto core = runtime->defaults.find("TransformerConfig");
      core != runtime->defaults.end()) {
    for (const auto& [field, value] : core->second) {
      side.fields[field] = value;
      side.given.insert(field);
    }
  }
  side.fields["bias_activation_fusion"] = false;
  KeyFinder keys(spec, model.hf_config(), side);
  for (const auto& [fields, rules] :
       {std::pair(&model.config(), &spec.config), std::pair(&model.effects(), &spec.effects)}) {
    for (const Field& field : *fields) {
      side.fields[field.name] = field.value;
      side.given.erase(field.name);
      keys.Note(field.name, rules->at(field.name));
    }
  }
  NormalizeFields(side.fields, side.layers);
  FillUnsaid(model, side);
  RopeReader(model.hf_config(), side.fields, /*windowed=*/false).NoteHidden(side.fields);
  side.keys["rope_scaling"] = {ShownKey(model.hf_config(), {"rope_scaling", "rope_parameters"})};
  // What the config says, also where MTP layers are left out.
  const auto mtp = model.dims().find("mtp_layers");
  side.fields["mtp_num_layers"] = mtp == model.dims().end() ? 0 : mtp->second;
  side.has_input_norm = false;
  for (const Parameter& p : model.parameters()) {
    const std::string& name = p.rule->megatron;
    side.has_input_norm |=
        (p.stack != nullptr && name == "norm.weight") ||
        EndsWithAny(name, {"linear_qkv.layer_norm_weight", "input_layernorm.weight",
                           "in_proj.layer_norm_weight"});
    side.has_post_norms |= name.ends_with("post_layernorm.weight");
  }
  // The side may be copied, and outlive the model.
  const auto config = std::make_shared<const json>(model.hf_config());
  const auto fields = std::make_shared<const json>(side.fields);
  side.rope = [config, fields](int64_t layer, bool windowed) -> Result<Rope> {
    const json position = fields->value("position_embedding_type", json());
    if (position == "none" || position.is_null() || ListSays(*fields, "no_rope_freq", layer)) {
      return Rope{{}, 0, 1, {"no_rope_freq", "position_embedding_type"}};
    }
    return RopeReader(*config, *fields, windowed).Table();
  };
  return side;
}

}  // namespace weighbridge
