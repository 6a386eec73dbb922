// The index of a sharded safetensors folder: which shard holds which tensor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace weighbridge {

struct SafetensorsIndex {
  struct Entry {
    std::string_view tensor;  // into `storage`
    uint32_t shard = 0;       // index into `shards`
  };
  std::vector<std::string> shards;  // plain file names, sorted, unique
  std::vector<Entry> entries;       // sorted by tensor name; names are unique
  // metadata.total_size; nullopt when it is absent or not a non-negative integer (some writers
  // store a float, many store a wrong number: it is never more than a note).
  std::optional<uint64_t> total_size;
  std::shared_ptr<const void> storage;
};

// Parses the text of an index. `mapping` is memory that contains `text` (see JsonInput); neither
// need outlive the call. Errors, kCorrupt: header-corrupt (not JSON, no weight_map, a shard that is
// not a plain file name inside of the folder, a tensor or key twice); kUnsupported for shards whose
// names do not end with `suffix` (".bin" in an index of torch files).
Result<SafetensorsIndex> ParseSafetensorsIndex(std::span<const std::byte> text,
                                               std::span<const std::byte> mapping,
                                               const std::string& name,
                                               std::string_view suffix = ".safetensors");

Result<SafetensorsIndex> ReadSafetensorsIndex(const std::filesystem::path& path,
                                              std::string_view suffix = ".safetensors");

}  // namespace weighbridge
