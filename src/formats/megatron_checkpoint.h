// What every format of a Megatron checkpoint offers: an inventory of global tensors, each stored as
// chunks whose bytes are read in place. Immutable after opening; all methods may be called from any
// thread.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/checkpoint.h"
#include "formats/torch_dist/read_metadata.h"

namespace weighbridge {

class MegatronCheckpoint {
 public:
  virtual ~MegatronCheckpoint() = default;

  // The iteration's folder.
  virtual const std::filesystem::path& path() const = 0;
  virtual std::string_view format() const = 0;  // "torch_dist", "torch"
  virtual const DistMetadata& metadata() const = 0;
  // The chunk's elements, row-major, as long as this lives. Errors: kCorrupt when the stored bytes
  // are not what metadata() says.
  virtual Result<std::span<const std::byte>> Data(const DistTensor& tensor,
                                                  const DistChunk& chunk) const = 0;
  // The bytes of metadata().objects: a file of torch.save.
  virtual std::span<const std::byte> Stored(const DistObject& object) const = 0;
  // The files that identify inventory and layout.
  virtual std::vector<FileInfo> identity() const = 0;
};

}  // namespace weighbridge
