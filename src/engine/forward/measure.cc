#include "engine/forward/measure.h"

#include <algorithm>
#include <cmath>

namespace weighbridge::engine {
namespace {

using at::Tensor;

double Sum(const Tensor& x) { return x.sum().item<double>(); }
double Largest(const Tensor& x) { return x.numel() == 0 ? 0 : x.max().item<double>(); }

// The distance between float32 numbers of this size.
double FloatUlp(double value) {
  return value > 0 ? std::ldexp(1.0, std::ilogb(value) - 23) : std::ldexp(1.0, -149);
}

}  // namespace

void Measure::Add(const Tensor& candidate, const Tensor& reference, const Tensor& truth) {
  const Tensor c = candidate.to(at::kDouble), r = reference.to(at::kDouble);
  const Tensor of_candidate = (c - truth).abs(), of_reference = (r - truth).abs();
  const Tensor apart = (c - r).abs();
  nan_ += c.isnan().sum().item<int64_t>();
  inf_ += c.isinf().sum().item<int64_t>();
  elements_ += static_cast<double>(c.numel());
  outputs_ += Sum(truth.square());
  peak_ = std::max(peak_, Largest(truth.abs()));
  candidate_ += Sum(of_candidate.square());
  reference_ += Sum(of_reference.square());
  candidate_max_ = std::max(candidate_max_, Largest(of_candidate));
  reference_max_ = std::max(reference_max_, Largest(of_reference));
  max_diff_ = std::max(max_diff_, Largest(apart));
  sum_diff_ += Sum(apart);
  dot_ += Sum(c * r);
  norm_a_ += Sum(c.square());
  norm_b_ += Sum(r.square());
}

nlohmann::json Measure::ToJson() const {
  const double n = std::max(elements_, 1.0);
  const double rms = std::sqrt(outputs_ / n);
  const double candidate = std::sqrt(candidate_ / n), reference = std::sqrt(reference_ / n);
  const double norms = std::sqrt(norm_a_ * norm_b_);
  return {{"elements", static_cast<int64_t>(elements_)},
          {"rms", rms},
          {"candidate_error", candidate},
          {"reference_error", reference},
          {"floor", std::max(reference, FloatUlp(rms))},
          {"ratio", candidate / std::max(reference, FloatUlp(rms))},
          {"max_ratio", candidate_max_ / std::max(reference_max_, FloatUlp(peak_))},
          {"max_diff", max_diff_},
          {"mean_diff", sum_diff_ / n},
          {"cosine", norms > 0 ? dot_ / norms : 1.0},
          {"nan_count", nan_},
          {"inf_count", inf_}};
}

}  // namespace weighbridge::engine
