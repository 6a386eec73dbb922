#include "engine/forward/hypotheses.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/forward/measure.h"

namespace weighbridge::engine {
namespace {

using at::Tensor;
using nlohmann::json;

constexpr double kBeyondNoise = 16;  // times the RMS of our own error: a token that is not given
constexpr double kStep = 1e-4;       // relative, of a difference quotient
constexpr double kLeastShare = 0.2;  // of the error, in the direction of what is fitted
constexpr int kMostSteps = 5;

double Dot(const Tensor& a, const Tensor& b) { return (a * b).sum().item<double>(); }

class Trial {
 public:
  Trial(const RecordedOutput& layer, const RunStage& run)
      : layer_(layer),
        run_(run),
        exact_in_(layer.in.to(at::kDouble)),
        recorded_(layer.out.to(at::kDouble)) {}

  json Own() {
    own_ = Exact(layer_.spec);
    return Figures(layer_.spec, own_);
  }

  // The first token of each row whose error is none of rounding.
  json First() const {
    const Tensor rounded = run_(*StageOf(layer_.spec), layer_.in).to(at::kDouble) - own_;
    const double noise = std::max(rounded.square().mean().sqrt().item<double>(),
                                  1e-7 * own_.square().mean().sqrt().item<double>());
    const Tensor apart = (recorded_ - own_).square().mean(-1).sqrt();
    const Tensor beyond = apart.gt(kBeyondNoise * noise).logical_or(apart.isnan());
    json first = json::array();
    for (int64_t row = 0; row < beyond.size(0); ++row) {
      const Tensor tokens = beyond.select(0, row).nonzero();
      first.push_back(tokens.numel() == 0 ? json() : json(tokens[0][0].item<int64_t>()));
    }
    return first;
  }

  json Patched(const json& patch) const {
    json spec = layer_.spec;
    spec.merge_patch(patch);
    return Figures(spec, Exact(spec));
  }

  // Newton's steps on the one factor; null where it is not that.
  json Scaled(const json& pointers) const {
    double factor = 1;
    Tensor at_factor = own_;
    for (int step = 0; step < kMostSteps; ++step) {
      const Tensor slope =
          (Exact(SpecOf(pointers, factor * (1 + kStep))) - at_factor) / (factor * kStep);
      const Tensor left = recorded_ - at_factor;
      const double along = Dot(left, slope), steep = Dot(slope, slope), size = Dot(left, left);
      if (!(steep > 0)) return nullptr;
      if (step == 0 && !(along * along > kLeastShare * steep * size)) return nullptr;
      const double next = std::clamp(factor + along / steep, factor / 4, factor * 4);
      const bool settled = std::abs(next - factor) <= 1e-9 * factor;
      factor = next;
      at_factor = Exact(SpecOf(pointers, factor));
      if (settled) break;
    }
    json figures = Figures(SpecOf(pointers, factor), at_factor);
    figures["factor"] = factor;
    return figures;
  }

 private:
  std::unique_ptr<Stage> StageOf(const json& spec) const {
    return MakeMegatronStage(spec, layer_.weights);
  }
  Tensor Exact(const json& spec) const { return run_(*StageOf(spec), exact_in_); }

  json Figures(const json& spec, const Tensor& exact) const {
    Measure measure;
    measure.Add(layer_.out, run_(*StageOf(spec), layer_.in), exact);
    return measure.ToJson();
  }

  json SpecOf(const json& pointers, double factor) const {
    json spec = layer_.spec;
    for (const std::string text : pointers) {
      const json::json_pointer pointer(text);
      spec[pointer] = factor * (spec.contains(pointer) ? spec.at(pointer).get<double>() : 1.0);
    }
    return spec;
  }

  const RecordedOutput& layer_;
  const RunStage& run_;
  const Tensor exact_in_, recorded_;
  Tensor own_;  // what the spec as it is gives, in float64
};

}  // namespace

json TryHypotheses(const RecordedOutput& layer, const json& tries, const RunStage& run) {
  Trial trial(layer, run);
  json answer = {{"own", trial.Own()}, {"tries", json::array()}};
  answer["first"] = trial.First();
  for (const json& one : tries) {
    answer["tries"].push_back(one.contains("patch") ? trial.Patched(one.at("patch"))
                                                    : trial.Scaled(one.at("scales")));
  }
  return answer;
}

}  // namespace weighbridge::engine
