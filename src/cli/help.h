// The help pages: `-h` one screen, `--help` everything.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>

namespace weighbridge::cli {

// Renders AppFormatMode::Normal as the short page (usage, examples, the options without the output
// ones) and AppFormatMode::All as the long page (every option with its default, environment
// variables). Both end with the exit statuses.
std::shared_ptr<CLI::FormatterBase> MakeHelpFormatter();

}  // namespace weighbridge::cli
