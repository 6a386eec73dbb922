// Turns the argument parser's complaints into ours, with near names.
#pragma once

#include <CLI/CLI.hpp>

#include "base/result.h"

namespace weighbridge::cli {

// Thrown inside the cli room only, through the argument parser, and caught by Run.
struct UsageError {
  Error error;
};

// The error (kUsage) for `failure` of `app.parse`: an unknown command, option or value names the
// one that was probably meant.
Error ExplainUsage(const CLI::App& app, const CLI::ParseError& failure);

}  // namespace weighbridge::cli
