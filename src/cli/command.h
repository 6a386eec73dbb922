// What every command shares: the context, the output options, and the table of commands.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "checks/result.h"
#include "cli/output_guard.h"
#include "report/sink.h"

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

// Adds the output options to a command that yields a Report. Two outputs on stdout and outputs that
// cannot be written are usage errors before the command starts.
void AddOutputOptions(CLI::App& command, Context& context);

// The spellings under which users of the Python scripts know the two paths; append them to a
// positional: add_option(std::string("MODEL,") + kHfSpellings, ...). Help does not list them.
inline constexpr char kHfSpellings[] = "--hf-model-id,--hf-model-path,--hf-path";
inline constexpr char kMegatronSpellings[] =
    "--megatron-path,--megatron-model-path,--megatron-save-path";

// Adds examples to a command's help, one command line each (shown by -h and --help).
void AddExamples(CLI::App& command, const std::vector<std::string>& lines);

// A number from `min` to `max`. CLI11's own ranges let "nan" through, with which every comparison
// passes.
CLI::Validator FiniteFrom(double min, double max = std::numeric_limits<double>::max());

// Prints `error: WHAT`, `  at: AT`, `  hint: HINT` on stderr and returns the exit status of DESIGN
// §2: 1 for kCorrupt, else 2. Inside a call (cli/call.h) it is kept instead of printed.
int PrintError(const Error& error);

// Completes the report (argv, version, peak memory), writes every output that was asked for, and
// returns the exit status. Exactly one document goes to stdout: the one whose FILE is `-`, else the
// terminal rendering. An output that cannot be written is status 2; a reader of stdout that left is
// no error.
int Emit(Context& context, Report& report);

// Emits the report of a command that ended with `error`: a checkpoint found bad (kCorrupt) is the
// verdict 'fail' with the error's id as its cause, anything else is 'undecided'. Returns the
// status.
int EmitError(Context& context, const std::string& command, const std::string& level,
              const Error& error);

// Emit for finished reports, each left as it is (`weighbridge report`); the status is the worst
// one, 2 before 1 before 0.
int EmitSaved(const Context& context, const std::vector<Report>& reports);

// The usage error in a set of outputs, if there is one: two on stdout, a folder that is not there.
Status CheckOutputs(const OutputOptions& output);

// The usage error of outputs that would overwrite what the command reads, or each other
// (cli/output_guard.h). Every command that reads files calls it before it opens them.
Status CheckOutputs(const OutputOptions& output, const CommandInputs& inputs);

// Writes `text` to stdout, or fails as Emit does: 0, or 2 after an error message.
int PrintStdout(std::string_view text);
// The same for a text that is rendered piece by piece.
int PrintStdout(const std::function<void(const Sink&)>& render);

// True when results on stdout may be coloured: --color, NO_COLOR, TERM and whether stdout is a
// terminal.
bool UseColor(const OutputOptions& options);

// Columns of the terminal on stdout: COLUMNS, else what the terminal says; 0 (no limit: names stay
// whole for grep) when stdout is no terminal.
int TerminalColumns();

// Rewrites what users of the Python scripts type: `--foo_bar` becomes `--foo-bar` (values
// untouched).
std::vector<std::string> NormalizeArguments(const std::vector<std::string>& argv);

}  // namespace weighbridge::cli
