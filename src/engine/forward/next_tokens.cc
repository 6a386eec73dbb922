#include "engine/forward/next_tokens.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>

namespace weighbridge::engine {
namespace {

using at::Tensor;
using nlohmann::json;

}  // namespace

// One position: logits [vocabulary] in float64, which fit into a core's cache.
NextTokens::Position NextTokens::Judge(const Tensor& candidate, const Tensor& reference) {
  const Tensor r = reference.to(at::kDouble), c = candidate.to(at::kDouble);
  Position out;
  out.reference = r.argmax(-1).item<int64_t>();
  out.candidate = c.argmax(-1).item<int64_t>();
  const auto at = [](const Tensor& x, int64_t i) { return x[i].item<double>(); };
  const double r_top = at(r, out.reference), c_top = at(c, out.candidate);
  out.margin = r_top - at(r, out.candidate);
  // sum p (log p - log q) of p = e^(r - top) / their sum, and q likewise; in this form what is
  // nearly equal on both sides cancels before it is rounded.
  const Tensor weights = (r - r_top).exp_();
  const double r_sum = weights.sum().item<double>();
  const double c_sum = (c - c_top).exp_().sum().item<double>();
  const double apart = weights.dot(r - c).item<double>() / r_sum;
  const double kl = apart - (r_top - c_top) - std::log1p((r_sum - c_sum) / c_sum);
  out.kl = kl < 0 ? 0 : kl;
  return out;
}

void NextTokens::Take(const Position& position, double noise) {
  const bool differs = position.reference != position.candidate;
  const bool beyond = differs && position.margin > noise;
  if (differs && first_ < 0) first_ = positions_;
  if (beyond && worst_.is_null()) {
    worst_ = {{"position", positions_},
              {"reference", position.reference},
              {"candidate", position.candidate},
              {"margin", position.margin},
              {"noise", noise}};
  }
  ++positions_;
  differ_ += differs ? 1 : 0;
  beyond_ += beyond ? 1 : 0;
  kl_ += position.kl;
  kl_max_ = std::max(kl_max_, position.kl);
}

void NextTokens::Add(const Tensor& candidate, const Tensor& reference, double noise) {
  const int64_t count = reference.size(0);
  std::vector<Position> positions(static_cast<size_t>(count));
  const auto judge = [&](int64_t begin, int64_t end) {
    const c10::InferenceMode guard;
    for (int64_t i = begin; i < end; ++i) {
      positions[static_cast<size_t>(i)] = Judge(candidate[i], reference[i]);
    }
  };
  if (reference.is_cpu()) {
    at::parallel_for(0, count, 1, judge);
  } else {
    judge(0, count);
  }
  for (const Position& position : positions) Take(position, noise);
}

json NextTokens::ToJson() const {
  return {{"positions", positions_},
          {"differ", differ_},
          {"beyond_noise", beyond_},
          {"first_difference", first_ < 0 ? json() : json(first_)},
          {"first_beyond", worst_},
          {"kl_mean", kl_ / std::max<double>(1, static_cast<double>(positions_))},
          {"kl_max", kl_max_}};
}

}  // namespace weighbridge::engine
