// A folder of files that the ranks of a job write together, each whole files: what an earlier start
// finished is kept, the rest is divided by bytes. One process is a job of one rank.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/atomic_output.h"
#include "base/ranks.h"
#include "base/result.h"
#include "formats/shard_file.h"

namespace weighbridge {

struct PlannedFile {
  std::string name;
  uint64_t nbytes = 0;
};

struct RankedOutputOptions {
  PublishOptions publish;  // with a job
  // Files of an earlier start are read and compared with their checksums; nullopt: believed.
  std::optional<ReadBackMode> recheck = ReadBackMode::kPage;
  int threads = 1;
};

class RankedOutput {
 public:
  // Called by all ranks with equal arguments. `ranks` must outlive this. Errors: those of
  // AtomicDirectory; kInvalid "ranks-disagree" when they read or would write different things.
  static Result<RankedOutput> Open(Coordinator& ranks, const std::filesystem::path& target,
                                   const std::vector<PlannedFile>& files,
                                   const RankedOutputOptions& options);

  std::filesystem::path path() const { return folder_.path(); }
  const AtomicDirectory& folder() const { return folder_; }
  // What this rank's writer is to do. `this` must outlive the writer and not be moved meanwhile.
  ShardOptions Shards();
  // Of the files that this rank writes.
  uint64_t own_bytes() const { return own_bytes_; }

  // What is to be said on stderr: how much is taken over, or why nothing is.
  const std::vector<std::string>& notes() const { return notes_; }
  size_t reused_files() const { return reused_files_; }
  uint64_t reused_bytes() const { return reused_bytes_; }

  // Rank 0, once all ranks have finished their files.
  Result<Publication> Commit() { return folder_.Commit(); }

  // The work ended with `error`: what there is to go on from, as a hint; "" when nothing is kept.
  std::string Keep(const Error& error);

 private:
  explicit RankedOutput(AtomicDirectory folder) : folder_(std::move(folder)) {}
  Status Recheck(Coordinator& ranks, const RankedOutputOptions& options,
                 std::vector<FinishedFile>& finished);
  void Divide(const Coordinator& ranks, const std::vector<PlannedFile>& files,
              const std::vector<FinishedFile>& finished);

  AtomicDirectory folder_;
  std::vector<bool> skip_;
  size_t planned_files_ = 0, reused_files_ = 0;
  uint64_t own_bytes_ = 0, reused_bytes_ = 0;
  std::vector<std::string> notes_;
};

}  // namespace weighbridge
