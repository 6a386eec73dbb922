#include "base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "base/strings.h"

namespace weighbridge {

std::string ProgressLine(uint64_t done, uint64_t total, double seconds) {
  std::string line = FormatBytes(done);
  if (total > 0) line += fmt::format(" of {}", FormatBytes(total));
  if (seconds <= 0 || done == 0) return line;
  const double rate = static_cast<double>(done) / seconds;
  line += fmt::format(", {}/s", FormatBytes(static_cast<uint64_t>(rate)));
  if (total > done) {
    line += fmt::format(", {} left", FormatDuration(static_cast<double>(total - done) / rate));
  }
  return line;
}

Progress::Progress(std::string what, uint64_t total)
    : what_(std::move(what)), total_(total), enabled_(::isatty(STDERR_FILENO) != 0) {}

Progress::~Progress() {
  if (printed_) fmt::print(stderr, "\r\x1b[K");
}

void Progress::Add(uint64_t bytes) {
  const uint64_t done = done_.fetch_add(bytes) + bytes;
  if (!enabled_) return;
  const std::chrono::duration<double, std::milli> elapsed = Clock::now() - start_;
  const auto now = static_cast<int64_t>(elapsed.count());
  int64_t due = next_print_ms_.load();
  if (now < due || !next_print_ms_.compare_exchange_strong(due, now + 100)) return;
  const std::lock_guard lock(mutex_);
  printed_ = true;
  fmt::print(stderr, "\r\x1b[K{}: {}", what_, ProgressLine(done, total_, elapsed.count() / 1000));
  std::fflush(stderr);
}

}  // namespace weighbridge
