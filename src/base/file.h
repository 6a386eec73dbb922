// Reading files: the only door to file content. A MappedFile is immutable and may be read from any
// thread. A file that shrinks while it is mapped raises SIGBUS, which no reader can prevent: the
// program names the file and ends (cli/run.cc), the Python package goes on and raises an error
// (base/shrunk_files.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace weighbridge {

class MappedFile {
 public:
  // Maps the whole file read-only. Errors: kNotFound, kPermission, kIo; a folder is kUsage.
  static Result<std::shared_ptr<const MappedFile>> Open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  uint64_t size() const { return size_; }
  const std::filesystem::path& path() const { return path_; }

  // Tells the kernel that [offset, offset + length) will not be read again soon, so that reading a
  // file larger than memory does not push everything else out. What was
  // written there (AllowPrivateWrites) is lost.
  void DropBehind(uint64_t offset, uint64_t length) const;

 private:
  MappedFile() = default;
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  uint64_t size_ = 0;
};

// The file's whole content. `max_bytes` bounds what is read; a larger file is kUnsupported.
Result<std::string> ReadTextFile(const std::filesystem::path& path, uint64_t max_bytes = 64u << 20);

// An Error for errno after a failed system call on `path` ("cannot open", ...).
Error ErrnoError(int error_number, const std::string& action, const std::filesystem::path& path);

// The name of the mapped file that holds `address`, or "" (async-signal-safe look-up; at most the
// first 4096 mappings are known).
const char* MappedFileNameAt(const void* address);

// In the mapped file that holds `address`: zeros in place of everything from its page on, for a
// file that ends before it. False when no mapped file holds it. Async-signal-safe.
bool PutZerosFrom(const void* address);

// Lets the caller write to `bytes` of a mapped file, in memory alone: the file stays as it is.
// Memory of no mapped file is left as it is. Errors: kUnsupported when it cannot be told.
Status AllowPrivateWrites(std::span<const std::byte> bytes);

}  // namespace weighbridge
