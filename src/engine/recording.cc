#include "engine/recording.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>
#include <span>
#include <utility>

namespace weighbridge {
namespace {

constexpr int64_t kMostTokens = 1 << 20;
constexpr const char* kFinal = "meg_final_sbh";

Error NoRecording(const std::string& path, std::string what) {
  return {ErrorKind::kInvalid, "recording", std::move(what), path,
          "a recording is a safetensors file with input_ids and hidden states; docs/compare.md "
          "says which"};
}

std::string MtpName(int64_t layer) { return fmt::format("meg_mtp_{}_sbh", layer + 1); }

// "0-3, 7".
std::string Ranges(const std::vector<int64_t>& numbers) {
  std::vector<std::string> parts;
  for (size_t i = 0; i < numbers.size();) {
    size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    parts.push_back(last == i ? fmt::format("{}", numbers[i])
                              : fmt::format("{}-{}", numbers[i], numbers[last]));
    i = last + 1;
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace

Result<Recording> Recording::Open(const std::string& path, const Model& model, bool of_hf) {
  Recording recording;
  recording.of_hf_ = of_hf;
  recording.layers_ = model.layers();
  auto file = OpenCheckpoint(path);
  if (!file && file.error().kind == ErrorKind::kCorrupt) {
    return Fail(NoRecording(file.error().at.empty() ? path : file.error().at,
                            "the recording is damaged: " + file.error().what));
  }
  WB_TRY(recording.file_, std::move(file));
  WB_RETURN_IF_ERROR(recording.ReadIds(path));
  WB_RETURN_IF_ERROR(recording.CheckStates(path, model));
  return recording;
}

Status Recording::ReadIds(const std::string& path) {
  const TensorInfo* ids = file_->Find("input_ids");
  if (ids == nullptr || ids->dtype != DType::kI64 || ids->shape.size() != 2 ||
      Numel(ids->shape) < 1 || Numel(ids->shape) > kMostTokens) {
    return Fail(NoRecording(path, "it has no input_ids [batch, length] of int64"));
  }
  const std::span<const std::byte> bytes = file_->Data(*ids);
  ids_.assign(static_cast<size_t>(ids->shape[0]),
              std::vector<int64_t>(static_cast<size_t>(ids->shape[1])));
  for (size_t row = 0; row < ids_.size(); ++row) {
    const size_t length = ids_[row].size() * sizeof(int64_t);
    std::memcpy(ids_[row].data(), bytes.data() + row * length, length);
  }
  return {};
}

Status Recording::CheckStates(const std::string& path, const Model& model) const {
  const auto rows = static_cast<int64_t>(ids_.size());
  const auto length = static_cast<int64_t>(ids_.front().size());
  const int64_t width = model.dims().at("hidden");
  const Shape hidden = of_hf_ ? Shape{rows, length, width} : Shape{length, rows, width};
  int64_t found = 0;
  const auto check = [&](const std::string& name, const Shape& expected) -> Status {
    const TensorInfo* state = file_->Find(name);
    if (state == nullptr) return {};
    ++found;
    if (state->shape == expected && IsFloat(state->dtype)) return {};
    return Fail(NoRecording(
        path, fmt::format("{} is {} {}, and {} is expected", name, ShortName(state->dtype),
                          ToString(state->shape), ToString(expected))));
  };
  for (int64_t layer = 0; layer <= layers_; ++layer) {
    WB_RETURN_IF_ERROR(check(Hidden(layer), hidden));
  }
  WB_RETURN_IF_ERROR(check(Logits(), {rows, length, model.vocab()}));
  if (!of_hf_) {
    WB_RETURN_IF_ERROR(check(kFinal, hidden));
    for (int64_t layer = 0; Has(MtpName(layer)); ++layer) {
      WB_RETURN_IF_ERROR(check(MtpName(layer), hidden));
    }
  }
  if (Has(Hidden(layers_ + 1))) {
    return Fail(NoRecording(
        path, fmt::format("it has {}, and the model has {} layers", Hidden(layers_ + 1), layers_)));
  }
  if (found > 0) return {};
  return Fail(NoRecording(path, fmt::format("it has neither hidden states nor logits of {}",
                                            of_hf_ ? "transformers" : "Megatron")));
}

std::string Recording::Hidden(int64_t i) const {
  return of_hf_ ? fmt::format("hf_hidden_{}", i) : fmt::format("meg_hidden_{}_sbh", i);
}

bool Recording::IsJudged(int64_t layer) const {
  return (layer == 0 || Has(Hidden(layer))) && Has(Hidden(layer + 1));
}

void Recording::Add(StageId stage, const std::string& side, StageTensors& out) const {
  const auto add = [&](const std::string& name, const char* part) {
    const TensorInfo* info = file_->Find(name);
    if (info == nullptr) return;
    out.tensors.push_back({side + ".recorded." + part, file_->View(*info)});
  };
  switch (stage.kind) {
    case StageKind::kEmbedding:
      add(Hidden(0), "out");
      break;
    case StageKind::kLayer:
      add(Hidden(stage.layer), "in");
      // The last state of transformers is the one after the final norm.
      if (of_hf_ && stage.layer + 1 == layers_) break;
      if (IsJudged(stage.layer)) add(Hidden(stage.layer + 1), "out");
      break;
    case StageKind::kMtp:
      if (of_hf_) break;
      if (stage.layer == 0) add(Hidden(layers_), "in");
      if (Has(stage.layer == 0 ? Hidden(layers_) : MtpName(stage.layer - 1))) {
        add(MtpName(stage.layer), "out");
      }
      break;
    case StageKind::kOutput:
      if (!of_hf_) add(Hidden(layers_), "in");
      add(of_hf_ ? Hidden(layers_) : kFinal, "final");
      add(Logits(), "logits");
      break;
  }
}

std::string Recording::Lacking() const {
  std::vector<int64_t> states, layers;
  for (int64_t i = 0; i <= layers_; ++i) {
    if (!Has(Hidden(i)) && i > 0) states.push_back(i);
  }
  for (int64_t layer = 0; layer < layers_; ++layer) {
    if (!IsJudged(layer)) layers.push_back(layer);
  }
  std::vector<std::string> what;
  if (!states.empty()) what.push_back(fmt::format("hidden states {}", Ranges(states)));
  if (!Has(Logits())) what.push_back("logits");
  if (what.empty()) return "";
  std::vector<std::string> judged;
  if (!layers.empty()) judged.push_back("layers " + Ranges(layers));
  if (of_hf_ && !Has(Hidden(layers_))) judged.emplace_back("the final norm");
  if (!Has(Logits())) judged.emplace_back("the output layer");
  return fmt::format("the recording of {} has no {}: {} were not judged by it",
                     of_hf_ ? "transformers" : "Megatron", fmt::join(what, ", "),
                     fmt::join(judged, " and "));
}

}  // namespace weighbridge
