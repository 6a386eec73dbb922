#include "cli/run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <system_error>

#include "base/file.h"
#include "base/interrupt.h"
#include "cli/call.h"
#include "cli/command.h"
#include "cli/help.h"
#include "cli/options.h"
#include "cli/usage.h"
#include "cli/version_text.h"

namespace weighbridge::cli {
namespace {

void PutStderr(const char* text) {
  [[maybe_unused]] const auto n = ::write(STDERR_FILENO, text, std::strlen(text));
}

// A mapped file that another program truncates raises SIGBUS at the next read: no read can be
// guarded against it, so say which file and leave with 'undecided'. Only async-signal-safe calls.
void OnSigbus(int, siginfo_t* info, void*) {
  const char* file = MappedFileNameAt(info->si_addr);
  PutStderr("error: a file shrank or could not be read while it was in use\n  at: ");
  PutStderr(*file ? file : "unknown file");
  PutStderr("\n  hint: is another program writing it? run again when it is complete\n");
  ::_exit(2);
}

// An exception that no thread caught, or std::terminate itself.
[[noreturn]] void OnTerminate() {
  PutStderr(
      "error: internal error: a thread ended without being able to say why\n"
      "  hint: this is a bug in weighbridge; please report it with the output of "
      "`weighbridge env`\n");
  ::_exit(2);
}

void InstallSignalHandlers() {
  struct sigaction bus {};
  bus.sa_sigaction = OnSigbus;
  bus.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &bus, nullptr);
  HandleInterrupts();
  // A reader that leaves shows up as EPIPE.
  std::signal(SIGPIPE, SIG_IGN);
  // A file that grows beyond the limit (ulimit -f) shows up as EFBIG.
  std::signal(SIGXFSZ, SIG_IGN);
  std::set_terminate(OnTerminate);
}

int InternalError(std::string_view what) {
  return PrintError({ErrorKind::kInternal, "internal", fmt::format("internal error: {}", what), "",
                     "this is a bug in weighbridge; please report it with the output of "
                     "`weighbridge env`"});
}

// What is still in stdout's buffer may fail to reach the disk.
int FinishStdout(int status) {
  const bool failed = std::fflush(stdout) != 0 || std::ferror(stdout) != 0;
  if (!failed || errno == EPIPE) return status;
  PrintError(ErrnoError(errno, "cannot write to standard output", ""));
  return std::max(status, 2);
}

// fmt::print throws when stdout refuses what a command prints.
int WriteFailure(const std::system_error& e, int status) {
  const int code = e.code().value();
  if (code == EPIPE) return status;
  if (code == ENOSPC || code == EIO || code == EFBIG || code == EBADF) {
    return PrintError(ErrnoError(code, "cannot write to standard output", ""));
  }
  return InternalError(e.what());
}

void DefineApp(CLI::App& app, Context& context) {
  app.set_help_flag("-h", "one screen of help");
  app.set_help_all_flag("--help", "all of the help");
  app.set_version_flag("--version", "weighbridge " + VersionText(), "version and commit");
  app.formatter(MakeHelpFormatter());
  app.require_subcommand(1);
  for (const Command& command : AllCommands()) command.add(app, context);
  for (CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    // Users of the Python scripts type it; no code of a checkpoint is ever run.
    if (command->get_option_no_throw("--trust-remote-code") == nullptr) {
      command->add_flag("--trust-remote-code")->group("");
    }
  }
  // After the commands, which inherit what they find.
  AddExamples(
      app, {"weighbridge roundtrip meta-llama/Llama-3.2-1B --tp 2 --pp 2",
            "weighbridge diff model-a/ model-b/ --html diff.html", "weighbridge inspect model/"});
  app.parse_complete_callback([&context] {
    if (const Status checked = CheckOutputs(context.output); !checked) {
      throw UsageError{checked.error()};
    }
  });
}

int Help(const CLI::App& app, CLI::AppFormatMode mode) { return PrintStdout(app.help("", mode)); }

int Parse(CLI::App& app, Context& context, std::vector<std::string> arguments) {
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::CallForAllHelp&) {
    return Help(app, CLI::AppFormatMode::All);
  } catch (const CLI::CallForHelp&) {
    return Help(app, CLI::AppFormatMode::Normal);
  } catch (const CLI::CallForVersion& e) {
    return PrintStdout(fmt::format("{}\n", e.what()));
  } catch (const CLI::ParseError& e) {
    return PrintError(ExplainUsage(app, e));
  } catch (const UsageError& e) {
    return PrintError(e.error);
  }
  return context.exit_status;
}

}  // namespace

int RunCommand(const std::vector<std::string>& argv) {
  Context context;
  context.argv = argv;
  try {
    CLI::App app{
        "Weighbridge proves that a model is the same model on both sides of a Hugging Face <-> "
        "Megatron-Core conversion.",
        "weighbridge"};
    DefineApp(app, context);
    if (argv.size() <= 1) {
      fmt::print(stderr, "{}", app.help("", CLI::AppFormatMode::Normal));
      return 2;
    }
    const int status = Parse(app, context, NormalizeArguments(argv));
    return CurrentCall() == nullptr ? FinishStdout(status) : status;
  } catch (const std::system_error& e) {
    return WriteFailure(e, context.exit_status);
  } catch (const std::bad_alloc&) {
    return InternalError("out of memory");
  } catch (const std::exception& e) {
    return InternalError(e.what());
  } catch (...) {
    return InternalError("an unknown exception");
  }
}

int Run(int argc, char** argv) {
  InstallSignalHandlers();
  return RunCommand(std::vector<std::string>(argv, argv + argc));
}

}  // namespace weighbridge::cli
