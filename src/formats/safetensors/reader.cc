#include "formats/safetensors/reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "base/hash.h"
#include "formats/safetensors/header.h"
#include "formats/safetensors/index.h"
#include "formats/safetensors/layout.h"
#include "formats/shards.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

class SafetensorsCheckpoint final : public Checkpoint {
 public:
  explicit SafetensorsCheckpoint(fs::path path) : path_(std::move(path)) {}

  const fs::path& path() const override { return path_; }
  std::string_view format() const override { return "safetensors"; }
  const std::vector<FileInfo>& files() const override { return files_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  std::span<const std::byte> Data(const TensorInfo& tensor) const override {
    return mappings_[tensor.file]->bytes().subspan(tensor.offset, tensor.nbytes);
  }
  void DropBehind(const TensorInfo& tensor) const override {
    mappings_[tensor.file]->DropBehind(tensor.offset, tensor.nbytes);
  }
  std::vector<fs::path> extra_files() const override { return extra_; }
  std::vector<CheckpointNote> notes() const override { return notes_; }

  // Adds one file and all its tensors; call Finish() after the last.
  Status AddFile(const fs::path& path) {
    WB_TRY(auto mapping, MappedFile::Open(path));
    const std::string name = path.string();
    WB_TRY(SafetensorsHeader header, ParseSafetensorsHeader(mapping->bytes(), name));
    const auto number = static_cast<uint32_t>(files_.size());
    files_.push_back({path, mapping->size(), Xxh3Hex(mapping->bytes().first(header.data_start()))});
    mappings_.push_back(std::move(mapping));
    for (TensorInfo& tensor : header.tensors) tensor.file = number;
    if (tensors_.empty()) {
      tensors_ = std::move(header.tensors);
    } else {
      tensors_.insert(tensors_.end(), std::make_move_iterator(header.tensors.begin()),
                      std::make_move_iterator(header.tensors.end()));
    }
    if (header.json_bytes > kReferenceHeaderLimit) {
      notes_.push_back(
          {"header-over-limit",
           fmt::format("{} has a header of {} bytes; the reference library refuses more "
                       "than {}",
                       name, header.json_bytes, kReferenceHeaderLimit)});
    }
    return {};
  }

  // Sorts the inventory of several files. A name in two of them is duplicate-name, unless the two
  // are equal in every byte: then one of them is kept (the one that `index` names) and a note says
  // so.
  Status Finish(const SafetensorsIndex* index = nullptr) {
    if (files_.size() == 1) return {};
    tensors_.shrink_to_fit();  // it grew file by file, to twice its size at worst
    std::sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) {
      return std::tie(a.name, a.file) < std::tie(b.name, b.file);
    });
    const auto same = [](const TensorInfo& a, const TensorInfo& b) { return a.name == b.name; };
    if (std::adjacent_find(tensors_.begin(), tensors_.end(), same) == tensors_.end()) return {};
    std::vector<TensorInfo> kept;
    size_t dropped = 0;
    for (TensorInfo& tensor : tensors_) {
      if (kept.empty() || !same(kept.back(), tensor)) {
        kept.push_back(std::move(tensor));
        continue;
      }
      WB_RETURN_IF_ERROR(CheckEqual(kept.back(), tensor));
      ++dropped;
      if (index != nullptr && ShardOf(*index, tensor.name) == tensor.file) {
        kept.back() = std::move(tensor);
      }
    }
    tensors_ = std::move(kept);
    notes_.push_back({"duplicate-equal",
                      fmt::format("{} tensor(s) are in two shards, with equal bytes", dropped)});
    return {};
  }

  Status CheckIndex(const SafetensorsIndex& index, const fs::path& index_path) {
    WB_RETURN_IF_ERROR(CheckAgainstIndex(*this, index, index_path));
    if (auto note = TotalSizeNote(*this, index, index_path)) AddNote(std::move(*note));
    return {};
  }

  // A shard of the same series that the index does not name must not hold a tensor that the index
  // does not list: whoever follows the index would miss it.
  Status CheckUnlistedShards(const SafetensorsIndex& index,
                             const std::vector<fs::path>& extra) const {
    for (const fs::path& path : extra) {
      const std::string file = path.filename().string();
      if (!std::any_of(index.shards.begin(), index.shards.end(),
                       [&](const std::string& shard) { return SameSeries(shard, file); })) {
        continue;
      }
      WB_TRY(const auto mapping, MappedFile::Open(path));
      WB_TRY(const SafetensorsHeader header,
             ParseSafetensorsHeader(mapping->bytes(), path.string()));
      for (const TensorInfo& tensor : header.tensors) {
        if (Find(tensor.name) == nullptr) return FailIncomplete(file, tensor, path);
      }
    }
    return {};
  }

  void AddExtraFiles(std::vector<fs::path> extra) {
    if (auto note = ExtraFilesNote(extra)) AddNote(std::move(*note));
    extra_ = std::move(extra);
  }
  void AddNote(CheckpointNote note) { notes_.push_back(std::move(note)); }

 private:
  static std::optional<uint32_t> ShardOf(const SafetensorsIndex& index, std::string_view name) {
    const auto it =
        std::lower_bound(index.entries.begin(), index.entries.end(), name,
                         [](const auto& e, std::string_view n) { return e.tensor < n; });
    if (it == index.entries.end() || it->tensor != name) return std::nullopt;
    return it->shard;
  }

  Status CheckEqual(const TensorInfo& a, const TensorInfo& b) const {
    const bool alike = a.dtype == b.dtype && a.shape == b.shape;
    if (alike && std::ranges::equal(Data(a), Data(b))) return {};
    return Corrupt(
        "duplicate-name",
        fmt::format("tensor '{}' is in two shards, with different {}: {} and {}", a.name,
                    alike ? "bytes" : "shapes or dtypes", ShardName(a.file), ShardName(b.file)),
        fmt::format("{}:{}", files_[b.file].path.string(), b.offset));
  }

  std::string ShardName(uint32_t file) const { return files_[file].path.filename().string(); }

  static tl::unexpected<Error> FailIncomplete(const std::string& shard, const TensorInfo& tensor,
                                              const fs::path& path) {
    return Corrupt(
        "index-incomplete",
        fmt::format("{} holds tensor '{}', which the index does not list", shard, tensor.name),
        fmt::format("{}:{}", path.string(), tensor.offset),
        "readers that follow the index miss this tensor: fetch or write the index again");
  }

  fs::path path_;
  std::vector<FileInfo> files_;
  std::vector<std::shared_ptr<const MappedFile>> mappings_;
  std::vector<TensorInfo> tensors_;
  std::vector<fs::path> extra_;
  std::vector<CheckpointNote> notes_;
};

Result<std::unique_ptr<Checkpoint>> OpenFiles(const fs::path& path, const WeightFiles& files) {
  auto checkpoint = std::make_unique<SafetensorsCheckpoint>(path);
  const fs::path folder = files.folder;
  if (files.index.empty()) {
    std::error_code error;
    if (fs::is_directory(path, error)) {
      WB_RETURN_IF_ERROR(CheckShardsPresent(folder, files.names, "the folder"));
    }
    for (const std::string& name : files.names)
      WB_RETURN_IF_ERROR(checkpoint->AddFile(folder / name));
    WB_RETURN_IF_ERROR(checkpoint->Finish());
    if (files.names.size() > 1) {
      checkpoint->AddNote(
          {"index-missing",
           fmt::format("{} shards without an index: all of them were read", files.names.size())});
    }
    checkpoint->AddExtraFiles(files.ExtraFiles(files.names));
    return checkpoint;
  }
  const fs::path index_path = folder / files.index;
  WB_TRY(const SafetensorsIndex index, ReadSafetensorsIndex(index_path));
  WB_RETURN_IF_ERROR(files.CheckAgainstIndex(index.shards));
  WB_RETURN_IF_ERROR(CheckShardsPresent(folder, index.shards, files.index));
  for (const std::string& shard : index.shards) {
    WB_RETURN_IF_ERROR(checkpoint->AddFile(folder / shard));
  }
  WB_RETURN_IF_ERROR(checkpoint->Finish(&index));
  WB_RETURN_IF_ERROR(checkpoint->CheckIndex(index, index_path));
  WB_RETURN_IF_ERROR(checkpoint->CheckUnlistedShards(index, files.ExtraFiles(index.shards)));
  checkpoint->AddExtraFiles(files.ExtraFiles(index.shards));
  return checkpoint;
}

}  // namespace

bool ProbeSafetensors(const fs::path& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) return HoldsSafetensors(path);
  if (path.extension() == ".safetensors" || path.string().ends_with(".safetensors.index.json")) {
    return true;
  }
  const auto file = MappedFile::Open(path);
  return file && LooksLikeSafetensors((*file)->bytes());
}

Result<std::unique_ptr<Checkpoint>> OpenSafetensors(const fs::path& path) {
  WB_TRY(const WeightFiles files, ChooseWeightFiles(path));
  return OpenFiles(path, files);
}

}  // namespace weighbridge
