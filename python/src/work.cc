#include "python/src/work.h"

#include <nanobind/nanobind.h>
#include <signal.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/stop.h"

namespace nb = nanobind;

namespace weighbridge::python {
namespace {

constexpr std::chrono::milliseconds kLookForSignals{50};

// Blocks every signal in the threads that are started while it lives: those are Python's to handle.
class NoSignals {
 public:
  NoSignals() {
    sigset_t all;
    sigfillset(&all);
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
}

}  // namespace weighbridge::python
