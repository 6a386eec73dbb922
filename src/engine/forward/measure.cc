#include "engine/forward/measure.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "engine/forward/row_sums.h"

namespace weighbridge::engine {
namespace {

using at::Tensor;

// Everything but the last axis counts as tokens.
Tensor Rows(const Tensor& x) { return x.dim() == 2 ? x : x.reshape({-1, x.size(-1)}); }

template <typename B>
std::vector<RowSums> SumsOnCpu(const Tensor& a, const Tensor& b) {
  const Tensor x = a.contiguous(), y = b.contiguous();
  const int64_t rows = x.size(0), width = x.size(1);
  const auto* first = x.const_data_ptr<float>();
  const B* second = y.const_data_ptr<B>();
  std::vector<RowSums> out(static_cast<size_t>(rows));
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      out[static_cast<size_t>(row)] = SumsOfRow(first + row * width, second + row * width, width);
    }
  });
  return out;
}

std::vector<RowSums> SumsOnDevice(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(at::kDouble), y = b.to(at::kDouble), apart = (x - y).abs();
  const Tensor sums =
      at::stack({apart.sum(-1), apart.square().sum(-1), apart.pow(4).sum(-1), apart.amax(-1),
                 (x * y).sum(-1), x.square().sum(-1), y.square().sum(-1), y.abs().amax(-1)},
                -1)
          .cpu();
  std::vector<RowSums> out;
  const double* at = sums.const_data_ptr<double>();
  for (int64_t row = 0; row < sums.size(0); ++row, at += 8) {
    out.push_back({at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7]});
  }
  return out;
}

// Of two outputs [tokens, width]; `b` in float64 where it is a truth.
std::vector<RowSums> SumsOf(const Tensor& a, const Tensor& b) {
  if (a.numel() == 0) return {};
  if (!a.is_cpu()) return SumsOnDevice(a, b);
  const Tensor x = a.to(at::kFloat);
  if (b.scalar_type() == at::kDouble) return SumsOnCpu<double>(x, b);
  return SumsOnCpu<float>(x, b.to(at::kFloat));
}

int MantissaBits(at::ScalarType dtype) {
  if (dtype == at::kBFloat16) return 7;
  return dtype == at::kHalf ? 10 : 23;
}

}  // namespace

void TokenDistance::Add(size_t token, double apart, double size, double largest) {
  if (apart_.size() <= token) {
    apart_.resize(token + 1);
    size_.resize(token + 1);
    largest_.resize(token + 1);
  }
  apart_[token] += apart;
  size_[token] += size;
  largest_[token] = LargerOf(largest_[token], largest);
}

Tensor TokenDistance::Relative() const {
  return at::tensor(apart_) / at::tensor(size_).clamp_min(1e-300);
}

Tensor TokenDistance::Peaks() const {
  return at::tensor(largest_).square() / at::tensor(size_).clamp_min(1e-300);
}

void Measure::AddErrors(const Tensor& candidate, const Tensor& reference, const Tensor& truth) {
  for (const RowSums& row : SumsOf(candidate, truth)) {
    candidate_ += row.apart_squared;
    candidate_fourth_ += row.apart_fourth;
    candidate_max_ = LargerOf(candidate_max_, row.largest);
  }
  for (const RowSums& row : SumsOf(reference, truth)) {
    reference_ += row.apart_squared;
    reference_fourth_ += row.apart_fourth;
    reference_max_ = LargerOf(reference_max_, row.largest);
    outputs_ += row.second;
    peak_ = std::max(peak_, row.peak);
  }
  measured_ += static_cast<double>(truth.numel());
}

void Measure::AddDifference(const Tensor& candidate, const Tensor& reference,
                            TokenDistance* by_token) {
  size_t token = 0;
  bool finite = true;
  for (const RowSums& row : SumsOf(candidate, reference)) {
    // The largest of what are numbers; the others are counted.
    if (!std::isnan(row.largest)) max_diff_ = std::max(max_diff_, row.largest);
    sum_diff_ += row.apart;
    dot_ += row.product;
    norm_a_ += row.first;
    norm_b_ += row.second;
    finite = finite && std::isfinite(row.first);
    if (by_token != nullptr) by_token->Add(token, row.apart_squared, row.second, row.largest);
    ++token;
  }
  elements_ += static_cast<double>(candidate.numel());
  if (finite) return;
  nan_ += candidate.isnan().sum().item<int64_t>();
  inf_ += candidate.isinf().sum().item<int64_t>();
}

void Measure::Add(const Tensor& candidate, const Tensor& reference, const Tensor& truth) {
  AddErrors(Rows(candidate), Rows(reference), Rows(truth));
  AddDifference(Rows(candidate), Rows(reference));
}

// The distance between numbers of this size.
double Measure::Ulp(double value) const {
  const int exponent = value > 0 && std::isfinite(value) ? std::ilogb(value) : -126;
  return std::ldexp(1.0, exponent - MantissaBits(dtype_));
}

double Measure::Floor() const {
  const double n = std::max(measured_, 1.0);
  return std::max(std::sqrt(reference_ / n), Ulp(std::sqrt(outputs_ / n)));
}

double Measure::ratio() const { return std::sqrt(candidate_ / std::max(measured_, 1.0)) / Floor(); }

double Measure::max_ratio() const { return candidate_max_ / std::max(reference_max_, Ulp(peak_)); }

double Measure::reference_error() const {
  return outputs_ > 0 ? std::sqrt(reference_ / outputs_) : std::sqrt(reference_);
}

bool Measure::concentrated() const {
  // Of n equal errors the square of the sum of squares is n times the sum of fourth powers.
  constexpr double kFew = 16;
  const auto in_few = [](double squares, double fourth) {
    return squares > 0 && squares * squares < kFew * fourth;
  };
  return in_few(candidate_, candidate_fourth_) && in_few(reference_, reference_fourth_);
}

nlohmann::json Measure::ToJson() const {
  const double n = std::max(measured_, 1.0);
  const double norms = std::sqrt(norm_a_ * norm_b_);
  return {{"elements", static_cast<int64_t>(elements_)},
          {"measured", static_cast<int64_t>(measured_)},
          {"rms", std::sqrt(outputs_ / n)},
          {"candidate_error", std::sqrt(candidate_ / n)},
          {"reference_error", std::sqrt(reference_ / n)},
          {"floor", Floor()},
          {"ratio", ratio()},
          {"max_ratio", max_ratio()},
          {"reference_max", reference_max_},
          {"concentrated", concentrated()},
          {"max_diff", max_diff_},
          {"mean_diff", sum_diff_ / std::max(elements_, 1.0)},
          {"cosine", norms == 0 ? 1.0 : dot_ / norms},
          {"nan_count", nan_},
          {"inf_count", inf_}};
}

}  // namespace weighbridge::engine
