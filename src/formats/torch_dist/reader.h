// A torch.distributed.checkpoint folder as Megatron-Core writes it. Bytes are mapped and read in
// place.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "formats/megatron_checkpoint.h"
#include "formats/torch_dist/read_metadata.h"
#include "formats/torch_file/torch_file.h"

namespace weighbridge {

// Immutable after Open; all methods may be called from any thread.
class TorchDistCheckpoint final : public MegatronCheckpoint {
 public:
  // `folder` holds .metadata. Every file that it names is there and long enough. Errors: those of
  // ParseDistMetadata, kCorrupt "shard-missing", "file-truncated".
  static Result<std::unique_ptr<TorchDistCheckpoint>> Open(const std::filesystem::path& folder);

  const std::filesystem::path& path() const override { return folder_; }
  std::string_view format() const override { return fsdp_ ? "fsdp_dtensor" : "torch_dist"; }
  const DistMetadata& metadata() const override { return metadata_; }
  std::vector<FileInfo> identity() const override { return {metadata_file_}; }
  // Files in the folder that hold tensors and belong to no entry (another save's).
  const std::vector<std::filesystem::path>& extra_files() const { return extra_files_; }

  // kCorrupt when the entry's ZIP is not valid or holds another dtype or shape than .metadata says.
  Result<std::span<const std::byte>> Data(const DistTensor& tensor,
                                          const DistChunk& chunk) const override;
  std::span<const std::byte> Stored(const DistObject& object) const override;
  // Of common.pt where there is one, as megatron-core itself has it, else of the entry
  // common_state/*.
  Result<nlohmann::json> CommonState() const override;
  // What torch.save stored under the key.
  Result<TorchFile> Object(const DistObject& object) const;

 private:
  TorchDistCheckpoint() = default;
  Result<TorchFile> OpenEntry(const StoredBytes& stored, const std::string& key) const;

  std::filesystem::path folder_;
  DistMetadata metadata_;
  bool fsdp_ = false;  // the names were Megatron-FSDP's
  FileInfo metadata_file_;
  std::vector<std::shared_ptr<const MappedFile>> files_;
  std::vector<std::filesystem::path> extra_files_;
};

// What a user calls a Megatron checkpoint: the folder with latest_checkpointed_iteration.txt, one
// of its iter_N, or `release`.
struct MegatronFolder {
  std::filesystem::path root;       // with the tracker; the iteration itself when there is none
  std::filesystem::path iteration;  // with .metadata or mp_rank_*
  bool is_torch_dist = false;
};

// What the tracker in `root` says, without space around it; "" when there is none. Errors: those of
// ReadTextFile.
Result<std::string> ReadTracker(const std::filesystem::path& root);

// Errors: kNotFound; kCorrupt "tracker-stale" when the tracker names what is not there (never a
// fall-back to another iteration).
Result<MegatronFolder> FindMegatronFolder(const std::filesystem::path& path);

}  // namespace weighbridge
