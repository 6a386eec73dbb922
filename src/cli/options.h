// What an option of the CLI11 definition looks like to a person: shared by help, completion and the
// messages about wrong usage, so that the three cannot disagree.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace weighbridge::cli {

// "-v,--verbose": the short names and the first long name. A positional: its name.
std::string VisibleName(const CLI::Option& option);

// "-v", else "--color".
std::string ShortestName(const CLI::Option& option);

// Further long names, kept for users of other tools: {"--hf-model-id"}.
std::vector<std::string> OtherNames(const CLI::Option& option);

// Every spelling: {"-v", "--verbose"}; empty for a pure positional.
std::vector<std::string> AllNames(const CLI::Option& option);

// The values that a CLI::IsMember check accepts; empty when any value is.
std::vector<std::string> Choices(const CLI::Option& option);

// What stands for the value in help: FILE, DIR, N, X, TEXT, or the name the option gave it.
std::string ValueName(const CLI::Option& option);

// The deepest subcommand that was parsed, or `app` itself.
const CLI::App& SelectedCommand(const CLI::App& app);

// Names of the subcommands that help shows.
std::vector<std::string> CommandNames(const CLI::App& app);

}  // namespace weighbridge::cli
