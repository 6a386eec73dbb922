// How far two results are from each other and from the truth.
#pragma once

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>
#include <span>

namespace weighbridge::engine {

// Collects over the outputs of a module, and over blocks of one output. Everything is computed in
// float64. What counts (DESIGN §1): the RMS of the candidate's error divided by that of the
// reference's own, which is at least one float32 ULP of the outputs' RMS.
class Measure {
 public:
  // All of one shape; `truth` in float64.
  void Add(const at::Tensor& candidate, const at::Tensor& reference, const at::Tensor& truth);
  nlohmann::json ToJson() const;

 private:
  double elements_ = 0, outputs_ = 0, peak_ = 0;
  double candidate_ = 0, reference_ = 0;  // sums of squared errors
  double candidate_max_ = 0, reference_max_ = 0;
  double max_diff_ = 0, sum_diff_ = 0, dot_ = 0, norm_a_ = 0, norm_b_ = 0;
  int64_t nan_ = 0, inf_ = 0;
};

}  // namespace weighbridge::engine
