// Output that appears whole or not at all. Work goes to a sibling TARGET.partial-ID on the same
// file system; Commit() syncs it and renames it to TARGET. An object that is destroyed before
// Commit() succeeded removes its partial, and so does an interrupt (base/interrupt.h), unless files
// in it are finished and a second start of the same job can go on from them
// (base/partial_folder.h); a killed process leaves one behind, never a broken TARGET.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/partial_folder.h"
#include "base/result.h"

namespace weighbridge {

struct PublishOptions {
  bool overwrite = false;
  // Folders only: whether what is in the way may be removed. Asked before anything is written and
  // again before old and new change places. Without it no folder that holds anything is replaced:
  // a typing mistake must not cost a home directory.
  std::function<Status(const std::filesystem::path&)> may_replace;
  // What will be written, when it is known: compared with the free space before anything is
  // written.
  std::optional<uint64_t> expected_bytes;
  // Folders only: finished files of an earlier start of this job are kept, and this one's survive.
  std::optional<JobKey> job;
  bool discard = false;  // with `job`: begin afresh
};

enum class PublishKind {
  kCreated,    // there was nothing under the name
  kExchanged,  // old and new changed places in one step
  kReplaced,   // a folder, in two steps: the name was absent for a moment (say so aloud)
};

struct Publication {
  PublishKind kind = PublishKind::kCreated;
  // The old content that could not be removed after the exchange.
  std::optional<std::filesystem::path> left_behind;
};

// Writes all of `bytes` at `offset`, whatever the kernel returns in between. `path` is for
// messages.
Status WriteFully(int fd, uint64_t offset, std::span<const std::byte> bytes,
                  const std::filesystem::path& path);

// 16 hexadecimal digits that nobody else has.
std::string RandomId();

enum class Durability { kNone, kSynced };

// Gives `path` a new content in one step: nobody ever sees half of it. kSynced: it is on the disk
// on return. Removes what it began after an error.
Status ReplaceFile(const std::filesystem::path& path, std::string_view text, Durability durability);

// One file. Not copyable; WriteAt may be called from several threads.
class AtomicFile {
 public:
  // Errors: kUsage when the target exists without `overwrite`, or is a folder; kNotFound when its
  // folder is not there; kPermission; kIo disk-full.
  static Result<AtomicFile> Create(const std::filesystem::path& target,
                                   const PublishOptions& options = {});
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  int fd() const { return fd_; }
  const std::filesystem::path& partial() const { return partial_; }

  Status WriteAt(uint64_t offset, std::span<const std::byte> bytes) const;
  Status Append(std::string_view text);
  // fsync, rename, fsync of the folder. After an error the target is what it was before.
  Result<Publication> Commit();

 private:
  AtomicFile() = default;
  std::filesystem::path target_, partial_;
  bool overwrite_ = false;
  int fd_ = -1;
  uint64_t end_ = 0;  // of what Append wrote
};

// A folder; the caller writes any files and folders below path().
class AtomicDirectory {
 public:
  // As AtomicFile::Create; an empty folder counts as absent. Without `overwrite` a folder that is
  // not empty is kUsage; with it and the consent of `may_replace` the whole old folder is replaced
  // and removed.
  static Result<AtomicDirectory> Create(const std::filesystem::path& target,
                                        const PublishOptions& options = {});
  AtomicDirectory(AtomicDirectory&& other) noexcept = default;
  AtomicDirectory& operator=(AtomicDirectory&&) = delete;

  // Takes part in what another process created with a job and shared (partial().Share()): writes
  // files and records them; must not Commit.
  static Result<AtomicDirectory> Join(const std::filesystem::path& partial);

  // Where to write; its name is the target's only after Commit().
  std::filesystem::path path() const { return partial_.files(); }
  PartialFolder& partial() { return partial_; }
  const std::filesystem::path& target() const { return target_; }

  // Creates or replaces one small file in path(), for example config.json.
  Status WriteFile(const std::filesystem::path& name, std::string_view text) const;
  // Syncs every file and folder below path(), then publishes. After an error the target is what it
  // was before, unless the error's id is "replace-interrupted" (two-step replacement; `at` names
  // the old).
  Result<Publication> Commit();

 private:
  AtomicDirectory(std::filesystem::path target, PublishOptions options, PartialFolder partial)
      : target_(std::move(target)), options_(std::move(options)), partial_(std::move(partial)) {}
  std::filesystem::path target_;
  PublishOptions options_;
  PartialFolder partial_;
};

}  // namespace weighbridge
