#include "engine/compare_causes.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <span>
#include <string_view>
#include <utility>

#include "engine/compare_rows.h"
#include "engine/rank_share.h"

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
    {"self_attention",
     {"self_attention.gated_delta_net", "self_attention.q_layernorm",
      "self_attention.core_attention"}},
    {"self_attention.linear_kv_up_proj.layer_norm", {"self_attention.linear_qkv"}},
};

// A field decides these for all norms, and only those before attention and the MLP have effects.
bool IsOfAllNorms(const EffectPlace& place) {
  return place.effect == "norm.input.kind" || place.effect == "norm.input.convention";
}
constexpr std::string_view kOtherNorms[] = {"self_attention.q_layernorm",
                                            "self_attention.linear_proj.post_layernorm",
                                            "mlp.linear_fc2.post_layernorm"};

// `module` of a layer; of an MTP layer that of the layer within it.
bool ShowsIn(const EffectPlace& place, std::string_view module) {
  constexpr std::string_view kInner = "mtp_model_layer.";
  if (module.starts_with(kInner)) module.remove_prefix(kInner.size());
  if (std::find(place.also.begin(), place.also.end(), module) != place.also.end()) return true;
  const std::string& effect = place.module;
  if (IsOfAllNorms(place) &&
      std::find(std::begin(kOtherNorms), std::end(kOtherNorms), module) != std::end(kOtherNorms)) {
    return true;
  }
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
         ShowsIn(place, judged.module);
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
  Explainer(const CompareFindings& findings, const ComparedWeights* weights, Report& report)
      : findings_(findings), weights_(weights), report_(report) {}

  Status Run(EffectFindings effects) {
    Modules left = Failed(findings_.judged);
    // Of a recording the modules that our own model of its library fails at say more.
    Modules shown = left;
    if (!left.empty()) {
      const Modules evidence = Failed(findings_.evidence);
      shown.insert(shown.end(), evidence.begin(), evidence.end());
    }
    Modules without_effect = shown;
    for (EffectCause& effect : effects.causes) {
      AddEffect(std::move(effect), shown, left, without_effect);
    }
    WB_RETURN_IF_ERROR(AddWeights(without_effect, left));
    for (Note& note : effects.notes) report_.notes.push_back(std::move(note));
    for (std::string& text : effects.unproven) report_.unproven.push_back(std::move(text));
    for (Cause& cause : findings_.of_recording.Causes()) AddCause(std::move(cause), report_);
    std::erase_if(left, [&](const JudgedModule* judged) {
      return findings_.of_recording.Explained(judged->stage);
    });
    AddModules(left);
    AddTokens();
    return {};
  }

 private:
  bool IsUnexplained(const JudgedModule& judged) const {
    return judged.stage.kind == StageKind::kLayer &&
           findings_.unexplained.contains(judged.stage.layer);
  }

  void AddEffect(EffectCause effect, const Modules& shown, Modules& left, Modules& without_effect) {
    std::vector<std::string> where;
    for (size_t i = 0; i < effect.places.size(); ++i) {
      const auto explains = [&](const JudgedModule* judged) {
        return Explains(effect.places[i], *judged) && !IsUnexplained(*judged);
      };
      if (effect.structural || findings_.ended ||
          std::any_of(shown.begin(), shown.end(), explains)) {
        where.push_back(effect.cause.where[i]);
      }
      std::erase_if(left, explains);
      std::erase_if(without_effect, explains);
    }
    if (where.empty()) {
      report_.notes.push_back(
          {"no-effect", effect.cause.message + "; these tokens do not show it"});
      return;
    }
    effect.cause.where = std::move(where);
    // The config's mistake and the runtime's of one kind are two: no AddCause.
    report_.causes.push_back(std::move(effect.cause));
    ExplainWalk(left);
  }

  // What is wrong on the way explains where it ends.
  static void ExplainWalk(Modules& left) {
    std::erase_if(left, [](const JudgedModule* judged) { return judged->of_walk; });
  }

  Status AddWeights(const Modules& failed, Modules& left) {
    if (weights_ == nullptr || failed.empty()) return {};
    WB_TRY(WeightCauses found, FindWeightCauses(*weights_, failed));
    for (const auto& [judged, ranks] : found.ranks) BlameRanks(*judged, ranks);
    for (Cause& cause : found.causes) {
      const JudgedModule& first = **std::find_if(
          failed.begin(), failed.end(), [&](const auto* j) { return found.explained.contains(j); });
      cause.message = fmt::format("{} gives another output by its weights: {}",
                                  first.row.megatron.name, cause.message);
      cause.evidence =
          fmt::format("{}; {}{}", cause.evidence, first.row.why, RanksText(found.ranks, first));
      AddCause(std::move(cause), report_);
      ExplainWalk(left);
    }
    // Of a recording a layer is explained by any of its modules.
    std::erase_if(left, [&](const JudgedModule* judged) {
      return std::any_of(found.explained.begin(), found.explained.end(), [&](const auto* module) {
        const bool same = module->stage == judged->stage &&
                          (judged->module.empty() || module->module == judged->module);
        return same && !IsUnexplained(*judged);
      });
    });
    unexplained_weights_ = std::move(found.unexplained);
    ranks_ = std::move(found.ranks);
    return {};
  }

  // "; the shards of tp 1 differ"; of a large grid the first of them.
  std::string RanksText(const std::map<const JudgedModule*, std::set<RankId>>& all,
                        const JudgedModule& judged) const {
    constexpr size_t kMostShown = 8;
    const auto found = all.find(&judged);
    if (found == all.end()) return "";
    std::vector<std::string> names;
    for (const RankId& rank : found->second) {
      names.push_back(Describe(rank, weights_->placement->grid()));
    }
    const std::span shown = std::span(names).first(std::min(names.size(), kMostShown));
    return fmt::format("; shards that differ: {}{}", fmt::join(shown, "; "),
                       shown.size() < names.size() ? "; ..." : "");
  }

  // The rows of a module say on which ranks its weights are wrong.
  void BlameRanks(const JudgedModule& judged, const std::set<RankId>& ranks) {
    for (ResultRow& row : report_.results) {
      const TensorRef& module = judged.row.megatron;
      if (row.megatron.name != module.name || row.megatron.dtype != module.dtype) continue;
      if (ranks.size() == 1) row.rank = *ranks.begin();
      row.why += RanksText({{&judged, ranks}}, judged);
    }
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
    cause.hint = "the weights of these modules are equal: they are computed otherwise";
    if (!unexplained_weights_.empty()) {
      cause.evidence +=
          fmt::format("; {}{}", fmt::join(unexplained_weights_, "; "), RanksText(ranks_, first));
      cause.hint = "weights of these modules differ, and no known mistake explains how";
    } else if (weights_ == nullptr) {
      cause.hint = "both sides have the same weights: they are computed otherwise";
    }
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
  const ComparedWeights* weights_;
  Report& report_;
  std::vector<std::string> unexplained_weights_;
  std::map<const JudgedModule*, std::set<RankId>> ranks_;  // whose shards of a module differ
};

}  // namespace

Status ExplainFailures(const CompareFindings& findings, EffectFindings effects,
                       const ComparedWeights* weights, Report& report) {
  return Explainer(findings, weights, report).Run(std::move(effects));
}

}  // namespace weighbridge
