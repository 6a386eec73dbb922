// `families lint --bridge FILE` and `families from-bridge FILE`: a bridge in Python, by its dump.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/command.h"

namespace weighbridge::cli {

struct LintBridgeArguments {
  std::string bridge, runtime;
  std::vector<std::string> families;
};

// --bridge, --runtime, --family and the output options.
void AddLintBridgeOptions(CLI::App& command, Context& context, LintBridgeArguments& arguments);

// The family file that `families from-bridge` drafts of a dump.
Result<std::string> DraftFromBridge(const std::string& bridge, const std::string& name);

// Judges the dump and emits the report. Returns the exit status.
int LintBridge(Context& context, const LintBridgeArguments& arguments);

}  // namespace weighbridge::cli
