#include "cli/call.h"

#include "cli/run.h"

namespace weighbridge::cli {
namespace {

thread_local CallResult* current = nullptr;

}  // namespace

CallResult* CurrentCall() { return current; }

CallResult Call(const std::vector<std::string>& arguments) {
  std::vector<std::string> argv = {"weighbridge"};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  CallResult result;
  CallResult* const before = current;
  current = &result;
  result.status = RunCommand(argv);
  current = before;
  return result;
}

}  // namespace weighbridge::cli
