#include "base/file_coordinator.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include "base/atomic_output.h"
#include "base/file.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr auto kBeat = std::chrono::seconds(1);
constexpr auto kLook = std::chrono::milliseconds(200);
constexpr auto kGoodbye = std::chrono::seconds(5);  // what rank 0 waits for the others to leave

std::chrono::duration<double> Since(Clock::time_point start) { return Clock::now() - start; }

// Waits between two looks: short at first, then longer.
class Pause {
 public:
  void operator()() {
    std::this_thread::sleep_for(time_);
    time_ = std::min(time_ * 2, std::chrono::microseconds(50'000));
  }

 private:
  std::chrono::microseconds time_{500};
};

// Of a file of the kernel, whose size is said to be 0.
std::string FirstLine(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// The running kernel: locks are seen by all its processes. "" when it is not known.
std::string BootId() { return FirstLine("/proc/sys/kernel/random/boot_id"); }
std::string HostName() { return FirstLine("/proc/sys/kernel/hostname"); }

// null when it is not there or is no JSON object.
json ReadObject(const fs::path& path) {
  const auto text = ReadTextFile(path);
  if (!text) return nullptr;
  json value = json::parse(*text, nullptr, /*allow_exceptions=*/false);
  return value.is_object() ? value : json();
}

std::string Text(const json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

bool Flag(const json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && it != object.end() && it->is_boolean() && it->get<bool>();
}

int64_t Number(const json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  const bool there = object.is_object() && it != object.end() && it->is_number_integer();
  return there ? it->get<int64_t>() : -1;
}

enum class Lock { kFree, kHeld, kUnknown };  // kUnknown: no such file, or no locks here

Lock LookAtLock(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Lock::kUnknown;
  const int error_number = ::flock(fd, LOCK_SH | LOCK_NB) == 0 ? 0 : errno;
  ::close(fd);
  if (error_number == 0) return Lock::kFree;
  return error_number == EWOULDBLOCK ? Lock::kHeld : Lock::kUnknown;
}

// Listing a folder shows what was added on another host; asking a network file system for a name
// may show for half a minute that it was not there.
std::set<std::string> List(const fs::path& folder) {
  std::set<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    names.insert(it->path().filename().string());
  }
  return names;
}

std::string DumpJson(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

json ToJson(const Error& e) {
  return {{"kind", static_cast<int>(e.kind)},
          {"id", e.id},
          {"what", e.what},
          {"at", e.at},
          {"hint", e.hint}};
}

std::optional<Error> ErrorIn(const json& state) {
  if (!state.is_object() || !state.contains("error") || !state["error"].is_object()) {
    return std::nullopt;
  }
  const json& e = state["error"];
  const int64_t kind = Number(e, "kind");
  Error error{ErrorKind::kInternal, Text(e, "id"), Text(e, "what"), Text(e, "at"), Text(e, "hint")};
  if (kind >= 0 && kind < static_cast<int64_t>(ErrorKind::kInternal)) {
    error.kind = static_cast<ErrorKind>(kind);
  }
  return error;
}

// Another rank as this one sees it.
struct Peer {
  int rank = 0;
  std::string host, process, boot;
  std::string last;                        // its state when it was last read
  Clock::time_point heard = Clock::now();  // when that changed
  bool left = false;

  std::string Name() const {
    return fmt::format("rank {} (process {} on {})", rank, process, host);
  }
};

class FileCoordinator : public Coordinator {
 public:
  explicit FileCoordinator(const FileCoordinatorOptions& options) : options_(options) {}
  ~FileCoordinator() override {
    if (session_.empty()) return;
    Stop();
    Leave();
  }

  int rank() const override { return options_.launch.rank; }
  int size() const override { return options_.launch.size; }

  Status Start() {
    std::error_code error;
    fs::create_directories(options_.folder, error);
    if (error) {
      return Fail(
          ErrnoError(error.value(), "cannot make the folder where the ranks meet", options_.folder)
              .Hint("name another that all ranks see with --rendezvous DIR"));
    }
    WB_RETURN_IF_ERROR(first() ? Invite() : Answer());
    watch_ = std::thread([this] { Watch(); });
    return {};
  }

  Result<std::vector<std::string>> Gather(const std::string& text) override {
    const int number = next_++;
    if (!first()) {
      WB_RETURN_IF_ERROR(Put(fmt::format("gather-{}-{}", number, rank()), text));
      return std::vector<std::string>();
    }
    std::vector<std::string> all(static_cast<size_t>(size()));
    all[0] = text;
    for (int r = 1; r < size(); ++r) {
      const fs::path path = session_ / fmt::format("gather-{}-{}", number, r);
      WB_TRY(all[static_cast<size_t>(r)], Await(path));
      std::error_code ignored;
      fs::remove(path, ignored);
    }
    return all;
  }

  Result<std::string> Broadcast(const std::string& text) override {
    const std::string name = fmt::format("all-{}", next_++);
    if (!first()) return Await(session_ / name);
    WB_RETURN_IF_ERROR(Put(name, text));
    return text;
  }

  Status Check() override {
    const std::lock_guard lock(mutex_);
    if (error_) return tl::unexpected(*error_);
    return {};
  }

  Error Abort(const Error& error) override {
    {
      const std::lock_guard lock(mutex_);
      if (first() && !error_) error_ = error;
      own_error_ = first() ? *error_ : error;
    }
    WriteState();
    if (first()) return *own_error_;
    // Rank 0 decides: another rank may have failed before this one.
    const auto start = Clock::now();
    for (Pause pause; Check() && Since(start).count() < options_.timeout_s; pause()) {
    }
    const Status decided = Check();
    return decided ? error : decided.error();
  }

  bool Speaks() override {
    const std::lock_guard lock(mutex_);
    return first() || orphaned_;
  }

 private:
  // --- meeting ---

  json Hello(const std::string& nonce) const {
    return {{"nonce", nonce},
            {"job", options_.launch.job},
            {"size", size()},
            {"host", HostName()},
            {"process", std::to_string(::getpid())},
            {"boot", BootId()}};
  }

  Peer PeerOf(int rank, const json& hello) const {
    Peer peer;
    peer.rank = rank;
    peer.host = Text(hello, "host");
    peer.process = Text(hello, "process");
    peer.boot = Text(hello, "boot");
    return peer;
  }

  fs::path HelloPath(int rank) const { return options_.folder / fmt::format("hello-{}", rank); }

  // Of this job, whichever start of it.
  bool IsOurs(const json& hello) const {
    return Text(hello, "job") == options_.launch.job && Number(hello, "size") == size();
  }

  Status OpenSession(const fs::path& session) {
    session_ = session;
    const fs::path lock = session / fmt::format("lock-{}", rank());
    lock_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock_ >= 0) ::flock(lock_, LOCK_EX | LOCK_NB);
    return Put(fmt::format("state-{}", rank()), StateText());
  }

  // What an earlier job left here is as old as its last hello. The session's name is new each time,
  // so nothing in it is old; a hello may be, until its rank writes a new one.
  Status Invite() {
    const std::string id = "session-" + RandomId();
    WB_RETURN_IF_ERROR(RemoveOtherSessions());
    const fs::path session = options_.folder / id;
    std::error_code error;
    if (!fs::create_directory(session, error)) {
      return Fail(
          ErrnoError(error.value(), "cannot make the folder where the ranks meet", session));
    }
    WB_RETURN_IF_ERROR(OpenSession(session));
    const auto start = Clock::now();
    bool said = false;
    json invited;
    for (Pause pause;; pause()) {
      json guests = json::array();
      guests.push_back(Hello(id));
      for (int r = 1; r < size(); ++r) {
        const json hello = ReadObject(HelloPath(r));
        guests.push_back(IsOurs(hello) ? hello : json());
      }
      if (guests != invited) {
        WB_RETURN_IF_ERROR(ReplaceFile(options_.folder / "session",
                                       DumpJson({{"id", id}, {"guests", guests}}),
                                       Durability::kNone));
        invited = guests;
      }
      const std::vector<int> missing = Missing();
      if (missing.empty()) break;
      if (!said && Since(start).count() > 10 && options_.say) {
        options_.say(fmt::format("waiting for {} in {} ({} of {}; --launcher none runs alone)",
                                 Ranks(missing), options_.folder.string(), size() - missing.size(),
                                 size()));
        said = true;
      }
      if (Since(start).count() > options_.start_timeout_s) return FailMissing(missing);
    }
    for (int r = 1; r < size(); ++r) peers_.push_back(PeerOf(r, invited[static_cast<size_t>(r)]));
    std::error_code ignored;
    for (int r = 1; r < size(); ++r) fs::remove(HelloPath(r), ignored);
    fs::remove(options_.folder / "session", ignored);
    return {};
  }

  std::vector<int> Missing() const {
    const std::set<std::string> there = List(session_);
    std::vector<int> missing;
    for (int r = 1; r < size(); ++r) {
      if (!there.contains(fmt::format("ready-{}", r))) missing.push_back(r);
    }
    return missing;
  }

  static std::string Ranks(std::vector<int> ranks) {
    const size_t more = ranks.size() > 8 ? ranks.size() - 8 : 0;
    ranks.resize(ranks.size() - more);
    return fmt::format("rank{} {}{}", ranks.size() == 1 ? "" : "s", fmt::join(ranks, ", "),
                       more > 0 ? fmt::format(" and {} more", more) : "");
  }

  Status FailMissing(const std::vector<int>& missing) const {
    return Fail(ErrorKind::kIo, "rank-missing",
                fmt::format("{} of {} did not come within {:.0f} s", Ranks(missing), size(),
                            options_.start_timeout_s),
                options_.folder.string(),
                "all ranks have to see this folder; run alone with --launcher none");
  }

  Status FailBusy(const std::string& what) const {
    return Fail(ErrorKind::kUsage, "job-busy", what, options_.folder.string(),
                "let one job finish before the other begins");
  }

  // What Welcome() makes: whatever else has such a name is not ours.
  static bool IsSession(const fs::path& path) {
    std::error_code error;
    return path.filename().string().starts_with("session-") &&
           fs::is_directory(fs::symlink_status(path, error)) &&
           fs::is_regular_file(fs::symlink_status(path / "lock-0", error));
  }

  // The folder itself only when nothing else is in it.
  void RemoveMeeting() const {
    std::error_code ignored;
    for (const std::string& name : List(options_.folder)) {
      const fs::path path = options_.folder / name;
      const bool file = name == "session" || name.starts_with("hello-");
      if (file && fs::is_regular_file(fs::symlink_status(path, ignored))) fs::remove(path, ignored);
      if (IsSession(path)) fs::remove_all(path, ignored);
    }
    ::rmdir(options_.folder.c_str());
  }

  Status RemoveOtherSessions() const {
    std::error_code ignored;
    for (const std::string& name : List(options_.folder)) {
      if (!IsSession(options_.folder / name)) continue;
      if (LookAtLock(options_.folder / name / "lock-0") == Lock::kHeld) {
        return FailBusy("another job meets here");
      }
      fs::remove_all(options_.folder / name, ignored);
    }
    return {};
  }

  Status Answer() {
    const json hello = Hello(RandomId());
    WB_RETURN_IF_ERROR(ReplaceFile(HelloPath(rank()), DumpJson(hello), Durability::kNone));
    const auto start = Clock::now();
    for (Pause pause;; pause()) {
      const json session = ReadObject(options_.folder / "session");
      const json guests = session.is_object() ? session.value("guests", json()) : json();
      if (guests.is_array() && guests.size() == static_cast<size_t>(size()) &&
          guests[static_cast<size_t>(rank())] == hello) {
        peers_.push_back(PeerOf(0, guests[0]));
        WB_RETURN_IF_ERROR(OpenSession(options_.folder / Text(session, "id")));
        return Put(fmt::format("ready-{}", rank()), "");
      }
      const json mine = ReadObject(HelloPath(rank()));
      if (mine.is_object() && mine != hello) {
        return FailBusy(
            fmt::format("another process says that it is rank {} of {} here", rank(), size()));
      }
      if (Since(start).count() > options_.start_timeout_s) return FailMissing({0});
    }
  }

  // --- talking ---

  Status Put(const std::string& name, const std::string& text) const {
    return ReplaceFile(session_ / name, text, Durability::kNone);
  }

  Result<std::string> Await(const fs::path& path) {
    const std::string name = path.filename().string();
    for (Pause pause;; pause()) {
      WB_RETURN_IF_ERROR(Check());
      if (List(path.parent_path()).contains(name)) return ReadTextFile(path, UINT64_MAX);
    }
  }

  // --- watching ---

  std::string StateText() {
    const std::lock_guard lock(mutex_);
    json state = {{"beat", beat_}, {"left", left_}};
    if (own_error_) state["error"] = ToJson(*own_error_);
    return DumpJson(state);
  }

  void WriteState() {
    // A beat that fails is missed by those who wait for it.
    [[maybe_unused]] const Status written = Put(fmt::format("state-{}", rank()), StateText());
  }

  void Watch() {
    auto next_beat = Clock::now();
    for (std::unique_lock lock(stop_mutex_);
         !stop_.wait_for(lock, kLook, [&] { return ended_; });) {
      const bool beat = Clock::now() >= next_beat;
      if (beat) {
        next_beat = Clock::now() + kBeat;
        {
          const std::lock_guard guard(mutex_);
          ++beat_;
        }
        WriteState();
      }
      for (Peer& peer : peers_) {
        if (auto error = Look(peer, beat)) Note(*std::move(error));
      }
    }
  }

  // What is wrong with the other rank.
  std::optional<Error> Look(Peer& peer, bool beat) {
    if (peer.left) return std::nullopt;
    const bool ended = IsOnThisHost(peer) && LockIsFree(peer.rank);
    if (!ended && !beat) return std::nullopt;
    const auto text = ReadTextFile(session_ / fmt::format("state-{}", peer.rank));
    if (text && *text != peer.last) {
      peer.last = *text;
      peer.heard = Clock::now();
    }
    const json state = json::parse(peer.last, nullptr, /*allow_exceptions=*/false);
    peer.left = Flag(state, "left");
    if (auto error = ErrorIn(state)) {
      if (first()) error->what = fmt::format("{}: {}", peer.Name(), error->what);
      return error;
    }
    if (peer.left) return std::nullopt;
    if (ended) return Lost(peer, "was killed or crashed");
    if (Since(peer.heard).count() < options_.timeout_s) return std::nullopt;
    return Lost(peer, fmt::format("was not heard of for {:.0f} s", options_.timeout_s));
  }

  Error Lost(const Peer& peer, const std::string& how) {
    if (peer.rank == 0) {
      const std::lock_guard lock(mutex_);
      orphaned_ = true;
    }
    return {ErrorKind::kIo, "rank-lost", fmt::format("{} {}", peer.Name(), how), "",
            "start the job again: what is finished is kept"};
  }

  bool IsOnThisHost(const Peer& peer) const { return !boot_.empty() && peer.boot == boot_; }

  bool LockIsFree(int rank) const {
    return LookAtLock(session_ / fmt::format("lock-{}", rank)) == Lock::kFree;
  }

  // The first error counts; rank 0 passes it on.
  void Note(Error error) {
    {
      const std::lock_guard lock(mutex_);
      if (error_) return;
      error_ = std::move(error);
      if (first()) own_error_ = error_;
    }
    if (first()) WriteState();
  }

  // --- leaving ---

  void Stop() {
    {
      const std::lock_guard lock(stop_mutex_);
      ended_ = true;
    }
    stop_.notify_all();
    if (watch_.joinable()) watch_.join();
  }

  void Leave() {
    {
      const std::lock_guard lock(mutex_);
      left_ = true;
    }
    WriteState();
    if (first()) AwaitLeaving();
    if (lock_ >= 0) ::close(lock_);
  }

  // The others may still have to read what was said last.
  void AwaitLeaving() {
    const auto start = Clock::now();
    bool all = false;
    for (Pause pause; !all && Clock::now() - start < kGoodbye; pause()) {
      all = true;
      for (Peer& peer : peers_) {
        if (!peer.left && !(IsOnThisHost(peer) && LockIsFree(peer.rank))) {
          peer.left = Flag(ReadObject(session_ / fmt::format("state-{}", peer.rank)), "left");
          all = all && peer.left;
        }
      }
    }
    if (all) RemoveMeeting();
  }

  const FileCoordinatorOptions options_;
  fs::path session_;
  std::vector<Peer> peers_;  // whom this rank watches; of the watching thread once it runs
  const std::string boot_ = BootId();
  int lock_ = -1, next_ = 0;

  std::mutex mutex_;  // guards the following
  uint64_t beat_ = 0;
  bool left_ = false, orphaned_ = false;
  std::optional<Error> error_;      // what the job ends with, as far as this rank knows
  std::optional<Error> own_error_;  // what this rank tells

  std::thread watch_;
  std::mutex stop_mutex_;
  std::condition_variable stop_;
  bool ended_ = false;  // guarded by stop_mutex_
};

}  // namespace

Result<std::unique_ptr<Coordinator>> JoinInFolder(const FileCoordinatorOptions& options) {
  auto coordinator = std::make_unique<FileCoordinator>(options);
  WB_RETURN_IF_ERROR(coordinator->Start());
  return std::unique_ptr<Coordinator>(std::move(coordinator));
}

}  // namespace weighbridge
