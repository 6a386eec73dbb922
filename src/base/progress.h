// A line of progress on stderr: bytes done, bytes/s, time left. Only on a terminal, and only for
// work that takes longer than a second; otherwise nothing is printed at all.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

namespace weighbridge {

// "2.50 GB of 10.0 GB, 1.25 GB/s, 6.00 s left"; the last two parts only when they are known.
std::string ProgressLine(uint64_t done, uint64_t total, double seconds);

class Progress {
 public:
  // `total` bytes will be announced by Add; 0 when it is not known. `what` starts the line.
  Progress(std::string what, uint64_t total);
  ~Progress();  // clears the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Thread-safe and cheap: prints at most ten times a second.
  void Add(uint64_t bytes);

 private:
  using Clock = std::chrono::steady_clock;
  const std::string what_;
  const uint64_t total_;
  const bool enabled_;
  const Clock::time_point start_ = Clock::now();
  std::atomic<uint64_t> done_{0};
  std::atomic<int64_t> next_print_ms_{1000};
  std::mutex mutex_;
  bool printed_ = false;
};

}  // namespace weighbridge
