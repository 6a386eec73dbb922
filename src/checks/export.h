// `export`: a distributed Megatron checkpoint -> Hugging Face safetensors.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "checks/left_out.h"
#include "checks/parameter_source.h"
#include "family/model.h"
#include "formats/checkpoint.h"
#include "formats/megatron_checkpoint.h"
#include "formats/safetensors/writer.h"

namespace weighbridge {

// An HF tensor that the export will have.
struct ExportTensor {
  TensorInfo info;  // name, dtype, shape
  // A copy of another (tied output layer): the tensor whose bytes it has; "" for most.
  std::string same_as;
  // Of `like`, where weights are quantized: `info` is the tensor of codes, made under like's scales
  // from the values that the model calls `values`; or a tensor whose bytes are like's.
  const QuantizedTensor* quantized = nullptr;
  std::string values;
  const TensorInfo* copied = nullptr;
};

// Points into the model and the Megatron checkpoint that it was made from.
struct ExportPlan {
  MegatronParameters source;
  std::vector<ExportTensor> tensors;
  const Checkpoint* like = nullptr;  // whose scales and bytes are taken
  // Tensors that the model has and that are not made; without `like` the parts that it may have.
  std::vector<LeftOut> left_out;
};

struct ExportOptions {
  std::optional<DType> dtype;  // of all weights but those that stay float32; nullopt: as stored
  bool without_mtp = false;
  int threads = 0;                               // 0: as many as the process may use
  int64_t memory_bytes = 64 << 20;               // blocks in flight, over all threads
  std::function<void(uint64_t bytes)> progress;  // called from any thread
  std::function<Status()> proceed;  // asked before each piece, from any thread; its error ends it
};

// Names, shapes and dtypes of what an export writes: every HF tensor that the model needs. With
// `like`, an existing HF checkpoint of the same model, its dtypes, its order, its copies of tied
// tensors, and its scales of quantized weights are kept. Errors: kCorrupt with a cause id when the
// Megatron checkpoint lacks a parameter or has another shape; kInvalid when `like` is of another
// model.
Result<ExportPlan> PlanExport(const Model& model, const MegatronCheckpoint& megatron,
                              const Checkpoint* like, const ExportOptions& options);

// Writes the tensors of the files that `writer`, planned from plan.tensors in their order, does not
// leave alone, file after file. They are finished then; the index (writer.Finish()) is the
// caller's. Returns what the scales of plan.like could not hold.
Result<RequantizeCounts> Export(const Model& model, const ExportPlan& plan,
                                const ExportOptions& options, SafetensorsWriter& writer);

}  // namespace weighbridge
