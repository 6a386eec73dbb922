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
#include "formats/torch_dist/plan.h"

namespace weighbridge {

class TorchDistWriter {
 public:
  // Creates the .distcp files in `folder`, normally a folder in AtomicDirectory::path(), and
  // reserves their space. Errors: kNotFound, kPermission, kIo ("disk-full").
  static Result<TorchDistWriter> Create(const std::filesystem::path& folder, TorchDistPlan plan);
  TorchDistWriter(TorchDistWriter&&) noexcept;
  ~TorchDistWriter();

  const TorchDistPlan& plan() const;

  // Writes bytes of a chunk (contiguous, row-major), `offset` counted from its first byte. May be
  // called from several threads; each byte of each chunk must be given exactly once. Pieces of some
  // 100 KiB are fast; each costs a system call. kInvalid past the end.
  Status Write(size_t tensor, size_t chunk, uint64_t offset, std::span<const std::byte> bytes);

  // Writes what stands between the data, .metadata and metadata.json, and syncs all. kInvalid names
  // a chunk whose number of bytes is not complete.
  Status Finish();

  // CRC-32 of the chunk's data. After Finish.
  uint32_t Crc(size_t tensor, size_t chunk) const;

  // Reads everything back on up to `threads` threads and compares it with what was written: data by
  // its CRC, all else byte by byte. After Finish. kIo "readback-mismatch" names the file and place.
  Status ReadBack(int threads) const;

 private:
  struct State;
  explicit TorchDistWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace weighbridge
