#include "checks/effect_check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/strings.h"
#include "checks/megatron_config_check.h"
#include "family/config.h"
#include "family/effects/effects.h"

namespace weighbridge {
namespace {

using nlohmann::json;

// router_refused of runtimes/megatron-core.toml, where a field helps.
constexpr std::string_view kOneExpert = "a softmax over the one expert that is chosen";
constexpr double kTolerance = 1e-6;  // relative; both sides are computed in double

bool Equal(double a, double b) {
  if (!std::isfinite(a) || !std::isfinite(b)) return a == b;
  return a == b || std::abs(a - b) <= kTolerance * std::max(std::abs(a), std::abs(b));
}

bool Equal(const json& a, const json& b) {
  if (a.is_number() && b.is_number()) return Equal(a.get<double>(), b.get<double>());
  if (!a.is_array() || !b.is_array() || a.size() != b.size()) return a == b;
  return std::equal(a.begin(), a.end(), b.begin(),
                    [](const json& x, const json& y) { return Equal(x, y); });
}

// A difference of one effect, without its place.
struct Difference {
  std::string effect, cause;
  json hf, megatron;  // as they are shown
  std::vector<std::string> hf_fields, megatron_fields;
  bool only_beyond = false;       // the longest position: a note
  std::vector<std::string> also;  // EffectPlace

  auto Key() const { return std::tie(effect, cause, hf, megatron); }
};

struct Place {
  Difference difference;
  std::vector<int64_t> layers;  // none: of the whole model
};

// RoPE tables: which of their parts differ, as figures a reader can check.
std::optional<Difference> CompareTables(const json& a, const json& b) {
  const json& x = a["frequencies"];
  const json& y = b["frequencies"];
  if (Equal(x, y)) return std::nullopt;
  Difference d;
  if (x.size() != y.size()) {
    const auto channels = [](const json& f) { return fmt::format("{} channels", 2 * f.size()); };
    d.cause = x.empty() || y.empty() ? "layer-pattern" : "rope-partial";
    d.hf = x.empty() ? "no rotation" : channels(x);
    d.megatron = y.empty() ? "no rotation" : channels(y);
    return d;
  }
  if (!Equal(a["base"], b["base"])) {
    d.cause = "rope-base";
    d.hf = fmt::format("base {}", a["base"].get<double>());
    d.megatron = fmt::format("base {}", b["base"].get<double>());
    return d;
  }
  size_t worst = 0;
  double most = -1;
  for (size_t i = 0; i < x.size(); ++i) {
    const auto p = x[i].get<double>(), q = y[i].get<double>();
    const double relative = std::abs(p - q) / std::max(std::abs(p), std::abs(q));
    if (relative > most) {
      most = relative;
      worst = i;
    }
  }
  d.cause = "rope-scaling";
  const auto text = [&](const json& f) {
    return fmt::format("frequency {} of {} is {:.6g}", worst, f.size(), f[worst].get<double>());
  };
  d.hf = text(x);
  d.megatron = text(y);
  return d;
}

class Comparison {
 public:
  Comparison(const EffectSide& hf, const EffectSide& megatron) : hf_(hf), megatron_(megatron) {}

  Status Run() {
    Compare(WholeEffects(hf_), WholeEffects(megatron_), std::nullopt, false);
    for (int64_t layer = 0; layer < hf_.layers; ++layer) {
      WB_TRY(const Effects a, LayerEffects(hf_, layer));
      WB_TRY(Effects b, LayerEffects(megatron_, layer));
      hf_windows_ |= HasWindow(a);
      megatron_windows_ |= HasWindow(b);
      // A table that goes with the kind of layer is no difference of its own.
      bool with_rotation = false;
      if (HasWindow(a) != HasWindow(b)) {
        WB_TRY(const Effects as_hf, LayerEffects(megatron_, layer, HasWindow(a)));
        for (const char* name : {"rope.table", "rope.factor"}) {
          const auto it = as_hf.find(name);
          if (it == as_hf.end()) continue;
          with_rotation |= it->second.value != b[name].value;
          b[name] = it->second;
        }
      }
      Compare(a, b, layer, with_rotation);
    }
    for (Place& place : places_) ClassifyWindow(place.difference);
    return {};
  }

  std::vector<Place>& places() { return places_; }

 private:
  // The field behind it decides the norms that have no effect of their own too.
  static bool IsOfAllNorms(const std::string& effect) {
    return effect == "norm.input.kind" || effect == "norm.input.convention";
  }

  static std::vector<std::string> WithNormsOfTheirOwn(const Effects& layer) {
    if (layer.contains("norm.latent.eps")) return {"self_attention.linear_qkv"};
    if (layer.contains("ssm.key_dim")) return {"self_attention.gated_delta_net"};
    return {};
  }

  static bool HasWindow(const Effects& effects) {
    const auto it = effects.find("attention.window");
    return it != effects.end() && !it->second.value.is_null();
  }

  void Compare(const Effects& a, const Effects& b, std::optional<int64_t> layer,
               bool with_rotation) {
    for (const auto& [name, x] : a) {
      const auto y = b.find(name);
      if (y == b.end()) continue;
      if (auto found = CompareOne(name, x.value, y->second.value)) {
        found->effect = name;
        found->hf_fields = x.fields;
        found->megatron_fields = y->second.fields;
        if (with_rotation && name == "attention.window") {
          found->also = {"self_attention.rotary_pos_emb"};
        } else if (IsOfAllNorms(name)) {
          found->also = WithNormsOfTheirOwn(a);
        }
        Add(*std::move(found), layer);
      }
    }
  }

  std::optional<Difference> CompareOne(const std::string& name, const json& a, const json& b) {
    if (name == "rope.table") return CompareTables(a, b);
    if (Equal(a, b)) return std::nullopt;
    Difference d;
    d.cause = std::string(FindEffectInfo(name)->cause);
    d.hf = a;
    d.megatron = b;
    if (name == "attention.window") {
      const json longest = hf_.fields.value("seq_length", json());
      const auto wide = [&](const json& width) {
        return width.is_null() || (longest.is_number() && width >= longest);
      };
      d.only_beyond = wide(a) && wide(b);
    }
    return d;
  }

  // Windows on both sides, but in other layers, are another pattern; none at all is a lost window.
  void ClassifyWindow(Difference& d) const {
    const bool one_sided = d.hf.is_null() != d.megatron.is_null();
    if (d.effect == "attention.window" && one_sided && hf_windows_ && megatron_windows_) {
      d.cause = "layer-pattern";
    }
  }

  void Add(Difference difference, std::optional<int64_t> layer) {
    const auto known = std::find_if(places_.begin(), places_.end(), [&](const Place& p) {
      return p.difference.Key() == difference.Key();
    });
    const auto index = static_cast<size_t>(known - places_.begin());
    if (index == places_.size()) {
      places_.push_back({std::move(difference), {}});
    } else {
      for (std::string& module : difference.also) {
        std::vector<std::string>& all = places_[index].difference.also;
        if (std::find(all.begin(), all.end(), module) == all.end())
          all.push_back(std::move(module));
      }
    }
    if (layer) places_[index].layers.push_back(*layer);
  }

  const EffectSide& hf_;
  const EffectSide& megatron_;
  bool hf_windows_ = false, megatron_windows_ = false;
  std::vector<Place> places_;
};

std::string Shown(const json& value) {
  if (value.is_null()) return "none";
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_float()) return fmt::format("{:.9g}", value.get<double>());
  return Describe(value);
}

// "num_layers" of layers, shortened: "*", "0-3,7".
std::string LayersText(const std::vector<int64_t>& layers, int64_t all) {
  if (static_cast<int64_t>(layers.size()) == all) return "*";
  std::string text;
  for (size_t i = 0; i < layers.size();) {
    size_t last = i;
    while (last + 1 < layers.size() && layers[last + 1] == layers[last] + 1) ++last;
    if (!text.empty()) text += ",";
    text +=
        last == i ? fmt::format("{}", layers[i]) : fmt::format("{}-{}", layers[i], layers[last]);
    i = last + 1;
  }
  return text;
}

// The effect at `place` of a side.
Result<Effects> EffectsAt(const EffectSide& side, const Place& place) {
  if (place.layers.empty()) return WholeEffects(side);
  return LayerEffects(side, place.layers[0]);
}

bool IsSame(const Cause& a, const Cause& b) { return a.id == b.id && a.origin == b.origin; }

void Join(Cause added, Cause& known) {
  known.where.insert(known.where.end(), added.where.begin(), added.where.end());
  known.message += "; " + added.message;
  if (known.evidence != added.evidence) known.evidence += "; " + added.evidence;
}

// Turns the places of all differences into causes.
class Reporter {
 public:
  // `resolve` makes Megatron's side of other fields.
  Reporter(const EffectSide& hf, const EffectSide& megatron, const MegatronConfig& config,
           std::function<Result<EffectSide>(const json& fields)> resolve, std::string runtime,
           EffectFindings& findings)
      : hf_(hf),
        megatron_(megatron),
        config_(config),
        resolve_(std::move(resolve)),
        runtime_(std::move(runtime)),
        findings_(findings) {}

  void Tell(const Place& place, Origin origin) {
    const Difference& d = place.difference;
    const EffectInfo& info = *FindEffectInfo(d.effect);
    const std::string where = Where(place, info);
    const Behaviour* behaviour = BehaviourOf(d, origin);
    std::string message =
        fmt::format("{}{}: {} by {}, {} by {}", info.title,
                    place.layers.empty() ? "" : " of " + LayersOf(place), Shown(d.hf), HfSource(d),
                    Shown(d.megatron), behaviour != nullptr ? runtime_ : MegatronSource(d));
    if (behaviour != nullptr) message += fmt::format(" ({})", behaviour->why);
    if (d.only_beyond) {
      findings_.notes.push_back(
          {"no-effect", message + "; it matters only beyond the longest position of the config"});
      return;
    }
    const bool lost = origin == Origin::kConfig && Lost(place);
    if (lost) message += "; the config leaves it out, and its reader's default is another";
    Cause cause{lost ? "config-lost" : d.cause, Proof::kStructural,       origin,         {where},
                ToPrintable(message),           ToPrintable(Evidence(d)), Hint(d, origin)};
    const bool structural = DecidesParameters(d);
    const bool refused = d.effect == "router.refused";
    Add({std::move(cause),
         {{place.layers, std::string(info.module), d.effect, d.also}},
         structural || refused});
    if (!structural) return;
    for (const std::string& field : d.megatron_fields) {
      const auto wanted = hf_.fields.find(field);
      if (wanted != hf_.fields.end()) findings_.as_stored.fields[field] = *wanted;
    }
  }

 private:
  static std::string LayersName(const Place& place, const EffectSide& hf) {
    return "decoder.layers." + LayersText(place.layers, hf.layers);
  }
  std::string LayersOf(const Place& place) const { return LayersName(place, hf_); }

  std::string Where(const Place& place, const EffectInfo& info) const {
    if (place.layers.empty()) return std::string(info.module);
    std::string name = LayersOf(place);
    if (!info.module.empty()) name += "." + std::string(info.module);
    return name;
  }

  // "config.json (rms_norm_eps)"; a class may have the value in its code.
  std::string HfSource(const Difference& d) const {
    std::vector<std::string> keys;
    for (const std::string& field : d.hf_fields) {
      const auto known = hf_.keys.find(field);
      if (known == hf_.keys.end()) continue;
      for (const std::string& key : known->second) {
        if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
      }
    }
    return keys.empty() ? "its class in transformers"
                        : fmt::format("config.json ({})", fmt::join(keys, ", "));
  }

  std::string MegatronSource(const Difference& d) const {
    return fmt::format("{} ({})", config_.origin, Fields(d));
  }

  // Those that say something; else those that do not.
  std::string Fields(const Difference& d) const {
    std::vector<std::string> said, all;
    for (const std::string& field : d.megatron_fields) {
      const auto it = config_.fields.find(field);
      const bool says = it != config_.fields.end() && !it->is_null() && *it != false;
      (says ? said : all).push_back(field);
    }
    return fmt::format("{}", fmt::join(said.empty() ? all : said, ", "));
  }

  std::string Evidence(const Difference& d) const {
    return fmt::format("HF {}, Megatron {}", Shown(d.hf), Shown(d.megatron));
  }

  // What the config alone makes another is not put down to what the runtime does unsaid.
  const Behaviour* BehaviourOf(const Difference& d, Origin origin) const {
    for (const std::string& field : d.megatron_fields) {
      const auto it = megatron_.behaviours.find(field);
      if (it == megatron_.behaviours.end()) continue;
      if (origin == Origin::kRuntime || !it->second->hidden) return it->second;
    }
    return nullptr;
  }

  // The config of one side leaves something out, and what its reader takes instead makes the
  // difference.
  bool Lost(const Place& place) const { return MegatronLost(place) || HfLost(place.difference); }

  // With the HF config's values in the place of what is not there the effect is the same.
  bool MegatronLost(const Place& place) const {
    json fields = config_.fields;
    for (const std::string& f : place.difference.megatron_fields) {
      const auto wanted = hf_.fields.find(f);
      const bool absent = !megatron_.given.contains(f) && !megatron_.behaviours.contains(f);
      if (absent && wanted != hf_.fields.end()) fields[f] = *wanted;
    }
    if (fields.size() == config_.fields.size()) return false;
    const auto side = resolve_(fields);
    if (!side) return false;
    const auto expected = EffectsAt(hf_, place), restored = EffectsAt(*side, place);
    if (!expected || !restored) return false;
    const auto a = expected->find(place.difference.effect);
    const auto b = restored->find(place.difference.effect);
    if (a == expected->end() || b == restored->end()) return false;
    return a->first == "rope.table" ? !CompareTables(a->second.value, b->second.value).has_value()
                                    : Equal(a->second.value, b->second.value);
  }

  // None of the keys is in config.json; what is off by default is no loss.
  bool HfLost(const Difference& d) const {
    return !d.hf.is_null() && d.hf != false && !d.hf_fields.empty() &&
           std::none_of(d.hf_fields.begin(), d.hf_fields.end(), [&](const std::string& f) {
             return hf_.given.contains(f) || hf_.behaviours.contains(f);
           });
  }

  std::string Hint(const Difference& d, Origin origin) const {
    if (d.effect == "router.refused" && d.megatron != kOneExpert) {
      return fmt::format("correct {} in {}: no model is built of it", Fields(d), config_.origin);
    }
    if (origin == Origin::kRuntime) {
      return "the files are right, the runtime computes otherwise: --runtime none leaves out what "
             "it does by itself";
    }
    if (d.effect == "router.refused") {
      return "with moe_router_pre_softmax it is built, and weighs the expert by its probability";
    }
    return fmt::format(
        "set {} in {} to what the HF config means, or correct the bridge that "
        "wrote it",
        Fields(d), config_.origin);
  }

  bool DecidesParameters(const Difference& d) const {
    constexpr std::string_view kAlways[] = {
        "attention.bias",  "attention.gate",  "attention.sinks", "layer.mixer",
        "layer.mlp",       "layers.pattern",  "linear.bias",     "moe.shared_gate",
        "moe.shared_size", "mtp.depth",       "norm.qk.kind",    "positions.learned",
        "router.bias",     "ssm.conv_kernel", "ssm.groups",      "ssm.head_dim",
        "ssm.heads",       "ssm.kernel",      "ssm.key_dim",     "ssm.key_heads",
        "ssm.state",       "ssm.value_dim",   "ssm.value_heads", "tying"};
    if (std::find(std::begin(kAlways), std::end(kAlways), d.effect) != std::end(kAlways)) {
      return true;
    }
    constexpr const char* kGated = "gated_linear_unit";
    return d.effect == "activation" &&
           hf_.fields.value(kGated, json()) != megatron_.fields.value(kGated, json());
  }

  void Add(EffectCause added) {
    for (EffectCause& known : findings_.causes) {
      if (!IsSame(known.cause, added.cause)) continue;
      Join(std::move(added.cause), known.cause);
      known.places.push_back(std::move(added.places[0]));
      known.structural |= added.structural;
      return;
    }
    findings_.causes.push_back(std::move(added));
  }

  const EffectSide& hf_;
  const EffectSide& megatron_;
  const MegatronConfig& config_;
  const std::function<Result<EffectSide>(const json& fields)> resolve_;
  const std::string runtime_;
  EffectFindings& findings_;
};

Result<std::vector<Place>> Differences(const EffectSide& hf, const EffectSide& megatron) {
  Comparison comparison(hf, megatron);
  WB_RETURN_IF_ERROR(comparison.Run());
  return std::move(comparison.places());
}

// Training cuts its own sequences, and RoPE has no longest position: never a fault.
void NotePositions(const EffectSide& hf, const MegatronConfig& config, EffectFindings& findings) {
  const json longest = hf.fields.value("seq_length", json());
  const json sequence = config.fields.value("seq_length", json());
  if (!longest.is_number_integer() || !sequence.is_number_integer() || longest == sequence) return;
  findings.notes.push_back(
      {"positions-differ",
       fmt::format("max_position_embeddings is {} in config.json and seq_length {} in {}; without "
                   "effect on what the weights compute",
                   Describe(longest), Describe(sequence), config.origin)});
}

void NoteOddFields(const EffectSide& side, const std::string& origin, EffectFindings& findings) {
  for (const auto& [field, value] : OddFields(side)) {
    findings.unproven.push_back(ToPrintable(fmt::format(
        "{} in {}, no value of its kind: what it decides was not compared", value, origin)));
  }
}

void NoteIndexers(const Model& model, EffectFindings& findings) {
  if (!HasIndexers(model)) return;
  findings.unproven.emplace_back(
      "how the indexers score keys was not compared: of them only the fields that the configs have "
      "for their sizes and for the number of keys");
}

void NoteUnknownClass(const MegatronConfig& config, const RuntimeTable& runtime,
                      EffectFindings& findings) {
  const std::string name = config.provider.substr(config.provider.rfind('.') + 1);
  if (name.empty() || runtime.defaults.contains(name)) return;
  findings.unproven.push_back(fmt::format(
      "the class {} is not known: what it computes by itself, and fields that {} leaves out, were "
      "not compared",
      ToPrintable(name), config.origin));
}

// Sizes that contradict the HF config, and numbers by which nothing can be computed, are causes of
// their own (CheckMegatronConfig): what follows from them is not told again.
MegatronConfig WithRightSizes(const Model& model, MegatronConfig config) {
  std::vector<std::string> impossible;
  for (const auto& [field, value] : config.fields.items()) {
    if (!ImpossibleNumber(field, config).empty()) impossible.push_back(field);
  }
  for (const std::string& name : impossible) {
    config.fields.erase(name);
    for (const Field& field : model.config()) {
      if (field.name == name) config.fields[name] = field.value;
    }
  }
  for (FieldDifference& d : CompareFields(model, config)) {
    if (!SizeCause(d.field).empty()) config.fields[d.field] = std::move(d.expected);
  }
  return config;
}

std::set<std::string> EffectsOf(const std::vector<Place>& places) {
  std::set<std::string> effects;
  for (const Place& place : places) effects.insert(place.difference.effect);
  return effects;
}

// The effects that would differ were the config right: hidden behaviours read its fields too, and
// what follows from a wrong one is no mistake of the runtime. All of `all` where that cannot be
// told.
std::set<std::string> LeftByRuntime(const EffectSide& hf, json fields,
                                    const std::vector<Place>& by_config,
                                    const std::vector<Place>& all,
                                    const std::function<Result<EffectSide>(const json&)>& resolve) {
  for (const Place& place : by_config) {
    for (const std::string& field : place.difference.megatron_fields) {
      const auto right = hf.fields.find(field);
      if (right != hf.fields.end()) fields[field] = *right;
    }
  }
  const auto side = resolve(fields);
  if (!side) return EffectsOf(all);
  const auto left = Differences(hf, *side);
  return EffectsOf(left ? *left : all);
}

Status Compare(const Model& model, const MegatronConfig& recorded, const RuntimeChoice& choice,
               bool without_mtp, EffectFindings& findings) {
  WB_TRY(const RuntimeTable* runtime, BuiltInRuntime());
  WB_TRY(EffectSide hf, HfSide(model));
  const MegatronConfig config = WithRightSizes(model, recorded);
  findings.as_stored = config;
  if (without_mtp) hf.fields["mtp_num_layers"] = config.fields.value("mtp_num_layers", json());
  const auto without_hidden = [&](const json& fields) {
    return MegatronSide(fields, model, hf, *runtime, {/*hidden=*/false, choice.version});
  };
  WB_TRY(const EffectSide plain, without_hidden(config.fields));
  WB_TRY(const std::vector<Place> by_config, Differences(hf, plain));
  NoteUnknownClass(config, *runtime, findings);
  NoteIndexers(model, findings);
  NoteOddFields(hf, "config.json", findings);
  NoteOddFields(plain, config.origin, findings);
  const std::string name = fmt::format("{} {}", runtime->name,
                                       choice.version.empty() ? runtime->newest : choice.version);
  findings.details.emplace_back("runtime", choice.hidden ? name : "none");
  NotePositions(hf, config, findings);
  if (!choice.hidden) {
    Reporter reporter(hf, plain, config, without_hidden, name, findings);
    for (const Place& place : by_config) reporter.Tell(place, Origin::kConfig);
    return {};
  }
  const auto with_hidden = [&](const json& fields) {
    return MegatronSide(fields, model, hf, *runtime, choice);
  };
  WB_TRY(const EffectSide real, with_hidden(config.fields));
  WB_TRY(const std::vector<Place> all, Differences(hf, real));
  const std::set<std::string> of_runtime =
      by_config.empty() ? EffectsOf(all)
                        : LeftByRuntime(hf, config.fields, by_config, all, with_hidden);
  const std::set<std::string> of_config = EffectsOf(by_config);
  Reporter reporter(hf, real, config, with_hidden, name, findings);
  for (const Place& place : all) {
    const std::string& effect = place.difference.effect;
    const bool by_runtime = !of_config.contains(effect) && of_runtime.contains(effect);
    reporter.Tell(place, by_runtime ? Origin::kRuntime : Origin::kConfig);
  }
  return {};
}

// Where an effect decides which tensors there are: its tensors, as parts of their names.
struct Decided {
  std::string_view effect;
  std::array<std::string_view, 4> parts;
};
constexpr Decided kDecided[] = {
    {"attention.bias", {".linear_qkv.bias", ".linear_proj.bias"}},
    {"attention.sinks", {".softmax_offset"}},
    {"layer.mixer", {".self_attention.", ".mixer.", ".input_layernorm."}},
    {"layer.mlp", {".mlp.", ".pre_mlp_layernorm."}},
    {"linear.bias",
     {".linear_qkv.bias", ".linear_proj.bias", ".linear_fc1.bias", ".linear_fc2.bias"}},
    {"moe.shared_gate", {".shared_experts.gate_weight"}},
    {"moe.shared_size", {".shared_experts."}},
    {"mtp.depth", {"mtp."}},
    {"norm.qk.kind", {".q_layernorm.", ".k_layernorm."}},
    {"router.bias", {".router.expert_bias"}},
    {"tying", {"output_layer."}},
};
constexpr std::string_view kOfInventory[] = {
    "bias-missing",   "expert-missing",      "layernorm-alias",       "mtp-missing", "tensor-extra",
    "tensor-missing", "router-bias-missing", "shared-expert-missing", "tie-mismatch"};

// The layer in "decoder.layers.3.mlp..."; nullopt: of stacked layers, or of none.
std::optional<int64_t> LayerIn(std::string_view name) {
  constexpr std::string_view kLayers = "decoder.layers.";
  if (!name.starts_with(kLayers)) return std::nullopt;
  name.remove_prefix(kLayers.size());
  int64_t layer = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  return error == std::errc() ? std::optional(layer) : std::nullopt;
}

// Whether tensor `name` is there or not by this effect.
bool Decides(const EffectPlace& place, std::string_view name) {
  const auto known = std::find_if(std::begin(kDecided), std::end(kDecided),
                                  [&](const Decided& d) { return d.effect == place.effect; });
  if (known == std::end(kDecided)) return false;
  const auto layer = LayerIn(name);
  const bool in_layers =
      !layer || place.layers.empty() ||
      std::find(place.layers.begin(), place.layers.end(), *layer) != place.layers.end();
  return in_layers && std::any_of(known->parts.begin(), known->parts.end(), [&](auto part) {
           return !part.empty() && name.find(part) != name.npos;
         });
}

// A config that asks for other tensors and the tensors that are there by it are one mistake: the
// causes of the inventory go into that of the config.
void TakeInventory(EffectCause& found, Report& report) {
  if (!found.structural) return;
  const auto of_inventory = [&](const Cause& cause) {
    const bool known = std::find(std::begin(kOfInventory), std::end(kOfInventory), cause.id) !=
                       std::end(kOfInventory);
    return known && cause.origin == Origin::kCheckpoint && !cause.where.empty() &&
           std::all_of(cause.where.begin(), cause.where.end(), [&](const std::string& name) {
             if (name.starts_with("... ")) return true;  // of a long list
             return std::any_of(found.places.begin(), found.places.end(),
                                [&](const EffectPlace& place) { return Decides(place, name); });
           });
  };
  std::erase_if(report.causes, [&](Cause& cause) {
    if (!of_inventory(cause)) return false;
    Join(std::move(cause), found.cause);
    return true;
  });
}

}  // namespace

EffectFindings FindEffectDifferences(const Model& model, const MegatronConfig& config,
                                     const RuntimeChoice& choice, bool without_mtp) {
  EffectFindings findings;
  findings.as_stored = config;
  const Status compared = Compare(model, config, choice, without_mtp, findings);
  findings.compared = compared.has_value();
  if (!compared) {
    findings.unproven.push_back(
        fmt::format("equal weights are not an equal model: the configs were not compared by effect "
                    "({})",
                    ToPrintable(compared.error().what)));
  }
  return findings;
}

bool CompareEffects(const Model& model, const MegatronConfig& config, const RuntimeChoice& choice,
                    bool without_mtp, Report& report) {
  EffectFindings findings = FindEffectDifferences(model, config, choice, without_mtp);
  for (EffectCause& found : findings.causes) {
    TakeInventory(found, report);
    const auto known = std::find_if(report.causes.begin(), report.causes.end(),
                                    [&](const Cause& c) { return IsSame(c, found.cause); });
    if (known == report.causes.end()) {
      report.causes.push_back(std::move(found.cause));
    } else {
      Join(std::move(found.cause), *known);
    }
  }
  const auto append = [](auto& from, auto& to) {
    to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
  };
  append(findings.notes, report.notes);
  append(findings.unproven, report.unproven);
  append(findings.details, report.details);
  return findings.compared;
}

}  // namespace weighbridge
