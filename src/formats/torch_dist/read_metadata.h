// `.metadata` of a torch.distributed.checkpoint folder: which global tensors there are, in which
// chunks, and where the bytes of each chunk lie. Field names are those of
// torch.distributed.checkpoint.metadata.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/tensor.h"

namespace weighbridge {

// Where an entry's torch.save ZIP lies.
struct StoredBytes {
  uint32_t file = 0;  // index into DistMetadata::files
  uint64_t offset = 0, length = 0;
};

// A box of a global tensor that one writer stored.
struct DistChunk {
  Shape offsets, sizes;  // as many axes as the tensor
  StoredBytes stored;
};

struct DistTensor {
  std::string key;
  DType dtype = DType::kF32;
  Shape shape;                    // global
  std::vector<DistChunk> chunks;  // by offsets; they tile the shape
};

// A pickled object ("_extra_state", "common_state/shard_0_1").
struct DistObject {
  std::string key;
  StoredBytes stored;
};

struct DistMetadata {
  std::vector<DistTensor> tensors;  // sorted by key
  std::vector<DistObject> objects;  // sorted by key
  std::vector<std::string> files;   // relative to the folder

  const DistTensor* Find(std::string_view key) const;
  const DistObject* FindObject(std::string_view key) const;
};

// Parses the pickle. Every tensor's chunks tile it exactly. Errors: kCorrupt "header-corrupt",
// "shape-mismatch" or "bytes-overlap" (chunks that leave a part out, or overlap), kUnsupported for
// a dtype that is not known. `where` names the file.
Result<DistMetadata> ParseDistMetadata(std::span<const std::byte> bytes, const std::string& where);

// Proves that boxes of `shape` are inside of it, do not overlap and leave nothing out.
Status ProveBoxesTile(const Shape& shape, const std::vector<DistChunk>& chunks,
                      const std::string& key);

}  // namespace weighbridge
