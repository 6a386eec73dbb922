#include "formats/torch_dist/writer.h"

#include <fmt/format.h>

#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "base/atomic_output.h"
#include "base/crc32.h"
#include "base/file.h"
#include "formats/torch_dist/metadata.h"
#include "formats/torch_dist/texts.h"

namespace weighbridge {
namespace fs = std::filesystem;

struct TorchDistWriter::State {
  TorchDistPlan plan;
  ShardOptions options;
  fs::path folder;
  std::vector<std::unique_ptr<ShardFile>> files;  // null: skipped
  std::vector<std::atomic<uint64_t>> data_left;   // per file
  std::vector<std::atomic<bool>> finished;        // per file
  // Per chunk; those of tensor t begin at first[t].
  std::vector<size_t> first;
  std::unique_ptr<std::atomic<uint64_t>[]> written;
  std::unique_ptr<std::atomic<uint32_t>[]> crc;

  State(fs::path path, TorchDistPlan what, ShardOptions how)
      : plan(std::move(what)),
        options(std::move(how)),
        folder(std::move(path)),
        data_left(plan.files.size()),
        finished(plan.files.size()) {
    size_t count = 0;
    for (const TorchDistTensor& t : plan.tensors) {
      first.push_back(count);
      count += t.chunks.size();
      for (const TorchDistChunk& c : t.chunks) data_left[c.file] += c.data_bytes;
    }
    written = std::make_unique<std::atomic<uint64_t>[]>(count);
    crc = std::make_unique<std::atomic<uint32_t>[]>(count);
  }

  Status CreateFiles() {
    for (size_t i = 0; i < plan.files.size(); ++i) {
      files.emplace_back();
      if (options.Skips(i)) continue;
      WB_TRY(files.back(), ShardFile::Create(folder, plan.files[i].name, plan.files[i].nbytes));
    }
    return {};
  }

  Status CheckComplete(const TorchDistPlan::File& file) const {
    for (const auto& [t, c] : file.chunks) {
      const TorchDistTensor& tensor = plan.tensors[t];
      const uint64_t got = written[first[t] + c].load();
      if (got == tensor.chunks[c].data_bytes) continue;
      return Fail(ErrorKind::kInvalid, "invalid-call",
                  fmt::format("chunk {} of '{}' has {} bytes: {} were written", c, tensor.key,
                              tensor.chunks[c].data_bytes, got));
    }
    return {};
  }

  // Writes all that stands in a file beside the data.
  Status WriteTexts(size_t i) {
    return ForEachText(
        plan, plan.files[i], [&](uint32_t t, uint32_t c) { return crc[first[t] + c].load(); },
        [&](uint64_t offset, std::string_view text) -> Status {
          WB_TRY([[maybe_unused]] const auto taken, files[i]->Write(offset, text));
          return {};
        });
    return {};
  }

  // The data is complete.
  Status FinishFile(size_t i) {
    WB_RETURN_IF_ERROR(CheckComplete(plan.files[i]));
    if (finished[i].exchange(true)) return {};
    WB_RETURN_IF_ERROR(WriteTexts(i));
    WB_TRY(const FinishedFile file, files[i]->Sync());
    return options.finished ? options.finished(file) : Status();
  }
};

TorchDistWriter::TorchDistWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
TorchDistWriter::TorchDistWriter(TorchDistWriter&&) noexcept = default;
TorchDistWriter::~TorchDistWriter() = default;

const TorchDistPlan& TorchDistWriter::plan() const { return state_->plan; }

Result<TorchDistWriter> TorchDistWriter::Create(const fs::path& folder, TorchDistPlan plan,
                                                ShardOptions options) {
  auto state = std::make_unique<State>(folder, std::move(plan), std::move(options));
  WB_RETURN_IF_ERROR(state->CreateFiles());
  return TorchDistWriter(std::move(state));
}

bool TorchDistWriter::Writes(size_t tensor, size_t chunk) const {
  return state_->files[state_->plan.tensors[tensor].chunks[chunk].file] != nullptr;
}

Status TorchDistWriter::Write(size_t tensor, size_t chunk, uint64_t offset,
                              std::span<const std::byte> bytes) {
  const TorchDistPlan& plan = state_->plan;
  if (tensor >= plan.tensors.size() || chunk >= plan.tensors[tensor].chunks.size()) {
    return Fail(ErrorKind::kInvalid, "invalid-call",
                fmt::format("there is no chunk {} of tensor {}", chunk, tensor));
  }
  const TorchDistChunk& c = plan.tensors[tensor].chunks[chunk];
  if (offset > c.data_bytes || bytes.size() > c.data_bytes - offset) {
    return Fail(ErrorKind::kInvalid, "invalid-call",
                fmt::format("writing {} bytes at {} exceeds the {} bytes of chunk {} of '{}'",
                            bytes.size(), offset, c.data_bytes, chunk, plan.tensors[tensor].key));
  }
  ShardFile* file = state_->files[c.file].get();
  if (file == nullptr) {
    return Fail(ErrorKind::kInvalid, "invalid-call",
                fmt::format("chunk {} of '{}' is in a file that is left alone", chunk,
                            plan.tensors[tensor].key));
  }
  WB_TRY(const ShardFile::Written piece, file->Write(c.data_offset + offset, bytes));
  const size_t i = state_->first[tensor] + chunk;
  const uint32_t share = Crc32Shift(piece.crc, c.data_bytes - offset - bytes.size());
  state_->crc[i].fetch_xor(share, std::memory_order_relaxed);
  state_->written[i].fetch_add(bytes.size(), std::memory_order_relaxed);
  if (bytes.empty()) return {};
  const uint64_t left = state_->data_left[c.file].fetch_sub(bytes.size());
  return left == bytes.size() ? state_->FinishFile(c.file) : Status();
}

Status TorchDistWriter::FinishFiles() {
  for (size_t i = 0; i < state_->files.size(); ++i) {
    if (state_->files[i] != nullptr && !state_->finished[i]) {
      WB_RETURN_IF_ERROR(state_->FinishFile(i));
    }
  }
  return {};
}

Status TorchDistWriter::Finish() {
  WB_RETURN_IF_ERROR(FinishFiles());
  if (!plan().has_metadata) return {};
  const fs::path& folder = state_->folder;
  WB_RETURN_IF_ERROR(
      ReplaceFile(folder / "metadata.json", kTorchDistMetadataJson, Durability::kSynced));
  return ReplaceFile(folder / ".metadata", TorchDistMetadata(plan()), Durability::kSynced);
}

uint32_t TorchDistWriter::Crc(size_t tensor, size_t chunk) const {
  return state_->crc[state_->first[tensor] + chunk].load();
}

Status TorchDistWriter::ReadBack(int threads, ReadBackMode mode) const {
  return ReadBackFiles(state_->files, mode, threads);
}

Status TorchDistWriter::ReadBackMetadata() const {
  if (!plan().has_metadata) return {};
  const fs::path path = state_->folder / ".metadata";
  WB_TRY(const std::string metadata, ReadTextFile(path, UINT64_MAX));
  return metadata == TorchDistMetadata(plan()) ? Status() : FailReadBack(path);
}

}  // namespace weighbridge
