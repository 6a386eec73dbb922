// Stopping work from outside, for a program that this code is only a part of: the Python package's
// Ctrl-C. The command-line program ends as a whole instead (base/interrupt.h).
#pragma once

#include <atomic>

#include "base/result.h"

namespace weighbridge {

using StopFlag = std::atomic<bool>;

// While it lives, the work that this thread begins, on whatever threads (base/threads.h), stops
// soon after `flag` is set. What a stopped call returns is an error "interrupted" or of no meaning:
// whoever set the flag drops it.
class StopScope {
 public:
  explicit StopScope(const StopFlag* flag);
  ~StopScope();
  StopScope(const StopScope&) = delete;
  StopScope& operator=(const StopScope&) = delete;

 private:
  const StopFlag* const before_;
};

// The flag that this thread's work heeds; nullptr: none.
const StopFlag* CurrentStop();
bool StopRequested();
// Of kind kUsage: the caller withdrew what it asked for.
Error Interrupted();

}  // namespace weighbridge
