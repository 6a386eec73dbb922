#include "base/shrunk_files.h"

#include <semaphore.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>

#include "base/file.h"

namespace weighbridge {
namespace {

struct State {
  struct sigaction before {};
  pid_t process = 0;
  void (*tell)() = nullptr;
  sem_t shrunk{};
  std::atomic<int> untold{0};
  std::atomic<uint64_t> count{0};
  // The name of the file: written by the handler while `busy`, read when `has_name`.
  std::atomic_flag busy = ATOMIC_FLAG_INIT;
  std::atomic<bool> has_name{false};
  std::array<char, 512> name{};
};

// Never destroyed: the handler may run while the process ends.
State& TheState() {
  static auto* state = new State();
  return *state;
}

void LeaveToOthers(int number, siginfo_t* info, void* context) {
  const struct sigaction& before = TheState().before;
  if ((before.sa_flags & SA_SIGINFO) != 0 && before.sa_sigaction != nullptr) {
    before.sa_sigaction(number, info, context);
  } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
    before.sa_handler(number);
  } else if (info != nullptr && info->si_code <= 0) {
    // It was sent: once, and to what was there before us.
    if (before.sa_handler == SIG_IGN) return;
    ::signal(number, SIG_DFL);
    ::raise(number);
  } else {
    // The fault happens again and ends the process, as it would have without us.
    ::signal(number, SIG_DFL);
  }
}

// The first file counts until it is taken.
void Remember(const char* file) {
  State& state = TheState();
  state.count.fetch_add(1);
  if (state.busy.test_and_set()) return;
  if (!state.has_name.load()) {
    std::strncpy(state.name.data(), file, state.name.size() - 1);
    state.has_name.store(true);
  }
  state.busy.clear();
}

// Until the caller has been told, so that nothing is done with the zeros before; not for ever.
void WaitUntilTold() {
  State& state = TheState();
  state.untold.fetch_add(1);
  ::sem_post(&state.shrunk);
  const timespec a_while{.tv_sec = 0, .tv_nsec = 1'000'000};
  for (int i = 0; i < 1000 && state.untold.load() > 0; ++i) ::nanosleep(&a_while, nullptr);
}

void OnSigbus(int number, siginfo_t* info, void* context) {
  const int saved = errno;
  // A number that was sent has no address.
  const bool fault = info != nullptr && info->si_code > 0 && ::getpid() == TheState().process;
  const char* file = fault ? MappedFileNameAt(info->si_addr) : "";
  if (*file == '\0' || !PutZerosFrom(info->si_addr)) {
    LeaveToOthers(number, info, context);
  } else {
    Remember(file);
    WaitUntilTold();
  }
  errno = saved;
}

void TellForEver() {
  State& state = TheState();
  while (true) {
    while (::sem_wait(&state.shrunk) != 0) {
    }
    state.tell();
    state.untold.fetch_sub(1);
  }
}

void StartThread() {
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, &before);
  try {
    std::thread(TellForEver).detach();
    TheState().process = ::getpid();
  } catch (const std::system_error&) {
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Install(void (*tell)()) {
  State& state = TheState();
  state.tell = tell;
  if (::sem_init(&state.shrunk, 0, 0) != 0) return;
  StartThread();
  if (state.process == 0) return;
  struct sigaction action {};
  action.sa_sigaction = OnSigbus;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  ::sigaction(SIGBUS, nullptr, &state.before);
  ::sigaction(SIGBUS, &action, nullptr);
}

}  // namespace

void SurviveShrunkFiles(void (*tell)()) {
  static std::once_flag once;
  std::call_once(once, Install, tell);
}

std::string TakeShrunkFile() {
  State& state = TheState();
  if (!state.has_name.load()) return "";
  while (state.busy.test_and_set()) std::this_thread::yield();
  const std::string name = state.has_name.exchange(false) ? state.name.data() : "";
  state.busy.clear();
  return name;
}

uint64_t ShrunkFileCount() { return TheState().count.load(); }

std::string LastShrunkFile() {
  State& state = TheState();
  while (state.busy.test_and_set()) std::this_thread::yield();
  const std::string name = state.name.data();
  state.busy.clear();
  return name;
}

}  // namespace weighbridge
