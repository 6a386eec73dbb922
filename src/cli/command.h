// What every command shares: the context, the output options, and the table of commands.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "checks/result.h"

namespace weighbridge::cli {

// -q -v -vv --color --top, --json --html --junit --card FILE|-
struct OutputOptions {
  bool quiet = false;
  int verbose = 0;
  std::string color = "auto";  // auto, always, never
  int top = 10;                // failed rows shown; 0: all
  std::string json, html, junit, card;
};

struct Context {
  std::vector<std::string> argv;  // as typed, for `reproduce`
  OutputOptions output;
  // Set by the command's callback; the process exits with it.
  int exit_status = 0;
};

// Adds one subcommand to `app`; its callback runs the command and sets context.exit_status.
struct Command {
  const char* name;
  void (*add)(CLI::App& app, Context& context);
};

// Every command, in the order of the help page (commands.cc).
std::span<const Command> AllCommands();

// Adds the output options to a command that yields a Report.
void AddOutputOptions(CLI::App& command, Context& context);

// Prints `error: WHAT`, `  at: AT`, `  hint: HINT` on stderr and returns the exit status of DESIGN §2:
// 1 for kCorrupt, else 2.
int PrintError(const Error& error);

// Completes the report (argv, peak memory), writes every output that was asked for, and returns the exit status.
// A report file that cannot be written is status 2.
int Emit(Context& context, Report& report);

// True when results on stdout may be coloured: --color, NO_COLOR, TERM and whether stdout is a
// terminal.
bool UseColor(const OutputOptions& options);

// Rewrites what users of the Python scripts type: `--foo_bar` becomes `--foo-bar` (values untouched).
std::vector<std::string> NormalizeArguments(int argc, char** argv);

}  // namespace weighbridge::cli
