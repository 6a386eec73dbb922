// The table of commands. One line per command; the help page follows this order.
#include "cli/command.h"

namespace weighbridge::cli {

void AddEnv(CLI::App& app, Context& context);

std::span<const Command> AllCommands() {
  static constexpr Command kCommands[] = {
      {"env", AddEnv},
  };
  return kCommands;
}

}  // namespace weighbridge::cli
