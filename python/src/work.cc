#include "python/src/work.h"

#include <nanobind/nanobind.h>
#include <signal.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "base/shrunk_files.h"
#include "base/stop.h"
#include "python/src/errors.h"

namespace nb = nanobind;

namespace weighbridge::python {
namespace {

constexpr std::chrono::milliseconds kLookForSignals{50};

Error ShrunkError(const std::string& file) {
  return {ErrorKind::kIo, "file-shrank",
          "a file shrank, or could not be read, while it was in use: what was read are zeros", file,
          "is another program writing it? open it again when it is complete"};
}

// Raises in the main thread, at the next instruction of Python's, what a file that shrank has done.
int RaiseShrunk(void*) {
  const std::string file = TakeShrunkFile();
  if (file.empty()) return 0;  // Run has raised it
  try {
    Raise(ShrunkError(file));
  } catch (nb::python_error& error) {
    error.restore();
  }
  return -1;
}

// On the thread of base/shrunk_files.h, without the GIL.
void TellPython() {
  constexpr int kTries = 100;  // while 32 calls of others are pending
  for (int i = 0; i < kTries && Py_AddPendingCall(RaiseShrunk, nullptr) != 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

// Blocks the signals that are Python's to handle in the threads that are started while it lives.
// Faults are the thread's own.
class NoSignals {
 public:
  NoSignals() {
    sigset_t all;
    sigfillset(&all);
    for (const int fault : {SIGBUS, SIGSEGV, SIGFPE, SIGILL}) sigdelset(&all, fault);
    ::pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  ~NoSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  NoSignals(const NoSignals&) = delete;
  NoSignals& operator=(const NoSignals&) = delete;

 private:
  sigset_t before_;
};

class Worker {
 public:
  explicit Worker(const std::function<void()>& work) {
    const NoSignals blocked;
    thread_ = std::thread([this, &work] {
      {
        const StopScope scope(&stop_);
        work();
      }
      const std::lock_guard lock(mutex_);
      done_ = true;
      ended_.notify_all();
    });
  }
  ~Worker() { thread_.join(); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  void Stop() { stop_ = true; }
  // True when the work has ended.
  bool WaitForAWhile() {
    std::unique_lock lock(mutex_);
    return ended_.wait_for(lock, kLookForSignals, [this] { return done_; });
  }

 private:
  StopFlag stop_{false};
  std::mutex mutex_;
  std::condition_variable ended_;
  bool done_ = false;
  std::thread thread_;
};

}  // namespace

void Run(const std::function<void()>& work) {
  SurviveShrunkFiles(TellPython);
  // Not "is there one to take": another thread may take it, and this one has read the zeros.
  const uint64_t before = ShrunkFileCount();
  bool raised = false;
  {
    const nb::gil_scoped_release released;
    Worker worker(work);
    while (!worker.WaitForAWhile()) {
      if (raised) continue;
      const nb::gil_scoped_acquire held;
      raised = PyErr_CheckSignals() != 0;
      if (raised) worker.Stop();
    }
  }
  if (raised) throw nb::python_error();
  if (ShrunkFileCount() == before) return;
  TakeShrunkFile();  // told here
  Raise(ShrunkError(LastShrunkFile()));
}

}  // namespace weighbridge::python
