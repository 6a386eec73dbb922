#include "base/memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <chrono>
#include <string_view>
#include <system_error>
#include <thread>

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

}  // namespace

uint64_t AnonymousBytes() {
  const int fd = ::open("/proc/self/status", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  char text[4096];
  const ssize_t n = ::read(fd, text, sizeof(text));
  ::close(fd);
  if (n <= 0) return 0;
  const std::string_view status(text, static_cast<size_t>(n));
  constexpr std::string_view kKey = "RssAnon:";
  size_t at = status.find(kKey);
  if (at == std::string_view::npos) return 0;
  at = status.find_first_not_of(" \t", at + kKey.size());
  if (at == std::string_view::npos) return 0;
  uint64_t kib = 0;
  std::from_chars(text + at, text + n, kib);
  return kib * 1024;
}

uint64_t PeakAnonymousBytes() {
  StartSampler();
  return Sample();
}

}  // namespace weighbridge
