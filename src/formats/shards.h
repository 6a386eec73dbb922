// What holds for the shards of any checkpoint with an index: names are unique over the files, the
// index and the files say the same.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/safetensors/index.h"

namespace weighbridge {

// kCorrupt shard-missing when a file of `shards` is not in `folder`; `named_by` is the index.
Status CheckShardsPresent(const std::filesystem::path& folder,
                          const std::vector<std::string>& shards, const std::string& named_by);

// kCorrupt duplicate-name when a name is twice in `checkpoint`, whose tensors are sorted by name.
Status CheckNamesUnique(const Checkpoint& checkpoint);

// The inventory against the index, which lists the same files in the same order. kCorrupt
// index-ghost (the index lists a tensor that its shard does not hold), index-incomplete (a shard
// holds a tensor that the index does not list).
Status CheckAgainstIndex(const Checkpoint& checkpoint, const SafetensorsIndex& index,
                         const std::filesystem::path& index_path);

// "index-total-size" when the index says another sum of bytes than the tensors have.
std::optional<CheckpointNote> TotalSizeNote(const Checkpoint& checkpoint,
                                            const SafetensorsIndex& index,
                                            const std::filesystem::path& index_path);

// "extra-files", naming `extra`; nullopt when it is empty.
std::optional<CheckpointNote> ExtraFilesNote(const std::vector<std::filesystem::path>& extra);

}  // namespace weighbridge
