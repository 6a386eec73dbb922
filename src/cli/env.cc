// `weighbridge env`: what is installed and what this build can do.
#include <fmt/format.h>

#include "cli/command.h"

namespace weighbridge::cli {

void AddEnv(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("env", "what is installed and what this build can do");
  command->callback([&context] {
    fmt::print("weighbridge {}\n", "0.1.0");
    context.exit_status = 0;
  });
}

}  // namespace weighbridge::cli
