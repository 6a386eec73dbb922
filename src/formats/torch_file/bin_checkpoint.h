// Opens state dicts of torch.save as a Checkpoint: Hugging Face's pytorch_model.bin, sharded or
// not, and any .bin, .pt or .pth file whose root is a flat dict of tensors. Files are mapped,
// tensors are read in place.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "formats/checkpoint.h"

namespace weighbridge {

// The sum of the sizes of all tensors that are not contiguous in their files: these are copied into
// memory, each when its Data() is first asked for. A checkpoint with more is refused.
inline constexpr uint64_t kMaxCopiedBytes = 64u << 20;

// True when `path` is a file named .bin, .pt, .pth or *.bin.index.json, or that begins like a zip
// archive, or a folder with pytorch_model.bin or pytorch_model.bin.index.json.
bool ProbeTorchBin(const std::filesystem::path& path);

// Opens a file, an index with the shards beside it, or a folder. The root of a file is a dict or
// OrderedDict of tensors by name, or a dict that holds such a one under "state_dict" or "model" (a
// note says so). Two names may share a storage. Errors: those of TorchFile; kCorrupt shard-missing,
// index-ghost, index-incomplete, duplicate-name; kUsage ambiguous-model (index and single file in
// one folder); kUnsupported "unsupported-format" (another root), "unsupported-tensor" (dtype,
// layout, more than kMaxCopiedBytes that are not contiguous).
Result<std::unique_ptr<Checkpoint>> OpenTorchBin(const std::filesystem::path& path);

}  // namespace weighbridge
