// The sibling TARGET.partial-ID in which a folder is made before it gets its name:
//
//   files/     what will be published
//   journal/   which of these files are finished (base/journal.h)
//   job        what makes them, for a start that wants to go on (JobKey)
//   lock       locked by every process that works here (flock)
//
// A killed process leaves one behind. The next start for the same target takes it over when it is
// its own job's, else removes it; never that of a living process. Where the file system knows no
// locks nothing is known of other processes: nothing is taken over and nothing removed.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/journal.h"
#include "base/result.h"

namespace weighbridge {

// Two starts with equal keys write the same bytes. Each is one line of text, normally a hash.
struct JobKey {
  std::string source;  // what is read: paths, sizes, times
  std::string work;    // what is done with it: the plan, the options, the version
};

class PartialFolder {
 public:
  // Takes over or removes what earlier starts for `target` left, and makes a new one if need be.
  // Without `job` nothing is taken over or kept. `discard`: nothing is taken over.
  static Result<PartialFolder> Open(const std::filesystem::path& target,
                                    const std::optional<JobKey>& job, bool discard);
  // One that another process of the same job opened and shares.
  static Result<PartialFolder> Join(const std::filesystem::path& folder);
  PartialFolder(PartialFolder&& other) noexcept;
  PartialFolder& operator=(PartialFolder&& other) noexcept;
  // Removes the folder, unless it was joined or keeps finished files.
  ~PartialFolder();

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path files() const { return path_ / "files"; }
  // What an earlier start of this job finished, as its journal has it, with the right sizes.
  const std::vector<FinishedFile>& finished() const { return finished_; }
  // Not empty: why an earlier start's work was not taken over.
  const std::string& note() const { return note_; }

  // Lets other processes Join.
  Status Share();
  // From now on `file` survives this process. Thread-safe.
  Status Record(const FinishedFile& file) const;
  // A file that turned out not to be what the journal says.
  void Forget(const std::string& name);
  // Nothing of it is to be kept.
  void Discard() { keep_ = false; }
  // Whether there is anything to go on from.
  bool KeepsFinishedFiles() const;
  // The files have their name; removes the rest.
  void Published();

 private:
  PartialFolder() = default;
  Status MakeNamed(const std::filesystem::path& named, const std::optional<JobKey>& job);
  Status Make(const std::filesystem::path& target, const std::optional<JobKey>& job);
  // Locked by this process. True when it was taken over; else it was removed.
  bool TakeOver(const std::optional<JobKey>& job);
  void Tidy();
  void Release();

  std::filesystem::path path_;
  std::vector<FinishedFile> finished_;
  std::string note_;
  int lock_ = -1;
  bool owner_ = false, keep_ = false;
};

}  // namespace weighbridge
