// The whole program behind main(), so that tests can call it.
#pragma once

#include <string>
#include <vector>

namespace weighbridge::cli {

// Parses the command line, runs one command, returns the exit status of DESIGN §2.
int Run(int argc, char** argv);

// The same without the process's handlers of signals. `argv[0]` is the program's name.
int RunCommand(const std::vector<std::string>& argv);

}  // namespace weighbridge::cli
