#include "base/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <mutex>
#include <set>
#include <string>
#include <system_error>
#include <thread>

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

constexpr std::array kSignals = {SIGINT, SIGTERM, SIGHUP};

struct Registry {
  std::mutex mutex;
  std::set<std::string> paths;
  const char* text = "";
};

// Never destroyed: the waiting thread may need it while the process ends.
Registry& TheRegistry() {
  static auto* registry = new Registry();
  return *registry;
}

void Put(const char* text) {
  [[maybe_unused]] const auto n = ::write(STDERR_FILENO, text, std::strlen(text));
}

// Other threads may still create files in a folder while it is removed, so it is tried again.
void Remove(const fs::path& path) {
  constexpr int kTries = 100;
  for (int i = 0; i < kTries; ++i) {
    std::error_code error;
    fs::remove_all(path, error);
    if (!error && !fs::exists(fs::symlink_status(path, error))) return;
    ::usleep(5000);
  }
}

[[noreturn]] void End(int number) {
  if (::isatty(STDERR_FILENO) != 0) Put("\r\x1b[K");
  Put("interrupted\n");
  // Kept locked: what is being registered now comes too late.
  TheRegistry().mutex.lock();
  Put(TheRegistry().text);
  for (const std::string& path : TheRegistry().paths) Remove(path);
  ::_exit(128 + number);
}

// nohup ignores SIGHUP, and a shell SIGINT of what it runs in the background: both are to stay so,
// and waiting for a signal would take even an ignored one.
bool IsIgnored(int number) {
  struct sigaction action {};
  return ::sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

void EndAtOnce(int number) { ::_exit(128 + number); }

}  // namespace

void HandleInterrupts() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : kSignals) {
    if (!IsIgnored(number)) sigaddset(&signals, number);
  }
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  try {
    std::thread([signals] {
      int number = 0;
      while (::sigwait(&signals, &number) != 0) {
      }
      End(number);
    }).detach();
  } catch (const std::system_error&) {
    for (const int number : kSignals) {
      if (!IsIgnored(number)) ::signal(number, EndAtOnce);
    }
    ::pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  }
}

void RegisterUnfinished(const fs::path& path) {
  const std::lock_guard lock(TheRegistry().mutex);
  TheRegistry().paths.insert(path.string());
}

void ForgetUnfinished(const fs::path& path) {
  const std::lock_guard lock(TheRegistry().mutex);
  TheRegistry().paths.erase(path.string());
}

void SayWhenInterrupted(const char* text) {
  const std::lock_guard lock(TheRegistry().mutex);
  TheRegistry().text = text;
}

}  // namespace weighbridge
