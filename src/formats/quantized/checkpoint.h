// A checkpoint with quantized weights, seen as the values that they stand for: every quantized
// tensor has the name, shape and dtype of its values, and the scales are gone. Which tensors are
// quantized, and how, the files say (names and dtypes); the config gives the size of blocks and the
// dtype of the values.
#pragma once

#include <memory>

#include "base/result.h"
#include "formats/checkpoint.h"
#include "formats/quantized/config.h"

namespace weighbridge {

// Returns `stored` itself where the config is plain and nothing in it is quantized. A tensor that
// cannot be used has a Fault(): "scale-missing", "scale-invalid" (its dtype), "shape-mismatch" (of
// scale and codes), "quantization-config" (the config says otherwise of it, or nothing at all; or
// it is plain where the config has it quantized). A scale that belongs to no tensor stays, as a
// tensor. Errors: kUnsupported "quantized" for GPTQ, AWQ and packed weights in another order;
// kCorrupt "duplicate-name" for a weight that is there quantized and plain, "quantization-config"
// where the config promises quantized weights and there are none.
Result<std::unique_ptr<Checkpoint>> ShowValues(std::unique_ptr<Checkpoint> stored,
                                               const QuantizationConfig& config);

// Whether a name ends like one of the tensors that belong to a quantized weight.
bool LooksLikeScale(std::string_view name);

}  // namespace weighbridge
