// Running independent pieces of work on several threads.
#pragma once

#include <cstddef>
#include <functional>

#include "base/result.h"

namespace weighbridge {

// The processors that this process may use (its affinity mask); at least 1.
int DefaultThreads();

// Calls fn(0) ... fn(count - 1), each once, on at most `threads` threads (the caller's is one of
// them) and returns when all are done. Pieces are handed out in rising order but finish in any
// order, so a result that must not depend on the number of threads is stored per piece and combined
// after. `fn` must not throw. threads <= 1 runs everything on the calling thread. Pieces that were
// not begun when the caller's work is stopped (base/stop.h) are left out.
void ParallelFor(size_t count, int threads, const std::function<void(size_t)>& fn);

// The same for work that can fail: returns the first error to arrive. Pieces that were not begun by
// then are left out; Interrupted() when the caller's work is stopped.
Status TryParallelFor(size_t count, int threads, const std::function<Status(size_t)>& fn);

}  // namespace weighbridge
