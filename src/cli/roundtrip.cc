// `weighbridge roundtrip MODEL`: HF -> any parallel grid -> HF in one process, byte for byte.
#include "checks/roundtrip.h"

#include <fmt/format.h>

#include <memory>

#include "base/progress.h"
#include "base/threads.h"
#include "checks/inventory.h"
#include "cli/command.h"
#include "cli/judge_pair.h"
#include "cli/model_input.h"
#include "cli/size_option.h"

namespace weighbridge::cli {
namespace {

int Run(Context& context, RoundTripInput& arguments) {
  if (const auto ready = PrepareRanks(arguments.ranks, arguments.level, context.output); !ready) {
    return PrintError(ready.error());
  }
  CommandInputs inputs{{arguments.model}, arguments.families};
  inputs.files.push_back(arguments.config);
  return RunCheck(context, "roundtrip", arguments.level, inputs,
                  [&] { return JudgeRoundTrip(arguments); });
}

}  // namespace

void AddRoundtrip(CLI::App& app, Context& context) {
  auto a = std::make_shared<RoundTripInput>();
  a->options.threads = DefaultThreads();
  CLI::App* command = app.add_subcommand(
      "roundtrip", "Hugging Face -> Megatron -> Hugging Face on any parallel grid, byte for byte");
  AddHfPositional(*command, "MODEL", a->model);
  AddGridOptions(*command, a->options.grid);
  command->add_option("--level", a->level, "L0: headers only; L1: every byte")
      ->check(CLI::IsMember({"L0", "L1"}))
      ->capture_default_str()
      ->group("Compare");
  AddRanksOptions(*command, a->ranks);
  command
      ->add_flag("--without-mtp", a->without_mtp,
                 "leave multi-token-prediction layers out; default: off")
      ->group("Compare");
  command
      ->add_option("--pad-vocab", a->pad_vocab,
                   "pad the vocabulary to N rows; default: as the grid needs")
      ->type_name("N")
      ->check(CLI::PositiveNumber)
      ->group("Compare");
  AddConfigOption(*command, a->config);
  AddFamilyOption(*command, a->families);
  AddMemoryOption(*command, a->memory);
  AddThreadsOption(*command, a->options.threads);
  AddOutputOptions(*command, context);
  AddExamples(*command, {"weighbridge roundtrip ./Llama-3.2-1B",
                         "weighbridge roundtrip meta-llama/Llama-3.1-8B --tp 2 --pp 2 -v",
                         "weighbridge roundtrip ./Qwen3-30B-A3B --tp 2 --ep 4 --json report.json"});
  command->callback([&context, a] { context.exit_status = Run(context, *a); });
}

}  // namespace weighbridge::cli
