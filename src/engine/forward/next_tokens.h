// The next tokens of both sides, position by position.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

namespace weighbridge::engine {

class NextTokens {
 public:
  // Logits [positions, vocabulary] of the positions after those that were added before. `noise`:
  // how far the margin between two logits may be off on both sides.
  void Add(const at::Tensor& candidate, const at::Tensor& reference, double noise);
  nlohmann::json ToJson() const;

 private:
  struct Position {
    int64_t reference = 0, candidate = 0;  // the best tokens of each
    double margin = 0;                     // between these two, by the reference
    double kl = 0;
  };
  static Position Judge(const at::Tensor& candidate, const at::Tensor& reference);
  void Take(const Position& position, double noise);

  int64_t positions_ = 0, differ_ = 0, beyond_ = 0, first_ = -1;
  double kl_ = 0, kl_max_ = 0;
  nlohmann::json worst_;
};

}  // namespace weighbridge::engine
