// What a torch_dist folder will hold, and where each byte of it stands: computed from names, dtypes
// and shapes alone. FORMAT.md has the layout.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "tensor/tensor.h"

namespace weighbridge {

// A box of a global tensor that one writer holds. Offsets and sizes in elements, one per axis.
struct TorchDistChunk {
  Shape offsets, sizes;
  uint32_t writer = 0;  // the chunk goes into __WRITER_0.distcp
  // Filled in by PlanTorchDist: which of its files, the entry there (a whole ZIP) and the data
  // within it.
  uint32_t file = 0;
  uint64_t entry_offset = 0, entry_bytes = 0;
  uint64_t data_offset = 0, data_bytes = 0;  // data_offset from the file's beginning
};

struct TorchDistTensor {
  std::string key;  // "decoder.layers.mlp.linear_fc1.weight"
  DType dtype = DType::kF32;
  Shape shape;  // global
  std::vector<TorchDistChunk> chunks;
};

// An object that is no tensor, as torch.save wrote it (torch_file/write.h: TorchSave).
struct TorchDistBytes {
  std::string key;  // "common_state/shard_0_1"
  std::string content;
  uint32_t writer = 0;
  uint64_t entry_offset = 0;  // filled in by PlanTorchDist, as for a chunk
};

struct TorchDistPlan {
  struct File {
    uint32_t writer = 0;
    std::string name;  // "__0_0.distcp"
    uint64_t nbytes = 0;
    // What stands in it, in order: first byte entries, then chunks as (tensor, chunk).
    std::vector<uint32_t> entries;
    std::vector<std::pair<uint32_t, uint32_t>> chunks;
    // Not empty: the file is one archive of torch.save with this pickle instead, whose storages
    // data/0, data/1, ... are the tensors of `chunks`, and then `empty_storages` without bytes.
    std::string pickle;
    uint32_t empty_storages = 0;
  };
  std::vector<TorchDistTensor> tensors;  // in the caller's order
  std::vector<TorchDistBytes> entries;
  std::vector<File> files;   // by rising writer; writers without content have none
  bool has_metadata = true;  // .metadata and metadata.json stand beside them

  // Of the .distcp files; .metadata comes on top (about 300 bytes per chunk).
  uint64_t TotalFileBytes() const;
};

// Only key, dtype, shape and the chunks' offsets, sizes and writers are read. kInvalid: a key that
// is empty, given twice or not UTF-8; chunks that do not tile their tensor exactly (a tensor
// without elements has one chunk); sizes that overflow. kUnsupported: a dtype that torch has no
// element type for.
Result<TorchDistPlan> PlanTorchDist(std::vector<TorchDistTensor> tensors,
                                    std::vector<TorchDistBytes> entries);

}  // namespace weighbridge
