// A Hugging Face and a Megatron checkpoint on the command line, judged: what `verify`, `check` and
// `diagnose` share.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "base/result.h"
#include "checks/roundtrip.h"
#include "checks/verify.h"
#include "cli/megatron_input.h"
#include "cli/model_input.h"

namespace weighbridge::cli {

// `model` is the Hugging Face side, or the checkpoint that is judged against a manifest.
struct PairArguments : MegatronArguments {
  std::string model, level, runtime, expect_dtype, memory = "64M";
  RanksArguments ranks;
  ParallelGrid grid;  // of --ranks
  int64_t pad_vocab = 0;
  VerifyOptions options;
};

// --runtime, --without-mtp, --expect-dtype, --strict-padding.
void AddPairOptions(CLI::App& command, PairArguments& arguments);

// The two compared by arguments.level ("": both), with progress on stderr under `command`. Errors:
// those of opening them and of Verify.
Result<Report> JudgePair(PairArguments& arguments, const std::string& command);

// `roundtrip` of the Hugging Face side on `grid`.
struct RoundTripInput {
  std::string model, config, memory = "64M", level = "L1";
  std::vector<std::string> families;
  bool without_mtp = false;
  int64_t pad_vocab = 0;
  RanksArguments ranks;
  RoundTripOptions options;
};
Result<Report> JudgeRoundTrip(RoundTripInput& input);
// Of the Hugging Face side of a pair, on one rank.
RoundTripInput RoundTripOf(const PairArguments& arguments);

}  // namespace weighbridge::cli
