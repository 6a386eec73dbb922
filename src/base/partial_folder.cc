#include "base/partial_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "base/atomic_output.h"
#include "base/file.h"
#include "base/interrupt.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

constexpr char kJob[] = "job", kJournal[] = "journal", kLock[] = "lock";
constexpr uint64_t kMaxJobBytes = 4096;

std::string JobText(const JobKey& job) {
  return fmt::format("weighbridge job 1\nsource {}\nwork {}\n", job.source, job.work);
}

// A descriptor that holds the lock; -1: another holds it, or the file system knows no locks.
int TakeLock(const fs::path& folder, int kind) {
  const fs::path path = folder / kLock;
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd < 0 || ::flock(fd, kind | LOCK_NB) == 0) return fd;
  ::close(fd);
  return -1;
}

bool MakeFolder(const fs::path& path) { return ::mkdir(path.c_str(), 0777) == 0; }

// The folders that other starts for `target` made.
std::vector<fs::path> Siblings(const fs::path& target) {
  const std::string prefix = target.filename().string() + ".partial-";
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(target.parent_path(), error), end; !error && it != end;
       it.increment(error)) {
    std::error_code ignored;
    if (it->path().filename().string().starts_with(prefix) &&
        it->symlink_status(ignored).type() == fs::file_type::directory) {
      found.push_back(it->path());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

void RemoveTree(const fs::path& path) {
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

}  // namespace

Result<PartialFolder> PartialFolder::Open(const fs::path& target, const std::optional<JobKey>& job,
                                          bool discard) {
  PartialFolder chosen;
  std::string note;
  for (const fs::path& sibling : Siblings(target)) {
    PartialFolder candidate;
    candidate.lock_ = TakeLock(sibling, LOCK_EX);
    if (candidate.lock_ < 0) continue;
    candidate.path_ = sibling;
    candidate.owner_ = true;
    if (chosen.path_.empty() && !discard && candidate.TakeOver(job)) {
      chosen = std::move(candidate);
    } else if (!candidate.note_.empty()) {
      note = candidate.note_;
    }
  }
  if (chosen.path_.empty()) {
    chosen.note_ = note;
    WB_RETURN_IF_ERROR(chosen.Make(target, job));
  }
  chosen.keep_ = job.has_value();
  return chosen;
}

Result<PartialFolder> PartialFolder::Join(const fs::path& folder) {
  PartialFolder joined;
  std::error_code error;
  if (!fs::is_directory(folder / "files", error)) {
    return Fail(ErrorKind::kNotFound, "not-found",
                "the folder that rank 0 works in is not to be seen here", folder.string(),
                "all ranks have to see the same file system");
  }
  joined.path_ = folder;
  joined.keep_ = true;
  joined.lock_ = TakeLock(folder, LOCK_SH);
  return joined;
}

// Makes the folder and locks it before it has its name, so that nobody takes it for abandoned.
Status PartialFolder::Make(const fs::path& target, const std::optional<JobKey>& job) {
  const fs::path named = target.string() + ".partial-" + RandomId();
  const fs::path unnamed = named.string() + "-new";
  const auto fail = [&](int error_number) {
    RemoveTree(unnamed);
    ForgetUnfinished(named);
    return Fail(ErrnoError(error_number, "cannot create the output folder", named));
  };
  RegisterUnfinished(named);
  if (!MakeFolder(unnamed)) return fail(errno);
  const int lock = TakeLock(unnamed, LOCK_EX);
  if (!MakeFolder(unnamed / "files") || !MakeFolder(unnamed / kJournal)) {
    const int error_number = errno;
    if (lock >= 0) ::close(lock);
    return fail(error_number);
  }
  Status status;
  if (job) status = ReplaceFile(unnamed / kJob, JobText(*job), Durability::kSynced);
  if (!status || ::rename(unnamed.c_str(), named.c_str()) != 0) {
    const int error_number = errno;
    if (lock >= 0) ::close(lock);
    if (status) return fail(error_number);
    RemoveTree(unnamed);
    ForgetUnfinished(named);
    return status;
  }
  path_ = named;
  lock_ = lock;
  owner_ = true;
  return {};
}

bool PartialFolder::TakeOver(const std::optional<JobKey>& job) {
  const auto text = ReadTextFile(path_ / kJob, kMaxJobBytes);
  if (job && text && *text == JobText(*job)) {
    Tidy();
    keep_ = true;
    if (!finished_.empty()) return true;
    keep_ = false;
    return false;
  }
  if (!Journal(path_ / kJournal).Read().empty()) {
    const bool other_source =
        job && text && text->find(fmt::format("work {}\n", job->work)) != std::string::npos;
    note_ = fmt::format("what an earlier start left unfinished was discarded: it was made {}",
                        other_source ? "from another state of the source" : "with other options");
  }
  return false;
}

// Leaves what is finished.
void PartialFolder::Tidy() {
  const Journal journal(path_ / kJournal);
  std::error_code error;
  for (FinishedFile& file : journal.Read()) {
    const fs::path path = files() / file.name;
    const bool regular = fs::is_regular_file(fs::symlink_status(path, error));
    if (regular && fs::file_size(path, error) == file.nbytes && !error) {
      finished_.push_back(std::move(file));
    } else {
      journal.Remove(file.name);
    }
  }
  std::vector<fs::path> others;
  for (fs::recursive_directory_iterator it(files(), error), end; !error && it != end;
       it.increment(error)) {
    if (it->symlink_status(error).type() == fs::file_type::directory) continue;
    const fs::path name = it->path().lexically_relative(files());
    const auto same = [&](const FinishedFile& file) { return file.name == name; };
    if (std::none_of(finished_.begin(), finished_.end(), same)) others.push_back(it->path());
  }
  for (const fs::path& path : others) RemoveTree(path);
}

Status PartialFolder::Share() {
  if (lock_ < 0 || ::flock(lock_, LOCK_SH | LOCK_NB) == 0) return {};
  return Fail(ErrorKind::kUsage, "output-busy", "another process took over the unfinished output",
              path_.string(), "let one of them finish first");
}

Status PartialFolder::Record(const FinishedFile& file) const {
  // From here on an interrupt leaves the folder, whatever it finds in the journal.
  if (owner_ && keep_) {
    ForgetUnfinished(path_);
    SayWhenInterrupted("finished files are kept: the same command goes on from them\n");
  }
  return Journal(path_ / kJournal).Add(file);
}

void PartialFolder::Forget(const std::string& name) {
  Journal(path_ / kJournal).Remove(name);
  RemoveTree(files() / name);
  std::erase_if(finished_, [&](const FinishedFile& file) { return file.name == name; });
}

bool PartialFolder::KeepsFinishedFiles() const {
  return keep_ && !path_.empty() && !Journal(path_ / kJournal).Read().empty();
}

void PartialFolder::Published() {
  RemoveTree(path_);
  keep_ = false;
  Release();
}

PartialFolder::PartialFolder(PartialFolder&& other) noexcept { *this = std::move(other); }

PartialFolder& PartialFolder::operator=(PartialFolder&& other) noexcept {
  if (this == &other) return *this;
  Release();
  path_ = std::exchange(other.path_, {});
  finished_ = std::move(other.finished_);
  note_ = std::move(other.note_);
  lock_ = std::exchange(other.lock_, -1);
  owner_ = other.owner_;
  keep_ = other.keep_;
  return *this;
}

PartialFolder::~PartialFolder() { Release(); }

void PartialFolder::Release() {
  if (!path_.empty() && owner_) {
    if (!KeepsFinishedFiles()) RemoveTree(path_);
    ForgetUnfinished(path_);
  }
  if (lock_ >= 0) ::close(std::exchange(lock_, -1));
  path_.clear();
}

}  // namespace weighbridge
