#include "mapping/ops.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

bool Computes(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 ||
         dtype == DType::kBF16;
}

bool Holds(DType dtype) { return RoundToBits(dtype, 0).has_value(); }

// x + y for a later rounding to `to`. Where the sum is not exact in double and will be rounded
// again, it is rounded to odd here: then the second rounding is that of the exact sum.
double Sum(double x, double y, DType to) {
  const double sum = x + y;
  if (to == DType::kF64 || !std::isfinite(sum)) return sum;
  const double part = sum - x;
  const double error = (x - (sum - part)) + (y - part);
  uint64_t bits;
  std::memcpy(&bits, &sum, sizeof(bits));
  if (error == 0 || bits % 2 != 0) return sum;
  return std::nextafter(sum, error > 0 ? HUGE_VAL : -HUGE_VAL);
}

double Evaluate(Op op, double x, DType to) {
  switch (op) {
    case Op::kNone:
      return x;
    case Op::kAddOne:
      return Sum(x, 1.0, to);
    case Op::kSubOne:
      return Sum(x, -1.0, to);
  }
  return x;
}

// Every value of `from` is a value of `to`.
bool Widens(DType from, DType to) {
  if (from == to) return true;
  if (to == DType::kF64) return Computes(from);
  return to == DType::kF32 && (from == DType::kBF16 || from == DType::kF16);
}

}  // namespace

std::string_view ToString(Op op) {
  switch (op) {
    case Op::kNone:
      return "none";
    case Op::kAddOne:
      return "add_one";
    case Op::kSubOne:
      return "sub_one";
  }
  return "";
}

std::optional<Op> ParseOp(std::string_view name) {
  for (Op op : {Op::kNone, Op::kAddOne, Op::kSubOne}) {
    if (ToString(op) == name) return op;
  }
  return std::nullopt;
}

Op Inverse(Op op) {
  if (op == Op::kAddOne) return Op::kSubOne;
  return op == Op::kSubOne ? Op::kAddOne : Op::kNone;
}

Invertibility InvertibilityOf(Op op, DType from, DType to) {
  return op == Op::kNone && Widens(from, to) ? Invertibility::kExact : Invertibility::kRounded;
}

Status Apply(Op op, DType from_dtype, std::span<const std::byte> from, DType to_dtype,
             std::span<std::byte> to) {
  if (op == Op::kNone && from_dtype == to_dtype) {
    std::memcpy(to.data(), from.data(), from.size());
    return {};
  }
  if (!Computes(from_dtype) || !Holds(to_dtype)) {
    return Fail(ErrorKind::kUnsupported, "dtype",
                fmt::format("op {} from {} to {} is not defined", ToString(op),
                            ShortName(from_dtype), ShortName(to_dtype)));
  }
  const size_t from_size = static_cast<size_t>(BitsOf(from_dtype)) / 8;
  const size_t to_size = static_cast<size_t>(BitsOf(to_dtype)) / 8;
  const size_t n = from.size() / from_size;
  for (size_t i = 0; i < n; ++i) {
    const double value = Evaluate(op, ElementToDouble(from_dtype, from.data(), i), to_dtype);
    const uint64_t bits = *RoundToBits(to_dtype, value);
    std::memcpy(to.data() + i * to_size, &bits, to_size);
  }
  return {};
}

}  // namespace weighbridge
