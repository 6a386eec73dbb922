// Outputs that would destroy what the command reads, found before it reads anything.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace weighbridge::cli {

struct NamedOutput {
  std::string option;  // "--json"
  std::string path;    // "" and "-" are no files
};

// What a command reads, as it was typed, and what it writes besides its reports.
struct CommandInputs {
  std::vector<std::string> models;  // folders, files in them, or names in the local cache
  std::vector<std::string> files;   // configs, family files, saved reports; "" is none
  std::vector<NamedOutput> written = {};
};

// kUsage "output-is-input" when an output is the same file (links followed) as an input, or one of
// the files that make up a model; "usage" when two outputs are one file.
Status CheckOutputsSpareInputs(std::span<const NamedOutput> outputs, const CommandInputs& inputs);

}  // namespace weighbridge::cli
