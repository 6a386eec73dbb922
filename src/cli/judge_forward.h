// Both models run on the command line: what `compare` and `check` share.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/model_input.h"
#include "engine/compare_sources.h"
#include "family/model.h"
#include "formats/megatron_checkpoint.h"

namespace weighbridge::cli {

struct ForwardArguments {
  std::string model, megatron, config, runtime;
  std::vector<std::string> families, prompts;
  CompareOptions options;
};

struct ForwardPair {
  std::unique_ptr<ModelInput> input;
  std::unique_ptr<MegatronCheckpoint> megatron;  // nullptr: none was given
  std::optional<Model> model;
};

// Errors: those of opening them.
Result<ForwardPair> OpenForward(const ForwardArguments& arguments);

// The two compared, with progress on stderr under `command`. Errors: those of CompareSources.
Result<Report> JudgeForward(const ForwardPair& pair, ForwardArguments& arguments,
                            const std::string& command);

}  // namespace weighbridge::cli
