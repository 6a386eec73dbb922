// A checkpoint of Megatron's legacy `torch` format: what each rank held in memory, in a file per
// rank. Bytes are mapped and read in place. FORMAT.md has the layout.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "formats/megatron_checkpoint.h"
#include "tensor/tensor.h"

namespace weighbridge {

// A tensor of a rank's state dict, contiguous in its file.
struct RankTensor {
  std::string name;  // in the rank's modules: local numbers of layers and experts
  DType dtype = DType::kF32;
  Shape shape;
  uint64_t offset = 0, nbytes = 0;  // in the file
};

struct RankFile {
  int tp = 0, pp = 0, ep = 0;
  std::string folder;  // "mp_rank_01_000"
  // Per virtual pipeline stage, sorted by name: the state dict `model`, or `model0`, `model1`, ...
  std::vector<std::vector<RankTensor>> parts;

  const RankTensor* Find(size_t part, std::string_view name) const;
};

// Immutable after Open; all methods may be called from any thread. As a MegatronCheckpoint it shows
// the ranks' tensors as they are, each under FOLDER/NAME; ViewAsGlobal (checks/legacy_view.h) joins
// them.
class TorchLegacyCheckpoint final : public MegatronCheckpoint {
 public:
  // `iteration` holds mp_rank_* folders. The sizes of the grid are those that `args` in the first
  // file records, else those that the folders show. Errors: those of FindRankFolders and TorchFile;
  // kCorrupt "shard-missing" names a rank's file that is not there, "header-corrupt" files that are
  // not of one grid, "duplicate-name"; kUnsupported "unsupported-format" for state dicts that are
  // not Megatron-Core's, "strided" for a tensor that is not contiguous.
  static Result<std::unique_ptr<TorchLegacyCheckpoint>> Open(
      const std::filesystem::path& iteration);

  int tp() const { return tp_; }
  int pp() const { return pp_; }
  int vpp() const { return static_cast<int>(ranks_[0].parts.size()); }
  int ep() const { return ep_; }
  // nullopt when nothing records it.
  std::optional<int> etp() const { return etp_; }
  // Sorted by tensor, pipeline and expert rank. A rank that differs from another in nothing that it
  // holds alone need not have a file.
  const std::vector<RankFile>& ranks() const { return ranks_; }
  std::span<const std::byte> Bytes(const StoredBytes& stored) const;

  const std::filesystem::path& path() const override { return path_; }
  std::string_view format() const override { return "torch"; }
  const DistMetadata& metadata() const override { return metadata_; }
  Result<std::span<const std::byte>> Data(const DistTensor& tensor,
                                          const DistChunk& chunk) const override;
  std::span<const std::byte> Stored(const DistObject&) const override { return {}; }
  // Of the first rank.
  Result<nlohmann::json> CommonState() const override { return common_state_; }
  std::vector<FileInfo> identity() const override { return files_; }
  std::optional<RankPlace> PlaceOf(const StoredBytes& stored) const override;
  std::vector<std::pair<std::string, std::string>> details() const override { return details_; }
  const TorchLegacyCheckpoint* rank_files() const override { return this; }

 private:
  class Opener;
  TorchLegacyCheckpoint() = default;

  std::filesystem::path path_;
  int tp_ = 1, pp_ = 1, ep_ = 1;
  std::optional<int> etp_;
  std::vector<RankFile> ranks_;  // ranks_[i] is files_[i]
  std::vector<FileInfo> files_;
  std::vector<std::shared_ptr<const MappedFile>> mappings_;
  DistMetadata metadata_;
  nlohmann::json common_state_;
  std::vector<std::pair<std::string, std::string>> details_;
};

}  // namespace weighbridge
