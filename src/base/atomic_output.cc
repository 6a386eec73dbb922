#include "base/atomic_output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "base/interrupt.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

std::span<const std::byte> AsBytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// The target without a trailing slash and with its links followed, so that a link keeps pointing to
// what is published.
Result<fs::path> CanonicalTarget(const fs::path& target) {
  fs::path path = target.lexically_normal();
  if (!path.has_filename() && path.has_relative_path()) path = path.parent_path();
  const std::string name = path.filename().string();
  if (name.empty() || name == "." || name == "..") {
    return Fail(ErrorKind::kUsage, "usage", "the output needs a name of its own", target.string());
  }
  std::error_code error;
  const fs::path canonical = fs::weakly_canonical(fs::absolute(path, error), error);
  return error ? path : canonical;
}

enum class Occupant { kNothing, kFile, kFolder, kEmptyFolder };

Result<Occupant> Look(const fs::path& path) {
  std::error_code error;
  const auto type = fs::symlink_status(path, error).type();
  if (type == fs::file_type::not_found) return Occupant::kNothing;
  if (error) return Fail(ErrnoError(error.value(), "cannot look at the output", path));
  if (type != fs::file_type::directory) return Occupant::kFile;
  const bool empty = fs::is_empty(path, error);
  return empty && !error ? Occupant::kEmptyFolder : Occupant::kFolder;
}

tl::unexpected<Error> FailExists(const fs::path& target) {
  return Fail(ErrorKind::kUsage, "output-exists", "the output exists already", target.string(),
              "choose another name, or replace it with --overwrite");
}

// The old folder may be removed.
Status AskToReplace(const fs::path& target, const PublishOptions& options) {
  if (options.may_replace) return options.may_replace(target);
  return Fail(ErrorKind::kUsage, "output-exists", "the output is a folder that is not empty",
              target.string(), "choose another name");
}

Status CheckOccupant(const fs::path& target, bool want_folder, const PublishOptions& options) {
  WB_TRY(const Occupant occupant, Look(target));
  const bool folder = occupant == Occupant::kFolder || occupant == Occupant::kEmptyFolder;
  if (occupant == Occupant::kNothing) return {};
  if (folder != want_folder) {
    return Fail(ErrorKind::kUsage, "output-exists",
                folder ? "the output is a folder, a file is to be written"
                       : "the output is a file, a folder is to be written",
                target.string(), "choose another name");
  }
  if (occupant == Occupant::kEmptyFolder) return {};
  if (!options.overwrite) return FailExists(target);
  return folder ? AskToReplace(target, options) : Status{};
}

Status CheckFreeSpace(const fs::path& folder, const PublishOptions& options, uint64_t there = 0) {
  if (!options.expected_bytes || *options.expected_bytes <= there) return {};
  const uint64_t needed = *options.expected_bytes - there;
  struct statvfs info {};
  if (::statvfs(folder.c_str(), &info) != 0) {
    return Fail(ErrnoError(errno, "cannot look at the file system", folder));
  }
  const auto available = static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
  if (needed <= available) return {};
  Error e = ErrnoError(ENOSPC, "cannot write the output", folder);
  e.what =
      fmt::format("not enough space: {} bytes are to be written, {} are free", needed, available);
  return Fail(std::move(e));
}

// The canonical target, which may be written.
Result<fs::path> Prepare(const fs::path& requested, bool want_folder,
                         const PublishOptions& options) {
  WB_TRY(fs::path target, CanonicalTarget(requested));
  const fs::path folder = target.parent_path();
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    return Fail(ErrorKind::kNotFound, "not-found", "the folder of the output is not there",
                folder.string(), "create it first");
  }
  WB_RETURN_IF_ERROR(CheckOccupant(target, want_folder, options));
  return target;
}

Status SyncPath(const fs::path& path, int flags) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | flags);
  if (fd < 0) return Fail(ErrnoError(errno, "cannot open for syncing", path));
  const int rc = ::fsync(fd);
  const int error_number = errno;
  ::close(fd);
  // Some file systems cannot sync a folder; there is nothing more that could be done then.
  if (rc != 0 && !(error_number == EINVAL && (flags & O_DIRECTORY))) {
    return Fail(ErrnoError(error_number, "cannot sync", path));
  }
  return {};
}

Status SyncTree(const fs::path& root) {
  std::error_code error;
  fs::recursive_directory_iterator it(root, error);
  for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    const auto type = it->symlink_status(error).type();
    if (type == fs::file_type::regular) WB_RETURN_IF_ERROR(SyncPath(it->path(), 0));
    if (type == fs::file_type::directory) WB_RETURN_IF_ERROR(SyncPath(it->path(), O_DIRECTORY));
  }
  if (error) return Fail(ErrnoError(error.value(), "cannot list the folder", root));
  return SyncPath(root, O_DIRECTORY);
}

int Rename2(const fs::path& from, const fs::path& to, unsigned flags) {
  return ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags) == 0 ? 0 : errno;
}

bool Unsupported(int error_number) { return error_number == EINVAL || error_number == ENOSYS; }

// Gives `partial` the name `target`, which must not be taken (an empty folder may be).
Status RenameToFree(const fs::path& partial, const fs::path& target) {
  int error_number = Rename2(partial, target, RENAME_NOREPLACE);
  if (error_number == EEXIST || Unsupported(error_number)) {
    WB_TRY(const Occupant occupant, Look(target));
    if (occupant != Occupant::kNothing && occupant != Occupant::kEmptyFolder) {
      return FailExists(target);
    }
    error_number = ::rename(partial.c_str(), target.c_str()) == 0 ? 0 : errno;
  }
  if (error_number == ENOTEMPTY || error_number == EEXIST) return FailExists(target);
  if (error_number != 0) {
    return Fail(ErrnoError(error_number, "cannot publish the output", target));
  }
  return {};
}

// For file systems that cannot exchange two folders.
Result<Publication> ReplaceInTwoSteps(const fs::path& partial, const fs::path& target) {
  const fs::path old = target.string() + ".partial-old-" + RandomId();
  if (::rename(target.c_str(), old.c_str()) != 0) {
    return Fail(ErrnoError(errno, "cannot move the old output away", target));
  }
  if (::rename(partial.c_str(), target.c_str()) != 0) {
    const int error_number = errno;
    if (::rename(old.c_str(), target.c_str()) == 0) {
      return Fail(ErrnoError(error_number, "cannot publish the output", target));
    }
    return Fail(ErrorKind::kIo, "replace-interrupted",
                "the old output was moved away and the new one could not take its place",
                old.string(), "rename it back by hand");
  }
  Publication publication{PublishKind::kReplaced, std::nullopt};
  std::error_code error;
  fs::remove_all(old, error);
  if (error) publication.left_behind = old;
  return publication;
}

Result<Publication> Publish(const fs::path& partial, const fs::path& target,
                            const PublishOptions& options) {
  WB_TRY(const Occupant occupant, Look(target));
  if (!options.overwrite || occupant == Occupant::kNothing) {
    WB_RETURN_IF_ERROR(RenameToFree(partial, target));
    return Publication{};
  }
  if (occupant == Occupant::kFile) {
    if (::rename(partial.c_str(), target.c_str()) != 0) {
      return Fail(ErrnoError(errno, "cannot publish the output", target));
    }
    return Publication{PublishKind::kExchanged, std::nullopt};
  }
  // It may have been filled since the start.
  if (occupant == Occupant::kFolder) WB_RETURN_IF_ERROR(AskToReplace(target, options));
  const int error_number = Rename2(partial, target, RENAME_EXCHANGE);
  if (Unsupported(error_number)) return ReplaceInTwoSteps(partial, target);
  if (error_number != 0) {
    return Fail(ErrnoError(error_number, "cannot exchange old and new output", target));
  }
  Publication publication{PublishKind::kExchanged, std::nullopt};
  std::error_code error;
  fs::remove_all(partial, error);
  if (error) publication.left_behind = partial;
  return publication;
}

}  // namespace

std::string RandomId() {
  uint64_t random = 0;
  if (::getrandom(&random, sizeof(random), 0) != sizeof(random)) {
    random = static_cast<uint64_t>(::getpid());
  }
  return fmt::format("{:016x}", random);
}

Status ReplaceFile(const fs::path& path, std::string_view text, Durability durability) {
  const fs::path unnamed = fmt::format("{}.new-{}", path.string(), RandomId());
  const int fd = ::open(unnamed.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0) return Fail(ErrnoError(errno, "cannot create the file", path));
  Status status = WriteFully(fd, 0, AsBytes(text), path);
  if (status && durability == Durability::kSynced && ::fsync(fd) != 0) {
    status = Fail(ErrnoError(errno, "cannot sync", path));
  }
  if (::close(fd) != 0 && status) status = Fail(ErrnoError(errno, "cannot close", path));
  if (status && ::rename(unnamed.c_str(), path.c_str()) != 0) {
    status = Fail(ErrnoError(errno, "cannot rename the file", path));
  }
  if (!status) {
    ::unlink(unnamed.c_str());
    return status;
  }
  return durability == Durability::kSynced ? SyncPath(path.parent_path(), O_DIRECTORY) : status;
}

Status WriteFully(int fd, uint64_t offset, std::span<const std::byte> bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Fail(ErrnoError(errno, "cannot write", path));
    if (n == 0) return Fail(ErrnoError(ENOSPC, "cannot write", path));
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return {};
}

Result<AtomicFile> AtomicFile::Create(const fs::path& target, const PublishOptions& options) {
  WB_TRY(const fs::path canonical, Prepare(target, false, options));
  WB_RETURN_IF_ERROR(CheckFreeSpace(canonical.parent_path(), options));
  const fs::path partial = canonical.string() + ".partial-" + RandomId();
  AtomicFile file;
  file.overwrite_ = options.overwrite;
  file.target_ = canonical;
  RegisterUnfinished(partial);
  file.fd_ = ::open(partial.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file.fd_ < 0) {
    const int error_number = errno;
    ForgetUnfinished(partial);
    return Fail(ErrnoError(error_number, "cannot create the output", partial));
  }
  file.partial_ = partial;
  return file;
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : target_(std::move(other.target_)),
      partial_(std::exchange(other.partial_, {})),
      overwrite_(other.overwrite_),
      fd_(std::exchange(other.fd_, -1)),
      end_(other.end_) {}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (partial_.empty()) return;
  ::unlink(partial_.c_str());
  ForgetUnfinished(partial_);
}

Status AtomicFile::WriteAt(uint64_t offset, std::span<const std::byte> bytes) const {
  return WriteFully(fd_, offset, bytes, partial_);
}

Status AtomicFile::Append(std::string_view text) {
  WB_RETURN_IF_ERROR(WriteAt(end_, AsBytes(text)));
  end_ += text.size();
  return {};
}

Result<Publication> AtomicFile::Commit() {
  if (::fsync(fd_) != 0) return Fail(ErrnoError(errno, "cannot sync", partial_));
  // close() is where a network file system reports what it could not write.
  if (::close(std::exchange(fd_, -1)) != 0)
    return Fail(ErrnoError(errno, "cannot close", partial_));
  WB_TRY(const Publication publication, Publish(partial_, target_, {.overwrite = overwrite_}));
  ForgetUnfinished(partial_);
  partial_.clear();
  WB_RETURN_IF_ERROR(SyncPath(target_.parent_path(), O_DIRECTORY));
  return publication;
}

Result<AtomicDirectory> AtomicDirectory::Create(const fs::path& target,
                                                const PublishOptions& options) {
  WB_TRY(fs::path canonical, Prepare(target, true, options));
  WB_TRY(PartialFolder partial, PartialFolder::Open(canonical, options.job, options.discard));
  uint64_t finished = 0;
  for (const FinishedFile& file : partial.finished()) finished += file.nbytes;
  WB_RETURN_IF_ERROR(CheckFreeSpace(canonical.parent_path(), options, finished));
  return AtomicDirectory(std::move(canonical), options, std::move(partial));
}

Result<AtomicDirectory> AtomicDirectory::Join(const fs::path& partial) {
  WB_TRY(PartialFolder joined, PartialFolder::Join(partial));
  return AtomicDirectory({}, {}, std::move(joined));
}

Status AtomicDirectory::WriteFile(const fs::path& name, std::string_view text) const {
  const fs::path path = this->path() / name;
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return Fail(ErrnoError(errno, "cannot create the file", path));
  const Status written = WriteFully(fd, 0, AsBytes(text), path);
  const bool closed = ::close(fd) == 0;
  if (written && !closed) return Fail(ErrnoError(errno, "cannot close", path));
  return written;
}

Result<Publication> AtomicDirectory::Commit() {
  WB_RETURN_IF_ERROR(SyncTree(path()));
  WB_TRY(const Publication publication, Publish(path(), target_, options_));
  WB_RETURN_IF_ERROR(SyncPath(target_.parent_path(), O_DIRECTORY));
  partial_.Published();
  return publication;
}

}  // namespace weighbridge
