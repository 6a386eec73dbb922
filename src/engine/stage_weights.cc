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

}  // namespace weighbridge
