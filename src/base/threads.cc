#include "base/threads.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "base/stop.h"

namespace weighbridge {

int DefaultThreads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void ParallelFor(size_t count, int threads, const std::function<void(size_t)>& fn) {
  std::atomic<size_t> next{0};
  const auto work = [&, stop = CurrentStop()] {
    const StopScope scope(stop);
    for (size_t i = next.fetch_add(1); i < count && !StopRequested(); i = next.fetch_add(1)) fn(i);
  };
  const size_t helpers = std::min(count, static_cast<size_t>(std::max(threads, 1)));
  std::vector<std::thread> pool;
  for (size_t i = 1; i < helpers; ++i) {
    try {
      pool.emplace_back(work);
    } catch (const std::system_error&) {
      break;  // the system gives no more threads: those that run do all the work
    }
  }
  work();
  for (std::thread& thread : pool) thread.join();
}

Status TryParallelFor(size_t count, int threads, const std::function<Status(size_t)>& fn) {
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::optional<Error> error;  // guarded by mutex
  ParallelFor(count, threads, [&](size_t i) {
    if (failed) return;
    Status status = fn(i);
    if (status) return;
    const std::lock_guard lock(mutex);
    if (!failed.exchange(true)) error = std::move(status).error();
  });
  if (error) return Fail(*std::move(error));
  if (StopRequested()) return Fail(Interrupted());
  return {};
}

}  // namespace weighbridge
