#include "base/partial_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
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

// A descriptor that holds the lock; -1: another holds it, the file system knows no locks, or there
// is no file to lock and none is to be made.
int TakeLock(const fs::path& folder, int kind, bool make = false) {
  const fs::path path = folder / kLock;
  const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | (make ? O_CREAT : 0);
  const int fd = ::open(path.c_str(), flags, 0666);
  if (fd < 0 || ::flock(fd, kind | LOCK_NB) == 0) return fd;
  const int error_number = errno;
  ::close(fd);
  errno = error_number;
  return -1;
}

bool MakeFolder(const fs::path& path) { return ::mkdir(path.c_str(), 0777) == 0; }

// The name under which a folder is made; it has its own once it is whole and locked.
fs::path Unnamed(const fs::path& named) {
  return named.parent_path() / fmt::format(".{}-new", named.filename().string());
}

bool IsUnnamed(const fs::path& folder) { return folder.filename().string().starts_with('.'); }

// Whether a start made the folder: RandomId as its name's end, and nothing in it but what Make()
// puts there (less, when it was being removed). A user's folder of a similar name is none of ours.
bool IsPartial(const fs::path& folder, std::string_view id) {
  if (id.size() != 16 || id.find_first_not_of("0123456789abcdef") != std::string_view::npos) {
    return false;
  }
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    const bool ours = name == "files" || name == kJournal || name == kLock || name == kJob ||
                      name.starts_with("job.new-");  // ReplaceFile was killed
    if (!ours) return false;
  }
  return !error;
}

// The folders that other starts for `target` made.
std::vector<fs::path> Siblings(const fs::path& target) {
  const std::string prefix = target.filename().string() + ".partial-";
  const std::string hidden = "." + prefix, end_of_hidden = "-new";
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(target.parent_path(), error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    std::string_view id = name;
    if (id.starts_with(prefix)) {
      id.remove_prefix(prefix.size());
    } else if (id.starts_with(hidden) && id.ends_with(end_of_hidden)) {
      id.remove_prefix(hidden.size());
      id.remove_suffix(end_of_hidden.size());
    } else {
      continue;
    }
    std::error_code ignored;
    const bool folder = it->symlink_status(ignored).type() == fs::file_type::directory;
    if (folder && IsPartial(it->path(), id)) found.push_back(it->path());
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
    candidate.lock_ = TakeLock(sibling, LOCK_EX, true);
    if (candidate.lock_ < 0) continue;
    candidate.path_ = sibling;
    candidate.owner_ = true;
    if (IsUnnamed(sibling)) continue;  // a start that was killed before it began
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
// Before it is locked another start may: then it is gone, and is made again.
Status PartialFolder::Make(const fs::path& target, const std::optional<JobKey>& job) {
  constexpr int kTries = 8;
  for (int tried = 1;; ++tried) {
    const fs::path named = target.string() + ".partial-" + RandomId();
    RegisterUnfinished(named);
    Status made = MakeNamed(named, job);
    if (made) return made;
    RemoveTree(Unnamed(named));
    ForgetUnfinished(named);
    if (made.error().kind != ErrorKind::kNotFound || tried == kTries) return made;
  }
}

Status PartialFolder::MakeNamed(const fs::path& named, const std::optional<JobKey>& job) {
  const fs::path unnamed = Unnamed(named);
  const auto fail = [&] {
    return Fail(ErrnoError(errno, "cannot create the output folder", named));
  };
  if (!MakeFolder(unnamed)) return fail();
  lock_ = TakeLock(unnamed, LOCK_EX, true);
  Status status;
  // Another start was faster and takes it for abandoned.
  if (lock_ < 0 && errno == EWOULDBLOCK) {
    return Fail(ErrorKind::kNotFound, "not-found", "the output folder was removed", named.string());
  }
  if (!MakeFolder(unnamed / "files") || !MakeFolder(unnamed / kJournal)) {
    status = fail();
  } else if (job) {
    status = ReplaceFile(unnamed / kJob, JobText(*job), Durability::kSynced);
  }
  if (status && ::rename(unnamed.c_str(), named.c_str()) != 0) status = fail();
  if (!status) {
    if (lock_ >= 0) ::close(lock_);
    lock_ = -1;
    return status;
  }
  path_ = named;
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
