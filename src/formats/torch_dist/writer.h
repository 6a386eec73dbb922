// Writes a torch_dist folder. First the plan, which fixes where every byte goes; then tensor bytes
// arrive in pieces, in any order and from any thread. The same plan and the same data give the same
// files. In flight are the caller's pieces only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "base/result.h"
#include "formats/shard_file.h"
#include "formats/torch_dist/plan.h"

namespace weighbridge {

class TorchDistWriter {
 public:
  // Creates the .distcp files in `folder`, normally AtomicDirectory::path(), and reserves their
  // space. Errors: kNotFound, kPermission, kIo ("disk-full").
  static Result<TorchDistWriter> Create(const std::filesystem::path& folder, TorchDistPlan plan,
                                        ShardOptions options = {});
  TorchDistWriter(TorchDistWriter&&) noexcept;
  ~TorchDistWriter();

  const TorchDistPlan& plan() const;
  // Whether the chunk's bytes are to be given: its file is not left alone.
  bool Writes(size_t tensor, size_t chunk) const;

  // Writes bytes of a chunk (contiguous, row-major), `offset` counted from its first byte. May be
  // called from several threads; each byte of each chunk must be given exactly once. Pieces of some
  // 100 KiB are fast; each costs a system call. kInvalid past the end.
  Status Write(size_t tensor, size_t chunk, uint64_t offset, std::span<const std::byte> bytes);

  // A file is finished and synced by the call of Write that gives the last of its data, or here.
  // kInvalid names a chunk whose number of bytes is not complete.
  Status FinishFiles();
  // FinishFiles, then .metadata and metadata.json.
  Status Finish();

  // CRC-32 of the chunk's data. After FinishFiles.
  uint32_t Crc(size_t tensor, size_t chunk) const;

  // Reads the files back on up to `threads` threads and compares them with what was written. After
  // FinishFiles. kIo "readback-mismatch" names the file.
  Status ReadBack(int threads, ReadBackMode mode = ReadBackMode::kPage) const;
  // The same for .metadata. After Finish.
  Status ReadBackMetadata() const;

 private:
  struct State;
  explicit TorchDistWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace weighbridge
