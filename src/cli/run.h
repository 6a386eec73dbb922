// The whole program behind main(), so that tests can call it.
#pragma once

namespace weighbridge::cli {

// Parses the command line, runs one command, returns the exit status of DESIGN §2.
int Run(int argc, char** argv);

}  // namespace weighbridge::cli
