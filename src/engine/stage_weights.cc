#include "engine/stage_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "checks/moves.h"
#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

constexpr int64_t kMostTokens = 1 << 20;  // of a recording

// The values of a tensor: in place, or made from codes and scales.
TensorView ValuesOf(const Checkpoint& checkpoint, const TensorInfo& info, StageTensors& out) {
  const QuantizedTensor* quantized = checkpoint.Quantized(info);
  if (quantized == nullptr) return checkpoint.View(info);
  const std::span<std::byte> bytes = out.Own(info.nbytes);
  Sources sources;
  sources.Add(nullptr, quantized);
  sources.dtype = info.dtype;
  const Plan whole({Run{0, 0, 0, static_cast<int64_t>(info.nbytes)}});
  GatherBytes(whole, sources, 0, bytes);
  return {info.dtype, info.shape, bytes};
}

// What the plan walks, where it lies, when no run has to be joined with another.
std::optional<std::span<const std::byte>> InOnePiece(const ParameterBytes& parameter,
                                                     const Plan& plan, DType dtype,
                                                     uint64_t bytes) {
  const std::span<const Run> runs = plan.runs();
  if (parameter.op != Op::kNone || parameter.sources.dtype != dtype || runs.size() != 1 ||
      runs[0].count != 1 || runs[0].other == kZeroSource ||
      static_cast<uint64_t>(runs[0].length) != bytes ||
      parameter.sources.Quantized(runs[0].other) != nullptr) {
    return std::nullopt;
  }
  return std::span(parameter.sources.Data(runs[0].other) + runs[0].other_offset, bytes);
}

Error NoRecording(const std::string& path, std::string what) {
  return {ErrorKind::kInvalid, "recording", std::move(what), path,
          "a recording is a safetensors file with input_ids and hidden states; docs/compare.md "
          "says which"};
}

}  // namespace

std::span<std::byte> StageTensors::Own(uint64_t bytes) {
  const auto fits = std::find_if(free_.begin(), free_.end(),
                                 [&](const Buffer& buffer) { return buffer.size == bytes; });
  if (fits == free_.end()) {
    used_.push_back({std::make_unique_for_overwrite<std::byte[]>(bytes), bytes});
  } else {
    used_.push_back(std::move(*fits));
    free_.erase(fits);
  }
  return {used_.back().bytes.get(), bytes};
}

void StageTensors::Clear() {
  tensors.clear();
  // What the last stage had no use for is of another kind of layer.
  free_ = std::exchange(used_, {});
}

Status AddHfTensors(const Model& model, const Checkpoint& hf, StageId stage,
                    const std::string& side, nlohmann::json& spec, StageTensors& out) {
  WB_TRY(const std::vector<HfUse> uses, HfTensorsOf(model, stage, spec));
  for (const HfUse& use : uses) {
    const TensorInfo* info = hf.Find(use.tensor);
    if (info == nullptr) {
      return Corrupt("tensor-missing", "the model has no tensor of this name", use.tensor);
    }
    out.tensors.push_back({side + "." + use.role, ValuesOf(hf, *info, out)});
  }
  return {};
}

Status AddTensor(const ParameterBytes& parameter, const Plan& plan, const Shape& shape, DType dtype,
                 std::string name, std::vector<std::byte>& scratch, StageTensors& out) {
  const auto bytes = BytesFor(dtype, Numel(shape));
  if (!bytes) return Fail(ErrorKind::kUnsupported, "dtype", "a parameter of a packed dtype", name);
  if (const auto whole = InOnePiece(parameter, plan, dtype, *bytes)) {
    out.tensors.push_back({std::move(name), {dtype, shape, *whole}});
    return {};
  }
  const std::span<std::byte> values = out.Own(*bytes);
  WB_RETURN_IF_ERROR(
      GatherElements(plan, parameter.sources, parameter.op, dtype, 0, values, scratch));
  out.tensors.push_back({std::move(name), {dtype, shape, values}});
  return {};
}

Status AddMegatronTensors(const Model& model, const ParameterSource& source, StageId stage,
                          const std::string& side, StageTensors& out) {
  std::vector<std::byte> scratch;
  for (const MegatronUse& use : MegatronTensorsOf(model, stage)) {
    WB_TRY(const ParameterBytes parameter, source.Open(*use.parameter));
    WB_RETURN_IF_ERROR(AddTensor(parameter, parameter.plan, parameter.shape,
                                 source.StoredDType(*use.parameter), side + "." + use.role, scratch,
                                 out));
  }
  return {};
}

Result<Recording> Recording::Open(const std::string& path, const Model& model, bool of_hf) {
  Recording recording;
  recording.of_hf_ = of_hf;
  WB_TRY(std::unique_ptr<Checkpoint> file, OpenCheckpoint(path));
  const TensorInfo* ids = file->Find("input_ids");
  if (ids == nullptr || ids->dtype != DType::kI64 || ids->shape.size() != 2 ||
      Numel(ids->shape) < 1 || Numel(ids->shape) > kMostTokens) {
    return Fail(NoRecording(path, "it has no input_ids [batch, length] of int64"));
  }
  const std::span<const std::byte> bytes = file->Data(*ids);
  recording.ids_.assign(static_cast<size_t>(ids->shape[0]),
                        std::vector<int64_t>(static_cast<size_t>(ids->shape[1])));
  for (size_t row = 0; row < recording.ids_.size(); ++row) {
    const size_t length = recording.ids_[row].size() * sizeof(int64_t);
    std::memcpy(recording.ids_[row].data(), bytes.data() + row * length, length);
  }
  int64_t found = 0;
  const Shape hidden = of_hf ? Shape{ids->shape[0], ids->shape[1], model.dims().at("hidden")}
                             : Shape{ids->shape[1], ids->shape[0], model.dims().at("hidden")};
  for (int64_t layer = 0; layer <= model.layers(); ++layer) {
    const std::string name =
        of_hf ? fmt::format("hf_hidden_{}", layer) : fmt::format("meg_hidden_{}_sbh", layer);
    const TensorInfo* state = file->Find(name);
    if (state == nullptr) continue;
    ++found;
    if (state->shape != hidden || !IsFloat(state->dtype)) {
      return Fail(NoRecording(
          path, fmt::format("{} is {} {}, and {} is expected", name, ShortName(state->dtype),
                            ToString(state->shape), ToString(hidden))));
    }
  }
  for (int64_t layer = 1; !of_hf; ++layer) {
    const std::string name = fmt::format("meg_mtp_{}_sbh", layer);
    const TensorInfo* state = file->Find(name);
    if (state == nullptr) break;
    if (state->shape != hidden || !IsFloat(state->dtype)) {
      return Fail(NoRecording(path, fmt::format("{} is {}, and {} is expected", name,
                                                ToString(state->shape), ToString(hidden))));
    }
  }
  const std::string logits = of_hf ? "hf_logits" : "meg_logits";
  if (const TensorInfo* info = file->Find(logits)) {
    const Shape expected = {ids->shape[0], ids->shape[1], model.vocab()};
    if (info->shape != expected) {
      return Fail(NoRecording(path, fmt::format("{} is {}, and {} is expected", logits,
                                                ToString(info->shape), ToString(expected))));
    }
    ++found;
  }
  if (found == 0) {
    return Fail(NoRecording(path, fmt::format("it has neither hidden states nor logits of {}",
                                              of_hf ? "transformers" : "Megatron")));
  }
  recording.file_ = std::move(file);
  return recording;
}

void Recording::Add(StageId stage, int64_t layers, const std::string& side,
                    StageTensors& out) const {
  const auto add = [&](const std::string& name, const char* part) {
    const TensorInfo* info = file_->Find(name);
    if (info == nullptr) return;
    out.tensors.push_back({side + ".recorded." + part, file_->View(*info)});
  };
  const auto hidden = [&](int64_t i) {
    return of_hf_ ? fmt::format("hf_hidden_{}", i) : fmt::format("meg_hidden_{}_sbh", i);
  };
  if (stage.kind == StageKind::kEmbedding) add(hidden(0), "out");
  if (stage.kind == StageKind::kLayer) {
    add(hidden(stage.layer), "in");
    // The last state of transformers is the one after the final norm.
    if (!of_hf_ || stage.layer + 1 < layers) add(hidden(stage.layer + 1), "out");
  }
  if (stage.kind == StageKind::kMtp && !of_hf_) {
    add(fmt::format("meg_mtp_{}_sbh", stage.layer + 1), "out");
  }
  if (stage.kind == StageKind::kOutput) {
    if (of_hf_) add(hidden(layers), "final");
    add(of_hf_ ? "hf_logits" : "meg_logits", "logits");
  }
}

}  // namespace weighbridge
