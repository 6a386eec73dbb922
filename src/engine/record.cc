#include "engine/record.h"

#include <cstring>
#include <span>
#include <utility>

#include "base/atomic_output.h"
#include "formats/safetensors/writer.h"

namespace weighbridge {
namespace {

TensorInfo InfoOf(std::string name, DType dtype, Shape shape, uint64_t nbytes) {
  TensorInfo info;
  info.name = std::move(name);
  info.dtype = dtype;
  info.shape = std::move(shape);
  info.nbytes = nbytes;
  return info;
}

template <typename T>
std::vector<std::byte> BytesOf(std::span<const T> values) {
  const auto bytes = std::as_bytes(values);
  return {bytes.begin(), bytes.end()};
}

// [b, s, h] as [s, b, h].
std::vector<float> SequenceFirst(const EngineSession::State& state) {
  const auto b = static_cast<size_t>(state.shape[0]), s = static_cast<size_t>(state.shape[1]);
  const auto h = static_cast<size_t>(state.shape[2]);
  std::vector<float> out(state.values.size());
  for (size_t i = 0; i < b; ++i) {
    for (size_t j = 0; j < s; ++j) {
      std::memcpy(&out[(j * b + i) * h], &state.values[(i * s + j) * h], h * sizeof(float));
    }
  }
  return out;
}

}  // namespace

Result<std::unique_ptr<ActivationWriter>> ActivationWriter::Create(
    const std::filesystem::path& path, bool overwrite) {
  // What cannot be written is said before the model runs; the file itself appears at the end.
  PublishOptions options;
  options.overwrite = overwrite;
  WB_TRY(const AtomicFile probe, AtomicFile::Create(path, options));
  return std::unique_ptr<ActivationWriter>(new ActivationWriter(path, overwrite));
}

void ActivationWriter::AddIds(const std::vector<std::vector<int64_t>>& ids) {
  std::vector<int64_t> flat;
  for (const std::vector<int64_t>& row : ids) flat.insert(flat.end(), row.begin(), row.end());
  bytes_.push_back(BytesOf(std::span<const int64_t>(flat)));
  tensors_.push_back(
      InfoOf("input_ids", DType::kI64,
             {static_cast<int64_t>(ids.size()), static_cast<int64_t>(ids.front().size())},
             bytes_.back().size()));
}

Status ActivationWriter::Add(const std::string& name, const EngineSession::State& state,
                             bool sequence_first) {
  Shape shape = state.shape;
  if (sequence_first && shape.size() == 3) {
    std::swap(shape[0], shape[1]);
    const std::vector<float> turned = SequenceFirst(state);
    bytes_.push_back(BytesOf(std::span<const float>(turned)));
  } else {
    bytes_.push_back(BytesOf(std::span<const float>(state.values)));
  }
  tensors_.push_back(InfoOf(name, DType::kF32, std::move(shape), bytes_.back().size()));
  return {};
}

Status ActivationWriter::Finish() {
  PublishOptions options;
  options.overwrite = overwrite_;
  WB_TRY(AtomicFile file, AtomicFile::Create(path_, options));
  SafetensorsWriteOptions write;
  write.max_shard_bytes = UINT64_MAX;
  WB_TRY(SafetensorsPlan plan, PlanSafetensors(tensors_, write));
  WB_TRY(SafetensorsWriter writer, SafetensorsWriter::CreateFile(file.partial(), std::move(plan)));
  for (size_t i = 0; i < bytes_.size(); ++i) {
    WB_RETURN_IF_ERROR(writer.Write(i, 0, bytes_[i]));
  }
  WB_RETURN_IF_ERROR(writer.FinishFiles());
  WB_TRY([[maybe_unused]] const Publication published, file.Commit());
  return {};
}

}  // namespace weighbridge
