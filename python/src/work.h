// Long work called from Python: without the GIL, and stopped by Ctrl-C.
#pragma once

#include <functional>

namespace weighbridge::python {

// Runs `work` on a thread of its own and waits for it, looking for signals in between. When one
// raises (KeyboardInterrupt), the work is stopped (base/stop.h) and, once it has ended, the
// exception thrown on as nanobind::python_error. `work` must not touch Python objects and must not
// throw. A file that shrank meanwhile raises Error "file-shrank". The GIL is held by the caller and
// given up while waiting.
void Run(const std::function<void()>& work);

}  // namespace weighbridge::python
