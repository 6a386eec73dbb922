// What every format of a Megatron checkpoint offers: an inventory of global tensors, each stored as
// chunks whose bytes are read in place. Immutable after opening; all methods may be called from any
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "formats/checkpoint.h"
#include "formats/torch_dist/read_metadata.h"

namespace weighbridge {

class TorchLegacyCheckpoint;

// Where bytes stand in the model of one rank, for a format that has a file per rank.
struct RankPlace {
  int tp = 0, pp = 0, vpp = 0, ep = 0, etp = 0;
  std::string file;  // "mp_rank_01_000"
  std::string name;  // in the rank's modules
  Shape shape;       // of the rank's tensor
  int64_t first_element = 0;
};

// One more place where the bytes of a chunk are stored: another rank's copy.
struct ChunkCopy {
  const DistTensor* tensor = nullptr;
  size_t chunk = 0;
  StoredBytes stored;
};

// Something that does not fit in the file of one rank, by its cause (docs/causes.md).
struct RankFault {
  std::string id, where, message;
};

class MegatronCheckpoint {
 public:
  virtual ~MegatronCheckpoint() = default;

  // The iteration's folder.
  virtual const std::filesystem::path& path() const = 0;
  virtual std::string_view format() const = 0;  // "torch_dist", "fsdp_dtensor", "torch"
  virtual const DistMetadata& metadata() const = 0;
  // The chunk's elements, row-major, as long as this lives. Errors: kCorrupt when the stored bytes
  // are not what metadata() says.
  virtual Result<std::span<const std::byte>> Data(const DistTensor& tensor,
                                                  const DistChunk& chunk) const = 0;
  // The bytes of metadata().objects: a file of torch.save; {} for what is no file of its own.
  virtual std::span<const std::byte> Stored(const DistObject& object) const = 0;
  // CommonStateOf what was saved beside the tensors; an empty object when nothing was. Errors:
  // those of TorchFile::Open.
  virtual Result<nlohmann::json> CommonState() const = 0;
  // The files that identify inventory and layout.
  virtual std::vector<FileInfo> identity() const = 0;

  // Of a format with a file per rank: what stands in several of them, what does not fit, and whose
  // tensor the bytes are part of. Empty for the others.
  virtual std::span<const ChunkCopy> copies() const { return {}; }
  virtual std::span<const RankFault> faults() const { return {}; }
  virtual std::optional<RankPlace> PlaceOf(const StoredBytes&) const { return std::nullopt; }
  // Worth showing: grid, iteration.
  virtual std::vector<std::pair<std::string, std::string>> details() const { return {}; }

  // The files of ranks, as they are, where the global tensors are not known without a model
  // (checks/legacy_view.h); nullptr for all others.
  virtual const TorchLegacyCheckpoint* rank_files() const { return nullptr; }
};

}  // namespace weighbridge
