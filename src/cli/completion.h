// Shell completion, generated from the program's own definition of commands and options.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>

namespace weighbridge::cli {

// The completion script of `app` (all commands, options, choices; files where a value may be one)
// for "bash", "zsh" or "fish"; "" for another shell.
std::string CompletionScript(const CLI::App& app, std::string_view shell);

}  // namespace weighbridge::cli
