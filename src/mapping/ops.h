// Operations that change values. Every transform moves bytes; an op is applied to the moved
// elements. Only runs with Op::kNone are copied or compared as bytes.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

#include "base/result.h"
#include "tensor/dtype.h"

namespace weighbridge {

enum class Op { kNone, kAddOne, kSubOne };  // Megatron = HF, HF + 1, HF - 1

// Exact: the inverse restores every bit. Rounded: it restores the correctly rounded value only.
enum class Invertibility { kExact, kRounded };

std::string_view ToString(Op op);  // "none", "add_one", "sub_one"
std::optional<Op> ParseOp(std::string_view name);
Op Inverse(Op op);

// Whether HF -> Megatron -> HF restores every bit for `op` together with the cast from -> to.
Invertibility InvertibilityOf(Op op, DType from, DType to);

// to[i] = round(op(from[i])), correctly rounded (nearest, ties to even) into dtype `to_dtype`.
// Equal dtypes with Op::kNone are copied bit for bit. An 8-bit float holds NaN or infinity for what
// is beyond it, as torch's .to() gives. kUnsupported for dtypes that are not f64, f32, f16 or bf16,
// or to 8-bit floats, which are compared with and never converted from.
Status Apply(Op op, DType from_dtype, std::span<const std::byte> from, DType to_dtype,
             std::span<std::byte> to);

}  // namespace weighbridge
