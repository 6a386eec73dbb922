// A command inside another program (the Python package): the same command line, the same checks of
// its options; what would be printed is returned.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "checks/result.h"

namespace weighbridge::cli {

struct CallResult {
  int status = 2;                // what the process would end with
  std::optional<Report> report;  // of a command that yields one
  std::vector<Error> errors;     // what would stand on stderr
  std::string text;              // what else would stand on stdout
};

// `arguments` as after the program's name. Reports are not rendered; files that options name are
// written. Nothing is printed but warnings and, on a terminal, progress. From any thread; the
// work heeds its StopScope. Never throws.
CallResult Call(const std::vector<std::string>& arguments);

// The call that this thread is in; nullptr: none, results are to be printed.
CallResult* CurrentCall();

}  // namespace weighbridge::cli
