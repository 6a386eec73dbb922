#include "base/subprocess.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <string_view>
#include <thread>

#include "base/file.h"

extern char** environ;

namespace weighbridge {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMostErrors = 64u << 10;

// A file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() { Close(); }
  void Close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  int get() const { return fd_; }
  bool open() const { return fd_ >= 0; }

 private:
  int fd_;
};

// A pair of sockets, which unlike a pipe can be written to without a signal when nobody reads.
struct Channel {
  Descriptor ours, theirs;
};

Result<Channel> MakeChannel() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return Fail(ErrnoError(errno, "cannot make a channel to another program", ""));
  }
  Channel channel{Descriptor(ends[0]), Descriptor(ends[1])};
  ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
  return channel;
}

std::vector<std::string> EnvironmentOf(const Subprocess& what) {
  std::map<std::string, std::string> values;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const size_t sign = text.find('=');
    if (sign == std::string_view::npos) continue;
    values.emplace(text.substr(0, sign), text.substr(sign + 1));
  }
  for (const auto& [name, value] : what.environment) values[name] = value;
  std::vector<std::string> entries;
  for (const auto& [name, value] : values) entries.push_back(name + "=" + value);
  return entries;
}

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

// Starts the program in a process group of its own, with these as its standard streams.
Result<pid_t> Spawn(const Subprocess& what, int in, int out, int err) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, in, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&files, err, STDERR_FILENO);
  // This program blocks and ignores signals that the other one needs.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  std::vector<std::string> argv = what.argv, environment = EnvironmentOf(what);
  pid_t pid = 0;
  const int failed = ::posix_spawnp(&pid, argv[0].c_str(), &files, &attributes,
                                    Pointers(argv).data(), Pointers(environment).data());
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&attributes);
  if (failed == ENOENT) {
    return Fail(ErrorKind::kNotFound, "program-missing", "there is no such program", what.argv[0]);
  }
  if (failed != 0) return Fail(ErrnoError(failed, "cannot start the program", what.argv[0]));
  return pid;
}

class Running {
 public:
  explicit Running(const Subprocess& what) : what_(what) {}

  Result<SubprocessResult> Run() {
    WB_RETURN_IF_ERROR(Start());
    WB_RETURN_IF_ERROR(Talk());
    Reap();
    return std::move(result_);
  }

  ~Running() {
    if (pid_ <= 0) return;
    Kill();
    Reap();
  }

 private:
  Status Start() {
    WB_TRY(Channel in, MakeChannel());
    WB_TRY(Channel out, MakeChannel());
    WB_TRY(Channel err, MakeChannel());
    WB_TRY(pid_, Spawn(what_, in.theirs.get(), out.theirs.get(), err.theirs.get()));
    in_ = std::move(in.ours);
    out_ = std::move(out.ours);
    err_ = std::move(err.ours);
    if (what_.input.empty()) in_.Close();
    return {};
  }

  Status Talk() {
    const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                             std::chrono::duration<double>(what_.timeout_s));
    while (out_.open() || err_.open()) {
      std::array<pollfd, 3> fds = {pollfd{in_.get(), POLLOUT, 0}, pollfd{out_.get(), POLLIN, 0},
                                   pollfd{err_.get(), POLLIN, 0}};
      int wait_ms = -1;
      if (what_.timeout_s > 0 && !result_.timed_out) {
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
        wait_ms = static_cast<int>(std::clamp<int64_t>(left + 1, 0, 1 << 30));
      }
      const int ready = ::poll(fds.data(), fds.size(), wait_ms);
      if (ready < 0 && errno != EINTR) {
        return Fail(ErrnoError(errno, "cannot wait for the program", what_.argv[0]));
      }
      if (ready == 0) {
        result_.timed_out = true;
        Kill();
        continue;
      }
      if (ready < 0) continue;
      if (fds[0].revents != 0) Write();
      if (fds[1].revents != 0) Read(out_, result_.out);
      if (fds[2].revents != 0) Read(err_, result_.err);
      if (result_.out.size() > what_.most_output) {
        return Fail(ErrorKind::kUnsupported, "program-output",
                    fmt::format("the program says more than {} bytes", what_.most_output),
                    what_.argv[0]);
      }
      if (result_.err.size() > 2 * kMostErrors) KeepEnd();
    }
    KeepEnd();
    return {};
  }

  void Write() {
    const ssize_t n = ::send(in_.get(), what_.input.data() + written_,
                             what_.input.size() - written_, MSG_NOSIGNAL);
    if (n > 0) written_ += static_cast<size_t>(n);
    const bool gone = n < 0 && errno != EAGAIN && errno != EINTR;
    if (gone || written_ == what_.input.size()) in_.Close();
  }

  static void Read(Descriptor& from, std::string& to) {
    std::array<char, 1 << 16> block;
    const ssize_t n = ::read(from.get(), block.data(), block.size());
    if (n > 0) to.append(block.data(), static_cast<size_t>(n));
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) from.Close();
  }

  void KeepEnd() {
    std::string& err = result_.err;
    if (err.size() > kMostErrors) err.erase(0, err.size() - kMostErrors);
  }

  void Kill() const { ::kill(-pid_, SIGKILL); }

  void Reap() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = 0;
    result_.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  const Subprocess& what_;
  SubprocessResult result_;
  Descriptor in_, out_, err_;
  pid_t pid_ = 0;
  size_t written_ = 0;
};

}  // namespace

Result<SubprocessResult> RunSubprocess(const Subprocess& what) { return Running(what).Run(); }

Status Companions::Start(const Subprocess& what) {
  const Descriptor nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!nothing.open()) return Fail(ErrnoError(errno, "cannot be opened", "/dev/null"));
  WB_TRY(const pid_t pid, Spawn(what, nothing.get(), nothing.get(), STDERR_FILENO));
  pids_.push_back(pid);
  return {};
}

Companions::~Companions() {
  constexpr auto kPatience = std::chrono::seconds(10);
  constexpr auto kPause = std::chrono::milliseconds(5);
  const auto deadline = Clock::now() + kPatience;
  const auto ended = [](int pid) { return ::waitpid(pid, nullptr, WNOHANG) != 0; };
  while (!pids_.empty() && Clock::now() < deadline) {
    std::erase_if(pids_, ended);
    if (!pids_.empty()) std::this_thread::sleep_for(kPause);
  }
  for (const int pid : pids_) {
    ::kill(-pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
}

}  // namespace weighbridge
