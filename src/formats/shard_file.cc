#include "formats/shard_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/atomic_output.h"
#include "base/crc32.h"
#include "base/file.h"
#include "base/threads.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

// Small enough that the bytes are in the cache when the kernel copies what was just summed.
constexpr uint64_t kBlock = 256 << 10;
constexpr uint64_t kPart = 16 << 20;  // what one thread reads at a time

// Reserves the space where the file system can.
Status Reserve(int fd, uint64_t nbytes, const fs::path& path) {
  if (nbytes == 0) return {};
  const auto size = static_cast<off_t>(nbytes);
  int rc;
  do {
    rc = ::fallocate(fd, 0, 0, size);
  } while (rc != 0 && errno == EINTR);
  if (rc == 0) return {};
  if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL) {
    return Fail(ErrnoError(errno, "cannot reserve space for the file", path));
  }
  if (::ftruncate(fd, size) == 0) return {};
  return Fail(ErrnoError(errno, "cannot size the file", path));
}

struct OpenFile {
  fs::path path;
  int fd = -1;
  uint64_t nbytes = 0;
  Status status;

  OpenFile(const fs::path& name, ReadBackMode mode) : path(name) {
    struct stat st {};
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0 || ::fstat(fd, &st) != 0) {
      status = Fail(ErrnoError(errno, "cannot read back", path));
      return;
    }
    nbytes = static_cast<uint64_t>(st.st_size);
    // Of pages that are not synced nothing is dropped.
    if (mode == ReadBackMode::kDevice) ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  }
  OpenFile(OpenFile&& other) noexcept
      : path(std::move(other.path)),
        fd(std::exchange(other.fd, -1)),
        nbytes(other.nbytes),
        status(std::move(other.status)) {}
  OpenFile& operator=(OpenFile&&) = delete;
  ~OpenFile() {
    if (fd >= 0) ::close(fd);
  }
};

struct Part {
  size_t file;
  uint64_t offset, nbytes;
};

Result<uint32_t> SumPart(const OpenFile& file, Part part) {
  thread_local std::vector<std::byte> block(kBlock);
  uint32_t sum = 0;
  uint64_t left = part.nbytes, at = part.offset;
  while (left > 0) {
    const auto got = ::pread(file.fd, block.data(), std::min(left, kBlock), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Fail(ErrnoError(errno, "cannot read back", file.path));
    if (got == 0) return Fail(FailReadBack(file.path).error());
    sum = Crc32(std::span(block).first(static_cast<size_t>(got)), sum);
    at += static_cast<uint64_t>(got);
    left -= static_cast<uint64_t>(got);
  }
  return Crc32Shift(sum, file.nbytes - part.offset - part.nbytes);
}

}  // namespace

Result<std::unique_ptr<ShardFile>> ShardFile::Create(const fs::path& folder,
                                                     const std::string& name, uint64_t nbytes) {
  const fs::path path = folder / name;
  std::error_code error;
  // A folder in the name is made; the output's own folder is the caller's.
  if (path.parent_path() != folder && fs::is_directory(folder, error)) {
    fs::create_directories(path.parent_path(), error);
    if (error) return Fail(ErrnoError(error.value(), "cannot make the folder", path));
  }
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return Fail(ErrnoError(errno, "cannot create the file", path));
  std::unique_ptr<ShardFile> file(new ShardFile(name, path, fd, nbytes));
  WB_RETURN_IF_ERROR(Reserve(fd, nbytes, path));
  return file;
}

ShardFile::~ShardFile() { ::close(fd_); }

Result<ShardFile::Written> ShardFile::Write(uint64_t offset, std::span<const std::byte> bytes) {
  uint32_t crc = 0;
  for (uint64_t at = 0; at < bytes.size(); at += kBlock) {
    const auto block = bytes.subspan(at, std::min<uint64_t>(kBlock, bytes.size() - at));
    crc = Crc32(block, crc);
    WB_RETURN_IF_ERROR(WriteFully(fd_, offset + at, block, path_));
  }
  crc_.fetch_xor(Crc32Shift(crc, nbytes_ - offset - bytes.size()), std::memory_order_relaxed);
  const uint64_t before = missing_.fetch_sub(bytes.size(), std::memory_order_acq_rel);
  return Written{crc, before - bytes.size()};
}

Result<ShardFile::Written> ShardFile::Write(uint64_t offset, std::string_view text) {
  return Write(offset, std::as_bytes(std::span(text.data(), text.size())));
}

Result<FinishedFile> ShardFile::Sync() const {
  if (::fsync(fd_) != 0) return Fail(ErrnoError(errno, "cannot sync", path_));
  return FinishedFile{name_, nbytes_, crc()};
}

std::vector<Result<uint32_t>> SumFiles(const std::vector<fs::path>& paths, ReadBackMode mode,
                                       int threads) {
  std::vector<OpenFile> files;
  std::vector<Part> parts;
  for (const fs::path& path : paths) {
    files.emplace_back(path, mode);
    for (uint64_t at = 0; files.back().status && at < files.back().nbytes; at += kPart) {
      parts.push_back({files.size() - 1, at, std::min(kPart, files.back().nbytes - at)});
    }
  }
  std::vector<Result<uint32_t>> shares(parts.size(), 0u);
  ParallelFor(parts.size(), threads,
              [&](size_t i) { shares[i] = SumPart(files[parts[i].file], parts[i]); });
  std::vector<Result<uint32_t>> sums;
  for (const OpenFile& file : files) {
    sums.push_back(file.status ? Result<uint32_t>(0u) : Fail(file.status.error()));
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    Result<uint32_t>& sum = sums[parts[i].file];
    if (!sum) continue;
    if (shares[i]) {
      *sum ^= *shares[i];
    } else {
      sum = std::move(shares[i]);
    }
  }
  return sums;
}

Status ReadBackFiles(std::span<const std::unique_ptr<ShardFile>> files, ReadBackMode mode,
                     int threads) {
  std::vector<fs::path> paths;
  std::vector<uint32_t> expected;
  for (const auto& file : files) {
    if (file == nullptr) continue;
    std::error_code error;
    if (fs::file_size(file->path(), error) != file->nbytes() || error) {
      return FailReadBack(file->path());
    }
    paths.push_back(file->path());
    expected.push_back(file->crc());
  }
  const auto sums = SumFiles(paths, mode, threads);
  for (size_t i = 0; i < sums.size(); ++i) {
    if (!sums[i]) return Fail(sums[i].error());
    if (*sums[i] != expected[i]) return FailReadBack(paths[i]);
  }
  return {};
}

Status FailReadBack(const fs::path& path) {
  return Fail(ErrorKind::kIo, "readback-mismatch",
              "what was read back differs from what was written", path.string(),
              "check the disk and its file system");
}

}  // namespace weighbridge
