// The scales of quantized weights, judged by themselves: a scale that is no number makes a block of
// weights that are none, however well the bytes were moved. So do scales that are all zero, and
// codes that are all NaN.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/result.h"
#include "checks/result.h"
#include "formats/checkpoint.h"
#include "mapping/ops.h"
#include "tensor/quantized.h"

namespace weighbridge {

struct ScaleJudgement {
  std::map<std::string, std::string> faults;  // tensor -> why it fails
  std::vector<Cause> causes;                  // "scale-invalid", or none
  std::vector<Note> notes;                    // zeros, negative ones, what a code cannot be told by
};

// Reads every scale of `hf`.
Result<ScaleJudgement> JudgeScales(const Checkpoint& hf, int threads);

// Marks a row as a mismatch when a Hugging Face tensor of it has a fault.
void TakeScaleFaults(const ScaleJudgement& scales, ResultRow& row);

// What to say of a tensor that holds packed codes where values of shape `values` are expected;
// nullopt where it cannot be that.
std::optional<std::string> PackedText(DType dtype, const Shape& stored, const Shape& values);
inline constexpr const char* kPackedHint =
    "quantized codes without their scales: unpack and dequantize while converting, and keep "
    "quantization_config and the scales beside codes";

// What happens to the values of an HF tensor on the way, for ResultRow::op: "none",
// "dequantize fp8", "cast bf16 -> fp32".
std::string OpText(const QuantizedTensor* quantized, Op op, DType from, DType to);

}  // namespace weighbridge
