// How far two results are from each other and from the truth.
#pragma once

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>
#include <vector>

namespace weighbridge::engine {

// How far two outputs are apart, token by token, over blocks of their width.
class TokenDistance {
 public:
  // Sums of squares, and the largest element of what is apart.
  void Add(size_t token, double apart, double size, double largest);
  // Squared, by the square of the reference: [tokens], on the CPU.
  at::Tensor Relative() const;
  // The square of the largest element, likewise.
  at::Tensor Peaks() const;

 private:
  std::vector<double> apart_, size_, largest_;
};

// Collects over the outputs of a module, and over blocks of one output. Sums are taken in float64.
// What counts (DESIGN §1): the RMS of the candidate's error divided by that of the reference's own,
// which is at least one ULP of the outputs' RMS in the dtype that both compute in.
class Measure {
 public:
  explicit Measure(at::ScalarType computed_in = at::kFloat) : dtype_(computed_in) {}

  // The errors of both, on tokens of which the truth is known: [tokens, width] each.
  void AddErrors(const at::Tensor& candidate, const at::Tensor& reference, const at::Tensor& truth);
  // Their difference, on any tokens: [tokens, width] each.
  void AddDifference(const at::Tensor& candidate, const at::Tensor& reference,
                     TokenDistance* by_token = nullptr);
  // Both, of the same tokens, in any shape whose last axis is the width.
  void Add(const at::Tensor& candidate, const at::Tensor& reference, const at::Tensor& truth);

  double ratio() const;
  double max_ratio() const;
  // The errors of both lie in a few elements: a model's largest activations. Their RMS is then that
  // of a few random numbers, and says no more than the largest one.
  bool concentrated() const;
  // The reference's error by the RMS of its outputs.
  double reference_error() const;
  bool finite() const { return nan_ == 0 && inf_ == 0; }
  nlohmann::json ToJson() const;

 private:
  double Ulp(double value) const;
  double Floor() const;

  at::ScalarType dtype_;
  double measured_ = 0, outputs_ = 0, peak_ = 0;  // of the elements whose truth is known
  double candidate_ = 0, reference_ = 0;          // sums of squared errors
  double candidate_fourth_ = 0, reference_fourth_ = 0;
  double candidate_max_ = 0, reference_max_ = 0;
  double elements_ = 0, max_diff_ = 0, sum_diff_ = 0, dot_ = 0, norm_a_ = 0, norm_b_ = 0;
  int64_t nan_ = 0, inf_ = 0;
};

}  // namespace weighbridge::engine
