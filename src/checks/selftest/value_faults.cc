#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "checks/selftest/tensor_faults.h"
#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

// What is told by its look alone needs something to look at.
constexpr int64_t kEnoughToLookAt = 64;
constexpr int64_t kMatrixOfAdapter = 48;

// Rows of the tensor: all of them, or those of one part.
struct Region {
  std::string name;
  int part = -1;
};

class ValueFaults {
 public:
  ValueFaults(const FaultyTensor& tensor, std::vector<TensorFlaw>& out)
      : p_(tensor.parameter), rows_(tensor.rows), dtype_(tensor.dtype), out_(out) {
    columns_ = p_.shape.empty() || p_.shape[0] == 0 ? 1 : Numel(p_.shape) / p_.shape[0];
  }

  void Add() {
    if (Numel(p_.shape) < 2 || !RoundToBits(dtype_, 1.0)) return;
    const bool padded =
        std::find(rows_->padding.begin(), rows_->padding.end(), true) != rows_->padding.end();
    if (!padded) Everywhere({"", -1});
    for (size_t part = 0; rows_->parts.size() > 1 && part < rows_->parts.size(); ++part) {
      if (!rows_->padding[part]) Everywhere({rows_->parts[part] + ": ", static_cast<int>(part)});
    }
    Norm();
    if (Numel(p_.shape) < kEnoughToLookAt || padded) return;
    SomeRows();
    Scattered();
    Adapters();
  }

 private:
  // Element by element, in the rows of a region.
  void ForEach(std::string_view cause, std::string what, const Region& region,
               std::function<void(HeldTensor&, int64_t, Random&)> change, bool random = false) {
    out_.push_back({cause, region.name + std::move(what),
                    [region, change, rows = rows_, k = columns_](const HeldTensor& t, Random& r) {
                      HeldTensor out = t;
                      for (int64_t e = 0; e < t.numel(); ++e) {
                        const auto row = static_cast<size_t>(e / k);
                        if (region.part >= 0 && rows->rows[row].part != region.part) continue;
                        change(out, e, r);
                      }
                      return out;
                    },
                    random});
  }

  int64_t ElementsOf(const Region& region) const {
    if (region.part < 0) return Numel(p_.shape);
    return columns_ * std::count_if(rows_->rows.begin(), rows_->rows.end(),
                                    [&](const RowLabel& r) { return r.part == region.part; });
  }

  void Everywhere(const Region& region) {
    ForEach("zero-filled", "zeros", region,
            [](HeldTensor& t, int64_t e, Random&) { t.SetBits(e, 0); });
    ForEach("sign-flipped", "negative", region,
            [](HeldTensor& t, int64_t e, Random&) { t.SetValue(e, -t.Value(e)); });
    Rounded(region);
    const int64_t elements = ElementsOf(region);
    if (elements >= 16) {
      for (const double factor : {2.0, 0.5, 0.1, 1.7, std::sqrt(128.0), 1 / std::sqrt(96.0)}) {
        ForEach(
            "scaled", fmt::format("times {:.4g}", factor), region,
            [factor](HeldTensor& t, int64_t e, Random&) { t.SetValue(e, t.Value(e) * factor); });
      }
    }
    if (elements < kEnoughToLookAt) return;
    ForEach(
        "uninitialized", "fresh random values", region,
        [](HeldTensor& t, int64_t e, Random& r) { t.SetValue(e, 0.02 * PickNormal(r)); }, true);
    ForEach(
        "uninitialized", "ones", region,
        [](HeldTensor& t, int64_t e, Random&) { t.SetValue(e, 1); }, true);
    ForEach("not-finite", "NaN everywhere", region, [](HeldTensor& t, int64_t e, Random&) {
      t.SetValue(e, std::numeric_limits<double>::quiet_NaN());
    });
    ForEach(
        "stale", "an older step of training", region,
        [](HeldTensor& t, int64_t e, Random& r) {
          t.SetValue(e, t.Value(e) * (1 + 0.05 * PickNormal(r)));
        },
        true);
  }

  void Rounded(const Region& region) {
    for (const DType narrow : {DType::kBF16, DType::kF16, DType::kF8E4M3, DType::kF8E5M2}) {
      if (narrow == dtype_ || BitsOf(narrow) > BitsOf(dtype_)) continue;
      const bool bias = p_.rule->megatron.ends_with("router.expert_bias");
      ForEach(bias && BitsOf(narrow) == 16 ? "router-bias-rounded" : "dtype-rounded",
              fmt::format("through {}", ShortName(narrow)), region,
              [narrow](HeldTensor& t, int64_t e, Random&) {
                const auto bits = RoundToBits(narrow, t.Value(e));
                if (bits) t.SetValue(e, BitsToDouble(narrow, *bits));
              });
    }
  }

  void Norm() {
    const std::string& name = p_.rule->megatron;
    if (p_.shape.size() != 1) return;
    if (!name.ends_with("norm.weight") && !name.ends_with("norm_weight")) return;
    for (const double by : {1.0, -1.0}) {
      ForEach("norm-offset", by > 0 ? "1 added" : "1 subtracted", {},
              [by](HeldTensor& t, int64_t e, Random&) { t.SetValue(e, t.Value(e) + by); });
    }
  }

  // A stretch of rows.
  void SomeRows() {
    const auto add = [&](std::string_view cause, const std::string& what,
                         std::function<void(HeldTensor&, int64_t)> change) {
      out_.push_back({cause, what + " in some rows",
                      [change, k = columns_](const HeldTensor& t, Random& r) {
                        HeldTensor out = t;
                        const int64_t first = Pick(r, t.rows()),
                                      end = first + 1 + Pick(r, t.rows() - first);
                        for (int64_t e = first * k; e < end * k; ++e) change(out, e);
                        return out;
                      },
                      true});
    };
    add("zero-filled", "zeros", [](HeldTensor& t, int64_t e) { t.SetBits(e, 0); });
    add("not-finite", "NaN",
        [](HeldTensor& t, int64_t e) { t.SetValue(e, std::numeric_limits<double>::quiet_NaN()); });
  }

  // Single elements, here and there.
  void Scattered() {
    const auto add = [&](std::string_view cause, const std::string& what, int64_t most,
                         std::function<void(HeldTensor&, int64_t, Random&)> change) {
      out_.push_back({cause, what,
                      [change, most](const HeldTensor& t, Random& r) {
                        HeldTensor out = t;
                        for (int64_t left = 1 + Pick(r, most); left > 0; --left) {
                          change(out, Pick(r, t.numel()), r);
                        }
                        return out;
                      },
                      true});
    };
    const auto bits = BitsOf(dtype_);
    add("bit-flip", "bits", 3, [bits](HeldTensor& t, int64_t e, Random& r) {
      t.SetBits(e, t.Bits(e) ^ (uint64_t{1} << Pick(r, bits)));
    });
    add("not-finite", "infinities here and there", 20, [](HeldTensor& t, int64_t e, Random&) {
      t.SetValue(e, std::numeric_limits<double>::infinity());
    });
  }

  // W + factor * delta, delta of low rank: the sort of difference that an adapter makes.
  void Adapters() {
    if (p_.shape.size() != 2 || p_.shape[0] < kMatrixOfAdapter || columns_ < kMatrixOfAdapter) {
      return;
    }
    const auto add = [&](std::string_view cause, const std::string& what, double factor) {
      for (const int64_t rank : {1, 4, 8}) {
        out_.push_back({cause, fmt::format("{}, rank {}", what, rank),
                        [rank, factor](const HeldTensor& t, Random& r) {
                          return WithLowRank(t, rank, factor, r);
                        },
                        true});
      }
    };
    add("adapter-unmerged", "base instead of merged weights", -1);
    add("adapter-unmerged", "merged twice", 1);
    add("adapter-scale", "alpha / rank halved", -0.5);
    add("adapter-scale", "alpha not divided by the rank", 3);
  }

  static HeldTensor WithLowRank(const HeldTensor& t, int64_t rank, double factor, Random& random) {
    const int64_t n = t.rows(), k = t.columns();
    double squares = 0;
    for (int64_t e = 0; e < t.numel(); ++e) squares += t.Value(e) * t.Value(e);
    const double size = 0.3 * std::sqrt(squares / static_cast<double>(t.numel() * rank));
    std::vector<double> b(static_cast<size_t>(n * rank)), a(static_cast<size_t>(rank * k));
    for (double& x : b) x = PickNormal(random);
    for (double& x : a) x = PickNormal(random);
    HeldTensor out = t;
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t column = 0; column < k; ++column) {
        double delta = 0;
        for (int64_t i = 0; i < rank; ++i) {
          delta += b[static_cast<size_t>(row * rank + i)] * a[static_cast<size_t>(i * k + column)];
        }
        const int64_t e = row * k + column;
        out.SetValue(e, t.Value(e) + factor * size * delta);
      }
    }
    return out;
  }

  const Parameter& p_;
  const std::shared_ptr<const LabelledRows> rows_;
  const DType dtype_;
  std::vector<TensorFlaw>& out_;
  int64_t columns_ = 1;
};

}  // namespace

void AddValueFaults(const FaultyTensor& tensor, std::vector<TensorFlaw>& out) {
  ValueFaults(tensor, out).Add();
}

}  // namespace weighbridge
