// Another program, run to its end: no shell, its own process group, text in and text out.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace weighbridge {

struct Subprocess {
  std::vector<std::string> argv;  // argv[0] is looked for in PATH where it has no slash
  std::vector<std::pair<std::string, std::string>> environment;  // besides the caller's own
  std::string input;                                             // of its standard input
  double timeout_s = 0;              // 0: none; after it the whole group is killed
  uint64_t most_output = 16u << 20;  // of standard output; more is an error
};

struct SubprocessResult {
  int status = 0;  // of its exit; 128 + the number of the signal that ended it
  bool timed_out = false;
  std::string out, err;  // of `err` the last 64 KiB
};

// Returns when the program has ended and closed both outputs. Errors: kNotFound "program-missing";
// kPermission, kIo; kUnsupported "program-output" when it says more than `most_output`. From any
// thread.
Result<SubprocessResult> RunSubprocess(const Subprocess& what);

// Programs that run beside this one: nothing to read, their standard output nowhere, their standard
// error this program's. Not thread-safe.
class Companions {
 public:
  Companions() = default;
  Companions(Companions&& other) noexcept : pids_(std::exchange(other.pids_, {})) {}
  Companions& operator=(Companions&&) = delete;
  // Gives those that still run a while to end by themselves, then ends them.
  ~Companions();

  // Starts `what`, of which argv and environment count. Errors as RunSubprocess.
  Status Start(const Subprocess& what);

 private:
  std::vector<int> pids_;
};

}  // namespace weighbridge
