// Runs the real program the way a shell does, for tests of exit statuses and streams.
#pragma once

#include <string>
#include <vector>

namespace weighbridge::testing {

struct ProgramRun {
  int status = -1;  // exit status; 128 + signal when a signal ended it
  std::string out, err;
};

// Runs `script` under `bash -c`; $W is the program. PATH and the like are inherited.
ProgramRun Shell(const std::string& script);

// Runs the program with `arguments`, each passed as it is.
ProgramRun Program(const std::vector<std::string>& arguments);

// A fresh folder that lives until the process ends.
std::string FreshFolder();

void WriteFile(const std::string& path, const std::string& text);
std::string ReadFile(const std::string& path);

}  // namespace weighbridge::testing
