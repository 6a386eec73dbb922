#include "formats/shards.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <system_error>

#include "formats/safetensors/layout.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

std::string ShardName(const Checkpoint& checkpoint, uint32_t file) {
  return checkpoint.files()[file].path.filename().string();
}

std::string Place(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  return fmt::format("{}:{}", checkpoint.files()[tensor.file].path.string(), tensor.offset);
}

tl::unexpected<Error> FailIncomplete(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  return Corrupt("index-incomplete",
                 fmt::format("{} holds tensor '{}', which the index does not list",
                             ShardName(checkpoint, tensor.file), tensor.name),
                 Place(checkpoint, tensor),
                 "readers that follow the index miss this tensor: fetch or write the index again");
}

}  // namespace

Status CheckShardsPresent(const fs::path& folder, const std::vector<std::string>& shards,
                          const std::string& named_by) {
  std::vector<std::string> missing;
  for (const std::string& shard : shards) {
    std::error_code error;
    if (fs::status(folder / shard, error).type() == fs::file_type::not_found) {
      missing.push_back(shard);
    }
  }
  if (missing.empty()) return {};
  return Corrupt("shard-missing",
                 missing.size() == 1
                     ? fmt::format("{} names {}, which is not there", named_by, missing[0])
                     : fmt::format("{} names {} files, {} of them are not there; the first is {}",
                                   named_by, shards.size(), missing.size(), missing[0]),
                 (folder / missing[0]).string(), DownloadHint(folder));
}

Status CheckNamesUnique(const Checkpoint& checkpoint) {
  const auto& tensors = checkpoint.tensors();
  const auto twice =
      std::adjacent_find(tensors.begin(), tensors.end(),
                         [](const TensorInfo& a, const TensorInfo& b) { return a.name == b.name; });
  if (twice == tensors.end()) return {};
  const auto& other = *std::next(twice);
  if (twice->file == other.file) {
    return Corrupt("duplicate-name", fmt::format("tensor '{}' is there twice", twice->name),
                   Place(checkpoint, other));
  }
  return Corrupt(
      "duplicate-name",
      fmt::format("tensor '{}' is in two shards, with {} bytes: {} and {}", twice->name,
                  std::ranges::equal(checkpoint.Data(*twice), checkpoint.Data(other)) ? "equal"
                                                                                      : "different",
                  ShardName(checkpoint, twice->file), ShardName(checkpoint, other.file)),
      Place(checkpoint, other));
}

Status CheckAgainstIndex(const Checkpoint& checkpoint, const SafetensorsIndex& index,
                         const fs::path& index_path) {
  const auto& tensors = checkpoint.tensors();
  auto tensor = tensors.begin();
  for (const auto& entry : index.entries) {
    if (tensor != tensors.end() && tensor->name < entry.tensor) {
      return FailIncomplete(checkpoint, *tensor);
    }
    const bool present = tensor != tensors.end() && tensor->name == entry.tensor;
    if (!present || tensor->file != entry.shard) {
      return Corrupt(
          "index-ghost",
          fmt::format("the index lists tensor '{}' in {}, which does not hold it{}", entry.tensor,
                      index.shards[entry.shard],
                      present ? " (it is in " + ShardName(checkpoint, tensor->file) + ")" : ""),
          index_path.string(),
          "the index belongs to other shards, or was edited: fetch or write both again");
    }
    ++tensor;
  }
  return tensor == tensors.end() ? Status() : FailIncomplete(checkpoint, *tensor);
}

std::optional<CheckpointNote> TotalSizeNote(const Checkpoint& checkpoint,
                                            const SafetensorsIndex& index,
                                            const fs::path& index_path) {
  if (!index.total_size) return std::nullopt;
  uint64_t total = 0;
  for (const TensorInfo& tensor : checkpoint.tensors()) total += tensor.nbytes;
  if (total == *index.total_size) return std::nullopt;
  return CheckpointNote{"index-total-size",
                        fmt::format("{} says metadata.total_size {}, the tensors have {} bytes",
                                    index_path.filename().string(), *index.total_size, total)};
}

std::optional<CheckpointNote> ExtraFilesNote(const std::vector<fs::path>& extra) {
  if (extra.empty()) return std::nullopt;
  std::vector<std::string> names;
  for (const fs::path& path : extra) names.push_back(path.filename().string());
  return CheckpointNote{"extra-files", fmt::format("not part of this checkpoint, not read: {}",
                                                   fmt::join(names, ", "))};
}

}  // namespace weighbridge
