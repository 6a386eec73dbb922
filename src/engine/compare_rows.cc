#include "engine/compare_rows.h"

#include <fmt/format.h>

#include <cmath>

#include "base/strings.h"

namespace weighbridge {
namespace {

using nlohmann::json;

std::string NameOf(StageId stage, const std::string& module) {
  if (stage.kind == StageKind::kOutput && module.empty()) return "output_layer";
  if (stage.kind == StageKind::kEmbedding && module.empty()) return "embedding";
  if (stage.kind != StageKind::kLayer && stage.kind != StageKind::kMtp) return module;
  return fmt::format("{}.layers.{}{}{}", stage.kind == StageKind::kMtp ? "mtp" : "decoder",
                     stage.layer, module.empty() ? "" : ".", module);
}

std::string HfNameOf(const Model& model, StageId stage) {
  if (stage.kind != StageKind::kLayer && stage.kind != StageKind::kMtp) return "";
  const Place place = stage.kind == StageKind::kMtp ? Place::kMtp : Place::kDecoder;
  for (const Parameter& p : model.parameters()) {
    if (p.stack == nullptr || p.stack->is_tower() || p.place != place) continue;
    const auto prefix = model.HfPrefix(*p.stack, stage.layer);
    if (!prefix) break;
    return prefix->substr(0, prefix->find_last_not_of('.') + 1);
  }
  return "";
}

// The vocabulary of whole logits is not the component's to know.
Shape ShapeIn(const json& figures, const Model& model) {
  Shape shape = figures.value("shape", Shape());
  for (int64_t& extent : shape) {
    if (extent == -1) extent = model.vocab();
  }
  return shape;
}

tl::unexpected<Error> MatchesNothing(const RatioThreshold& threshold) {
  return Fail(ErrorKind::kUsage, "usage",
              fmt::format("no module matches '{}'", ToPrintable(threshold.pattern)), "--threshold",
              "`compare -v` lists the modules; * stands for any text");
}

}  // namespace

double NumberIn(const json& figures, const char* key) {
  const json value = figures.value(key, json());
  return value.is_number() ? value.get<double>() : std::nan("");
}

Noise NoiseOf(const json& figures) {
  return {NumberIn(figures, "candidate_error"), NumberIn(figures, "reference_error"),
          NumberIn(figures, "ratio"), NumberIn(figures, "max_ratio")};
}

bool MeetsFunctionRule(const json& figures) {
  const bool few = figures.value("few_tokens", false);
  // Wide limits where a few roundings are all that there is: a wrong formula gives thousands.
  const double most = few                                    ? kMostMaxRatio * 2
                      : figures.value("concentrated", false) ? kMostMaxRatio
                                                             : kMostRatio;
  const double largest = few ? kMostMaxRatio * 4 : kMostMaxRatio;
  return NumberIn(figures, "ratio") <= most && NumberIn(figures, "max_ratio") <= largest;
}

Status CheckThresholds(const std::vector<RatioThreshold>& thresholds, const json& modules,
                       int64_t layers, int64_t mtp_layers) {
  for (const RatioThreshold& threshold : thresholds) {
    const auto matches = [&](StageKind kind, const char* which, int64_t count) {
      for (int64_t layer = 0; layer < count; ++layer) {
        const StageId stage{kind, layer};
        if (GlobMatch(threshold.pattern, NameOf(stage, ""))) return true;  // of a recording
        for (const json& module : modules.at(which)) {
          if (GlobMatch(threshold.pattern, NameOf(stage, module))) return true;
        }
      }
      return false;
    };
    if (!matches(StageKind::kEmbedding, "embedding", 1) &&
        !matches(StageKind::kLayer, "layer", layers) &&
        !matches(StageKind::kMtp, "mtp", mtp_layers) && !matches(StageKind::kOutput, "output", 1)) {
      return MatchesNothing(threshold);
    }
  }
  return {};
}

Status ApplyThresholds(const std::vector<RatioThreshold>& thresholds,
                       std::vector<JudgedModule>& modules) {
  for (const RatioThreshold& threshold : thresholds) {
    bool matched = false;
    for (JudgedModule& judged : modules) {
      ResultRow& row = judged.row;
      if (!GlobMatch(threshold.pattern, row.megatron.name)) continue;
      matched = true;
      const bool passes = row.noise->ratio <= threshold.ratio &&
                          row.noise->max_ratio <= threshold.ratio * kMostMaxRatio / kMostRatio;
      row.status = passes ? RowStatus::kMatch : RowStatus::kMismatch;
    }
    if (!matched) return MatchesNothing(threshold);
  }
  return {};
}

JudgedModule JudgeModule(const Model& model, StageId stage, const std::string& module,
                         const json& figures, DType dtype) {
  ResultRow row;
  const Shape shape = ShapeIn(figures, model);
  if (const std::string hf = HfNameOf(model, stage); !hf.empty()) {
    row.hf = {{hf, shape, dtype}};
  }
  row.megatron = {NameOf(stage, module), shape, dtype};
  row.noise = NoiseOf(figures);
  row.status = MeetsFunctionRule(figures) ? RowStatus::kMatch : RowStatus::kMismatch;
  row.metrics.max_diff = NumberIn(figures, "max_diff");
  row.metrics.mean_diff = NumberIn(figures, "mean_diff");
  row.metrics.cosine = NumberIn(figures, "cosine");
  row.metrics.nan_count = figures.value("nan_count", int64_t{0});
  row.metrics.inf_count = figures.value("inf_count", int64_t{0});
  const std::string only = figures.value("only", "");
  row.why = fmt::format(
      "{}error {:.3g} x {} ({:.3g} against {:.3g}), the largest {:.3g} x{}{}",
      dtype == DType::kF32 ? "" : fmt::format("in {}: ", ShortName(dtype)), row.noise->ratio,
      row.noise->reference < NumberIn(figures, "floor") ? "one ULP" : "the reference's own",
      row.noise->candidate, NumberIn(figures, "floor"), row.noise->max_ratio,
      only.empty()          ? ""
      : only == "reference" ? "; Megatron has no such module"
                            : "; Hugging Face has no such module",
      figures.value("concentrated", false) ? "; nearly all of it in a few elements" : "");
  return {stage, module, std::move(row), figures.value("of_walk", false)};
}

}  // namespace weighbridge
