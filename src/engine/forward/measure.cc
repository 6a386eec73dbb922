#include "engine/forward/measure.h"

#include <algorithm>
#include <cmath>

namespace weighbridge::engine {
namespace {

using at::Tensor;

// Blocks that stay in the cache of a core.
constexpr int64_t kElementsPerBlock = 1 << 15;

double Sum(const Tensor& x) { return x.sum().item<double>(); }
double Largest(const Tensor& x) { return x.numel() == 0 ? 0 : x.max().item<double>(); }

// Everything but the last axis counts as tokens.
Tensor Rows(const Tensor& x) { return x.dim() == 2 ? x : x.reshape({-1, x.size(-1)}); }

template <typename Visit>
void VisitBlocks(const Tensor& a, const Visit& visit) {
  const int64_t rows = a.size(0), width = std::max<int64_t>(a.size(1), 1);
  // A device is quicker with all at once.
  const int64_t each = a.is_cpu() ? std::max<int64_t>(1, kElementsPerBlock / width) : rows;
  for (int64_t begin = 0; begin < rows; begin += each) visit(begin, std::min(each, rows - begin));
}

int MantissaBits(at::ScalarType dtype) {
  if (dtype == at::kBFloat16) return 7;
  return dtype == at::kHalf ? 10 : 23;
}

}  // namespace

void TokenDistance::Add(int64_t begin, const Tensor& apart, const Tensor& size) {
  const Tensor a = apart.cpu(), s = size.cpu();
  const auto end = static_cast<size_t>(begin + a.numel());
  if (apart_.size() < end) {
    apart_.resize(end);
    size_.resize(end);
  }
  for (int64_t i = 0; i < a.numel(); ++i) {
    apart_[static_cast<size_t>(begin + i)] += a.const_data_ptr<double>()[i];
    size_[static_cast<size_t>(begin + i)] += s.const_data_ptr<double>()[i];
  }
}

Tensor TokenDistance::Relative() const {
  return at::tensor(apart_) / at::tensor(size_).clamp_min(1e-300);
}

void Measure::AddErrors(const Tensor& candidate, const Tensor& reference, const Tensor& truth) {
  const Tensor of_candidate = (candidate.to(at::kDouble) - truth).abs();
  const Tensor of_reference = (reference.to(at::kDouble) - truth).abs();
  measured_ += static_cast<double>(truth.numel());
  outputs_ += Sum(truth.square());
  peak_ = std::max(peak_, Largest(truth.abs()));
  candidate_ += Sum(of_candidate.square());
  reference_ += Sum(of_reference.square());
  candidate_max_ = std::max(candidate_max_, Largest(of_candidate));
  reference_max_ = std::max(reference_max_, Largest(of_reference));
}

void Measure::AddDifference(const Tensor& candidate, const Tensor& reference,
                            TokenDistance* by_token) {
  VisitBlocks(candidate, [&](int64_t begin, int64_t count) {
    const Tensor c = candidate.narrow(0, begin, count).to(at::kDouble);
    const Tensor r = reference.narrow(0, begin, count).to(at::kDouble);
    const Tensor apart = (c - r).abs();
    const Tensor size = r.square().sum(-1);
    const double norm = Sum(c.square());
    if (by_token != nullptr) by_token->Add(begin, apart.square().sum(-1), size);
    max_diff_ = std::max(max_diff_, Largest(apart));
    sum_diff_ += Sum(apart);
    dot_ += Sum(c * r);
    norm_a_ += norm;
    norm_b_ += Sum(size);
    if (std::isfinite(norm)) return;
    nan_ += c.isnan().sum().item<int64_t>();
    inf_ += c.isinf().sum().item<int64_t>();
  });
  elements_ += static_cast<double>(candidate.numel());
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

double Measure::ratio() const {
  return std::sqrt(candidate_ / std::max(measured_, 1.0)) / Floor();
}

double Measure::max_ratio() const { return candidate_max_ / std::max(reference_max_, Ulp(peak_)); }

double Measure::reference_error() const {
  return outputs_ > 0 ? std::sqrt(reference_ / outputs_) : std::sqrt(reference_);
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
          {"max_diff", max_diff_},
          {"mean_diff", sum_diff_ / std::max(elements_, 1.0)},
          {"cosine", norms > 0 ? dot_ / norms : 1.0},
          {"nan_count", nan_},
          {"inf_count", inf_}};
}

}  // namespace weighbridge::engine
