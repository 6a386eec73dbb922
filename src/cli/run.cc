#include "cli/run.h"

#include <csignal>
#include <cstdio>
#include <cstring>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.h"
#include "cli/command.h"

#ifndef WEIGHBRIDGE_VERSION
#define WEIGHBRIDGE_VERSION "0.1.0"
#endif

namespace weighbridge::cli {
namespace {

// A mapped file that another program truncates raises SIGBUS at the next read: no read can be
// guarded against it, so say which file and leave with 'undecided'. Only async-signal-safe calls.
void OnSigbus(int, siginfo_t* info, void*) {
  const char* file = MappedFileNameAt(info->si_addr);
  const auto put = [](const char* text) {
    [[maybe_unused]] const auto n = ::write(STDERR_FILENO, text, std::strlen(text));
  };
  put("error: a file shrank or could not be read while it was in use\n  at: ");
  put(*file ? file : "unknown file");
  put("\n  hint: is another program writing it? run again when it is complete\n");
  ::_exit(2);
}

void OnInterrupt(int) { ::_exit(130); }

void InstallSignalHandlers() {
  struct sigaction bus {};
  bus.sa_sigaction = OnSigbus;
  bus.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &bus, nullptr);
  std::signal(SIGINT, OnInterrupt);
}

}  // namespace

int Run(int argc, char** argv) {
  InstallSignalHandlers();
  Context context;
  context.argv.assign(argv, argv + argc);
  CLI::App app{
      "Weighbridge proves that a model is the same model on both sides of a Hugging Face <-> "
      "Megatron-Core conversion.",
      "weighbridge"};
  app.set_version_flag("--version", std::string("weighbridge ") + WEIGHBRIDGE_VERSION);
  app.require_subcommand(1);
  app.footer("Exit status: 0 parity holds, 1 a checkpoint is bad, 2 no judgement, 130 interrupted.");
  for (const Command& command : AllCommands()) command.add(app, context);
  std::vector<std::string> arguments = NormalizeArguments(argc, argv);
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::CallForHelp& e) {
    return app.exit(e);
  } catch (const CLI::CallForAllHelp& e) {
    return app.exit(e);
  } catch (const CLI::CallForVersion& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    return PrintError({ErrorKind::kUsage, "usage", e.what(), "", "see `weighbridge --help`"});
  }
  return context.exit_status;
}

}  // namespace weighbridge::cli
