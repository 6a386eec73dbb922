// Moving and comparing the bytes of a plan's runs: the inner loops of every check and conversion.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/result.h"
#include "formats/checkpoint.h"
#include "mapping/ops.h"
#include "mapping/plan.h"
#include "tensor/dtype.h"
#include "tensor/quantized.h"

namespace weighbridge {

// Copies a run's bytes from `source` (the start of a tensor) to `to`, contiguous.
void GatherRun(const Run& run, const std::byte* source, std::byte* to);
// Copies `from`, contiguous, to where a run's bytes are in `target` (the start of tensor
// run.other).
void ScatterRun(const Run& run, const std::byte* from, std::byte* target);
// Whether `block`, contiguous, holds a run's bytes.
bool EqualRun(const Run& run, const std::byte* source, const std::byte* block);

// What a plan's runs refer to on the other side: tensors of one dtype, by their first bytes. The
// values of a quantized one are made where a run asks for them.
struct Sources {
  std::vector<const std::byte*> starts;           // nullptr for a quantized tensor
  std::vector<const QuantizedTensor*> quantized;  // empty: none is; else per tensor, or nullptr
  DType dtype = DType::kF32;

  const std::byte* Data(int source) const { return starts[static_cast<size_t>(source)]; }
  const QuantizedTensor* Quantized(int source) const {
    return quantized.empty() ? nullptr : quantized[static_cast<size_t>(source)];
  }
  void Add(const std::byte* start, const QuantizedTensor* values);
};

// The same of the tensor that the run names.
void GatherRun(const Run& run, const Sources& sources, std::byte* to);
bool EqualRun(const Run& run, const Sources& sources, const std::byte* block);

// Whether two tensors of one dtype and shape have the same values, bit for bit.
bool EqualTensors(const Checkpoint& checkpoint, const TensorInfo& a, const TensorInfo& b);

// Fills `out` with bytes [begin, begin + out.size()) of what the plan walks; padding is zero.
void GatherBytes(const Plan& plan, const Sources& sources, int64_t begin, std::span<std::byte> out);
// Whether `block` is what GatherBytes would give, without a copy; padding is not looked at. Stops
// at the first difference.
bool EqualBytes(const Plan& plan, const Sources& sources, int64_t begin,
                std::span<const std::byte> block);

// Elements [begin, begin + out.size() / element size) of what the plan walks, after `op` and in
// `dtype`. `scratch` is reused between calls.
Status GatherElements(const Plan& plan, const Sources& sources, Op op, DType dtype, int64_t begin,
                      std::span<std::byte> out, std::vector<std::byte>& scratch);

}  // namespace weighbridge
