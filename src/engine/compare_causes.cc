#include "engine/compare_causes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "engine/compare_rows.h"

namespace weighbridge {
namespace {

using nlohmann::json;
using Modules = std::vector<const JudgedModule*>;

// The modules that show an effect, where they are others than the one that it names.
struct Shown {
  std::string_view effect;
  std::array<std::string_view, 3> modules;
};
constexpr Shown kShown[] = {
    {"mlp", {"mlp", "mlp.experts", "mlp.shared_experts"}},
    {"mixer.norm", {"mixer", "self_attention.gated_delta_net"}},
    {"self_attention", {"self_attention.gated_delta_net"}},
    {"self_attention.linear_kv_up_proj.layer_norm", {"self_attention.linear_qkv"}},
};

// `module` of a layer; of an MTP layer that of the layer within it.
bool ShowsIn(const std::string& effect, std::string_view module) {
  constexpr std::string_view kInner = "mtp_model_layer.";
  if (module.starts_with(kInner)) module.remove_prefix(kInner.size());
  const auto listed = std::find_if(std::begin(kShown), std::end(kShown),
                                   [&](const Shown& s) { return s.effect == effect; });
  if (listed == std::end(kShown)) return effect == module;
  return std::find(listed->modules.begin(), listed->modules.end(), module) != listed->modules.end();
}

bool IsOf(const EffectPlace& place, StageId stage) {
  if (!place.layers.empty()) {
    // The layer within an MTP layer is built as one of the others.
    if (stage.kind == StageKind::kMtp) return true;
    return stage.kind == StageKind::kLayer &&
           std::find(place.layers.begin(), place.layers.end(), stage.layer) != place.layers.end();
  }
  if (place.module == "embedding") return stage.kind == StageKind::kEmbedding;
  if (place.module == "decoder.final_layernorm" || place.module == "output_layer") {
    return stage.kind == StageKind::kOutput;
  }
  return place.module.empty() || place.module == "decoder";
}

// A stage that was judged as a whole shows each effect of it, and an effect on a whole stage shows
// anywhere in it.
bool Explains(const EffectPlace& place, const JudgedModule& judged) {
  if (!IsOf(place, judged.stage)) return false;
  return place.module.empty() || place.module == "decoder" || judged.module.empty() ||
         ShowsIn(place.module, judged.module);
}

Modules Failed(const std::vector<JudgedModule>& modules) {
  Modules failed;
  for (const JudgedModule& judged : modules) {
    if (!Passed(judged.row.status)) failed.push_back(&judged);
  }
  return failed;
}

class Explainer {
 public:
  Explainer(const CompareFindings& findings, Report& report)
      : findings_(findings), report_(report) {}

  void Run(EffectFindings effects) {
    Modules left = Failed(findings_.judged);
    // Of a recording the modules that our own model of its library fails at say more.
    Modules shown = left;
    if (!left.empty()) {
      const Modules evidence = Failed(findings_.evidence);
      shown.insert(shown.end(), evidence.begin(), evidence.end());
    }
    for (EffectCause& effect : effects.causes) AddEffect(std::move(effect), shown, left);
    for (Note& note : effects.notes) report_.notes.push_back(std::move(note));
    for (std::string& text : effects.unproven) report_.unproven.push_back(std::move(text));
    AddModules(left);
    AddTokens();
  }

 private:
  bool IsUnexplained(const JudgedModule& judged) const {
    return judged.stage.kind == StageKind::kLayer &&
           findings_.unexplained.contains(judged.stage.layer);
  }

  void AddEffect(EffectCause effect, const Modules& shown, Modules& left) {
    std::vector<std::string> where;
    for (size_t i = 0; i < effect.places.size(); ++i) {
      const auto explains = [&](const JudgedModule* judged) {
        return Explains(effect.places[i], *judged) && !IsUnexplained(*judged);
      };
      if (std::any_of(shown.begin(), shown.end(), explains)) {
        where.push_back(effect.cause.where[i]);
      }
      std::erase_if(left, explains);
    }
    if (where.empty()) {
      report_.notes.push_back(
          {"no-effect", effect.cause.message + "; these tokens do not show it"});
      return;
    }
    effect.cause.where = std::move(where);
    AddCause(std::move(effect.cause), report_);
  }

  void AddModules(const Modules& left) {
    if (left.empty()) return;
    Cause cause;
    cause.id = "module-differs";
    cause.proof = Proof::kExact;
    cause.origin = findings_.recorded ? Origin::kRuntime : Origin::kCheckpoint;
    for (const JudgedModule* judged : left) cause.where.push_back(judged->row.megatron.name);
    const JudgedModule& first = *left.front();
    cause.message = first.row.megatron.name + " with the same input gives another output";
    if (left.size() > 1) cause.message += fmt::format(", and {} more after it", left.size() - 1);
    cause.evidence = first.row.why;
    cause.hint = "`weighbridge verify` says whether the weights of this module differ";
    if (findings_.recorded) {
      cause.hint = IsUnexplained(first)
                       ? "Megatron's config and weights do not give what was recorded: look at how "
                         "the run was made"
                       : "the first layer in this list is the one to look at";
    }
    AddCause(std::move(cause), report_);
  }

  void AddTokens() {
    const json& tokens = findings_.tokens;
    if (tokens.is_null() || tokens.value("beyond_noise", int64_t{0}) == 0) return;
    if (!report_.causes.empty()) return;
    const json& first = tokens.at("first_beyond");
    AddCause({"next-token",
              Proof::kExact,
              Origin::kCheckpoint,
              {"output_layer"},
              fmt::format("{} of {} next tokens differ by more than the reference's noise",
                          tokens.value("beyond_noise", int64_t{0}),
                          tokens.value("positions", int64_t{0})),
              fmt::format("position {}: token {} of the reference, {} of the candidate; margin "
                          "{:.3g}, noise {:.3g}",
                          first.value("position", int64_t{0}), first.value("reference", int64_t{0}),
                          first.value("candidate", int64_t{0}), NumberIn(first, "margin"),
                          NumberIn(first, "noise")),
              ""},
             report_);
  }

  const CompareFindings& findings_;
  Report& report_;
};

}  // namespace

void ExplainFailures(const CompareFindings& findings, EffectFindings effects, Report& report) {
  Explainer(findings, report).Run(std::move(effects));
}

}  // namespace weighbridge
