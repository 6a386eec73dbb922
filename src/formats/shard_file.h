// One file of a checkpoint that is being written: of known size, filled in pieces in any order and
// from any thread, with the CRC-32 of the whole taken on the way; and what the writers of all
// formats share around it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/journal.h"
#include "base/result.h"

namespace weighbridge {

// What a writer does with the files of its plan.
struct ShardOptions {
  // Per file: leave it alone, for it is finished already or another process writes it. Empty: none.
  std::vector<bool> skip;
  // A file is complete and synced. Called by the thread that gave the file's last byte.
  std::function<Status(const FinishedFile&)> finished;

  bool Skips(size_t file) const { return file < skip.size() && skip[file]; }
};

// How what was written is read back: kDevice drops it from the page cache first, where the system
// does so.
enum class ReadBackMode { kPage, kDevice };

class ShardFile {
 public:
  // Creates or empties the file FOLDER/NAME (NAME may have folders of its own, which are made) and
  // reserves its space where the file system can, so that a full disk shows before the work.
  // Errors: kNotFound, kPermission, kIo ("disk-full").
  static Result<std::unique_ptr<ShardFile>> Create(const std::filesystem::path& folder,
                                                   const std::string& name, uint64_t nbytes);
  ~ShardFile();
  ShardFile(const ShardFile&) = delete;
  ShardFile& operator=(const ShardFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  uint64_t nbytes() const { return nbytes_; }

  struct Written {
    uint32_t crc = 0;      // of the piece
    uint64_t missing = 0;  // bytes of the file that are still to be given
  };
  // Each byte must be given exactly once. Any thread; exactly one call returns missing == 0 (if the
  // file is not empty), and its caller sees what all others wrote.
  Result<Written> Write(uint64_t offset, std::span<const std::byte> bytes);
  Result<Written> Write(uint64_t offset, std::string_view text);

  // On the disk, as a journal's entry. When nothing is missing.
  Result<FinishedFile> Sync() const;
  uint32_t crc() const { return crc_.load(); }

 private:
  ShardFile(std::string name, std::filesystem::path path, int fd, uint64_t nbytes)
      : name_(std::move(name)),
        path_(std::move(path)),
        fd_(fd),
        nbytes_(nbytes),
        missing_(nbytes) {}
  const std::string name_;
  const std::filesystem::path path_;
  const int fd_;
  const uint64_t nbytes_;
  std::atomic<uint64_t> missing_;
  std::atomic<uint32_t> crc_{0};
};

// The CRC-32 of each file, or why it cannot be read; on up to `threads` threads, whatever the
// number of files.
std::vector<Result<uint32_t>> SumFiles(const std::vector<std::filesystem::path>& paths,
                                       ReadBackMode mode, int threads);

// Compares the files with the CRCs that they were written with. kIo "readback-mismatch" names one.
Status ReadBackFiles(std::span<const std::unique_ptr<ShardFile>> files, ReadBackMode mode,
                     int threads);

Status FailReadBack(const std::filesystem::path& path);

}  // namespace weighbridge
