#include "base/memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <string_view>
#include <system_error>
#include <thread>

#include "base/threads.h"

namespace weighbridge {
namespace {

std::atomic<uint64_t> g_peak{0};

uint64_t Sample() {
  const uint64_t now = AnonymousBytes();
  uint64_t peak = g_peak.load();
  while (now > peak && !g_peak.compare_exchange_weak(peak, now)) {
  }
  return g_peak.load();
}

void StartSampler() {
  [[maybe_unused]] static const bool started = [] {
    try {
      std::thread([] {
        for (;;) {
          Sample();
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
      }).detach();
      return true;
    } catch (const std::system_error&) {
      return false;  // samples on call remain
    }
  }();
}

// The number behind `key` in a file of /proc, in bytes; 0 where it is not there.
uint64_t KilobytesIn(const char* file, std::string_view key) {
  const int fd = ::open(file, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  char text[4096];
  const ssize_t n = ::read(fd, text, sizeof(text));
  ::close(fd);
  if (n <= 0) return 0;
  const std::string_view status(text, static_cast<size_t>(n));
  size_t at = status.find(key);
  if (at == std::string_view::npos) return 0;
  at = status.find_first_not_of(" \t", at + key.size());
  if (at == std::string_view::npos) return 0;
  uint64_t kib = 0;
  std::from_chars(text + at, text + n, kib);
  return kib * 1024;
}

}  // namespace

uint64_t AnonymousBytes() { return KilobytesIn("/proc/self/status", "RssAnon:"); }

uint64_t AvailableMemory() { return KilobytesIn("/proc/meminfo", "MemAvailable:"); }

uint64_t PeakAnonymousBytes() {
  StartSampler();
  return Sample();
}

BlockBudget DivideMemory(int64_t memory_bytes, int threads, int blocks_per_thread,
                         int64_t max_bytes) {
  constexpr int64_t kMinBytes = 64 << 10;
  const int64_t wanted = threads > 0 ? threads : DefaultThreads();
  const int64_t affordable = std::max<int64_t>(1, memory_bytes / (kMinBytes * blocks_per_thread));
  BlockBudget budget;
  budget.threads = static_cast<int>(std::min(wanted, affordable));
  budget.bytes = std::clamp(memory_bytes / (int64_t{blocks_per_thread} * budget.threads), kMinBytes,
                            std::max(kMinBytes, max_bytes));
  return budget;
}

}  // namespace weighbridge
