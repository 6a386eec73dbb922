// What `import` and `export` share: the summary of a conversion that was made.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "base/atomic_output.h"
#include "cli/command.h"
#include "cli/output_guard.h"

namespace weighbridge::cli {

struct Conversion {
  std::string command, source, target, family, format;
  std::string next;  // the command line that judges it
  size_t tensors = 0, files = 0;
  uint64_t bytes = 0;
  double seconds = 0;
  bool read_back = false;
  std::vector<std::string> copied, notes;
  Publication published;
};

struct ConversionOutput {
  std::string json;
  bool quiet = false;
};

void AddConversionOutput(CLI::App& command, ConversionOutput& output);

// The usage error in where the JSON goes, if there is one.
Status CheckConversionOutput(const ConversionOutput& output, const CommandInputs& inputs);

// Prints the summary and notes; returns the exit status.
int PrintConversion(const Conversion& done, const ConversionOutput& output);

}  // namespace weighbridge::cli
