#include "checks/diagnose/value_changes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

constexpr int64_t kEnoughValues = 8;

double Applied(Op op, double x) {
  if (op == Op::kAddOne) return x + 1.0;
  return op == Op::kSubOne ? x - 1.0 : x;
}

ValueChange Shifted(const ValueForm& form, double by, std::string what) {
  return {"norm-offset", std::move(what),
          [to = form.to, by](double x) { return RoundToBits(to, x + by); }};
}

void AddNormOffsets(const ValueForm& form, std::vector<ValueChange>& out) {
  switch (form.op) {
    case Op::kNone:
      out.push_back(Shifted(form, 1, "1 added"));
      out.push_back(Shifted(form, -1, "1 subtracted"));
      out.push_back(Shifted(form, 2, "1 added twice"));
      out.push_back(Shifted(form, -2, "1 subtracted twice"));
      break;
    case Op::kSubOne:
      out.push_back(Shifted(form, 0, "1 not subtracted"));
      out.push_back(Shifted(form, -2, "1 subtracted twice"));
      out.push_back(Shifted(form, 1, "1 added where it had to be subtracted"));
      break;
    case Op::kAddOne:
      out.push_back(Shifted(form, 0, "1 not added"));
      out.push_back(Shifted(form, 2, "1 added twice"));
      out.push_back(Shifted(form, -1, "1 subtracted where it had to be added"));
      break;
  }
}

void AddRoundings(const ValueForm& form, std::vector<ValueChange>& out) {
  constexpr std::array kNarrow = {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3,
                                  DType::kF8E5M2};
  for (DType through : kNarrow) {
    if (through == form.to || through == form.from) continue;
    if (BitsOf(through) > std::min(BitsOf(form.to), BitsOf(form.from))) continue;
    const bool bias = form.router_bias && BitsOf(through) == 16;
    out.push_back({bias ? "router-bias-rounded" : "dtype-rounded",
                   fmt::format("values went through {}", ShortName(through)),
                   [form, through](double x) -> std::optional<uint64_t> {
                     const auto narrow = RoundToBits(through, Applied(form.op, x));
                     return narrow ? RoundToBits(form.to, BitsToDouble(through, *narrow))
                                   : std::nullopt;
                   }});
    if (form.op == Op::kNone) continue;
    out.push_back({"dtype-rounded", fmt::format("values went through {}", ShortName(through)),
                   [form, through](double x) -> std::optional<uint64_t> {
                     const auto narrow = RoundToBits(through, x);
                     return narrow ? RoundToBits(form.to,
                                                 Applied(form.op, BitsToDouble(through, *narrow)))
                                   : std::nullopt;
                   }});
  }
}

// float32 cut to the 16 bits of bf16.
void AddCutting(const ValueForm& form, std::vector<ValueChange>& out) {
  if (form.from != DType::kF32 || (form.to != DType::kF32 && form.to != DType::kBF16)) return;
  out.push_back({"dtype-rounded", "values went through bf16, cut and not rounded",
                 [form](double x) -> std::optional<uint64_t> {
                   const auto bits = RoundToBits(DType::kF32, Applied(form.op, x));
                   if (!bits) return std::nullopt;
                   return form.to == DType::kF32 ? *bits & 0xffff0000 : *bits >> 16;
                 }});
}

// The Hugging Face side is the narrower one: its values are Megatron's rounded.
void AddNarrowerSource(const ValueForm& form, std::vector<ValueChange>& out) {
  if (BitsOf(form.from) >= BitsOf(form.to) || !RoundToBits(form.from, 1.0)) return;
  const double undo = form.op == Op::kSubOne ? 1 : form.op == Op::kAddOne ? -1 : 0;
  ValueChange change{
      "dtype-rounded",
      fmt::format("Hugging Face's values are Megatron's rounded to {}", ShortName(form.from)),
      [](double) { return std::optional<uint64_t>(); }};
  change.holds = [form, undo](double x, uint64_t found) {
    const auto bits = RoundToBits(form.from, BitsToDouble(form.to, found) + undo);
    return bits && BitsToDouble(form.from, *bits) == x;
  };
  out.push_back(std::move(change));
}

// A cast that keeps to the largest value where torch's gives NaN or infinity.
void AddClipping(const ValueForm& form, std::vector<ValueChange>& out) {
  if (BitsOf(form.to) != 8) return;
  const uint64_t largest_bits = form.to == DType::kF8E4M3 ? 0x7e : 0x7b;
  if (form.to != DType::kF8E4M3 && form.to != DType::kF8E5M2) return;
  const double largest = BitsToDouble(form.to, largest_bits);
  out.push_back({"dtype-rounded",
                 fmt::format("values rounded to {}, those beyond {} clipped to it",
                             ShortName(form.to), largest),
                 [form, largest](double x) {
                   return RoundToBits(form.to, std::clamp(Applied(form.op, x), -largest, largest));
                 }});
}

}  // namespace

std::vector<ValueChange> KnownValueChanges(const ValueForm& form) {
  std::vector<ValueChange> out;
  if (!RoundToBits(form.to, 1.0) || !IsFloat(form.from)) return out;
  ValueChange zeros{"zero-filled", "zeros", [](double) { return std::optional<uint64_t>(0); }};
  zeros.holds = [to = form.to](double, uint64_t found) { return BitsToDouble(to, found) == 0; };
  out.push_back(std::move(zeros));
  if (form.norm) AddNormOffsets(form, out);
  out.push_back({"sign-flipped", "multiplied by -1",
                 [form](double x) { return RoundToBits(form.to, -Applied(form.op, x)); }});
  AddRoundings(form, out);
  AddCutting(form, out);
  AddNarrowerSource(form, out);
  AddClipping(form, out);
  return out;
}

bool ScaleInterval::Add(double value, uint64_t found) {
  const double a = BitsToDouble(dtype_, found);
  if (!std::isfinite(value) || !std::isfinite(a)) return false;
  if (value == 0) return a == 0;
  const uint64_t sign = uint64_t{1} << (BitsOf(dtype_) - 1);
  const uint64_t magnitude = found & ~sign;
  // What is rounded to a: up to half way to its neighbours.
  const double size = std::fabs(a);
  const double above = BitsToDouble(dtype_, magnitude + 1);
  const double below = magnitude == 0 ? -above : BitsToDouble(dtype_, magnitude - 1);
  if (!std::isfinite(above)) return false;
  double from = (size + below) / 2 / std::fabs(value), to = (size + above) / 2 / std::fabs(value);
  if ((a < 0) != (value < 0) && a != 0) {
    std::swap(from, to);
    from = -from;
    to = -to;
  }
  if (a == 0) from = -to;
  // A quotient is not exact.
  const double slack = 4e-16 * std::max(std::fabs(from), std::fabs(to));
  from -= slack;
  to += slack;
  low_ = seen_ == 0 ? from : std::max(low_, from);
  high_ = seen_ == 0 ? to : std::min(high_, to);
  ++seen_;
  return low_ <= high_;
}

std::optional<double> ScaleInterval::Constant() const {
  if (seen_ < kEnoughValues || low_ > high_ || (low_ <= 0 && high_ >= 0)) return std::nullopt;
  return (low_ + high_) / 2;
}

}  // namespace weighbridge
