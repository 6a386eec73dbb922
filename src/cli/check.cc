// `weighbridge check HF [MEGATRON]`: the levels that fit, cheapest first, up to the first that
// fails.
#include <fmt/format.h>

#include <memory>

#include "base/threads.h"
#include "cli/command.h"
#include "cli/judge_pair.h"

namespace weighbridge::cli {
namespace {

struct CheckArguments : PairArguments {
  bool explain = false;
};

Result<Report> AtLevel(CheckArguments& a, const char* level) {
  if (!a.megatron.empty()) {
    // Level L1 alone would leave the configs out.
    a.level = std::string(level) == "L0" ? "L0" : "";
    return JudgePair(a, "check");
  }
  RoundTripInput input = RoundTripOf(a);
  input.level = level;
  return JudgeRoundTrip(input);
}

Result<Report> RunOn(CheckArguments& a) {
  std::vector<Note> why;
  WB_TRY(Report report, AtLevel(a, "L0"));
  Report judged = report;
  Conclude(judged);
  why.push_back({"level L0", a.megatron.empty()
                                 ? "headers, names, shapes and the config: seconds for any size"
                                 : "headers, names, shapes, and what both configs compute: seconds "
                                   "for any size"});
  if (judged.verdict != Verdict::kPass) {
    why.push_back({"level L1", "not reached: L0 has to pass first"});
  } else {
    WB_TRY(report, AtLevel(a, "L1"));
    why.push_back({"level L1", a.megatron.empty()
                                   ? "every byte through our own way there and back; a Megatron "
                                     "checkpoint would be compared itself"
                                   : "every byte of both checkpoints; what differs is diagnosed"});
  }
  why.push_back(
      {"level L2", "not run: a forward pass needs the engine, which this version has not"});
  report.command = "check";
  report.unproven.push_back("no forward pass was compared (L2), and no training step (L3)");
  if (a.explain) report.notes.insert(report.notes.begin(), why.begin(), why.end());
  return report;
}

int Run(Context& context, CheckArguments& a) {
  CommandInputs inputs{{a.model}, a.families};
  if (!a.megatron.empty()) inputs.models.push_back(a.megatron);
  inputs.files.push_back(a.config);
  return RunCheck(context, "check", "L1", inputs, [&] { return RunOn(a); });
}

}  // namespace

void AddCheck(CLI::App& app, Context& context) {
  auto a = std::make_shared<CheckArguments>();
  a->options.threads = DefaultThreads();
  CLI::App* command = app.add_subcommand(
      "check",
      "chooses and runs the levels that fit, up to the first that fails, and diagnoses it");
  AddHfPositional(*command, "HF", a->model);
  command->add_option(
      std::string("MEGATRON,") + kMegatronSpellings, a->megatron,
      "a Megatron checkpoint of the same model; without it the round trip is judged");
  command->add_flag("--explain", a->explain, "say which levels were run and why; default: off")
      ->group("Compare");
  AddPairOptions(*command, *a);
  AddConfigOption(*command, a->config);
  AddFamilyOption(*command, a->families);
  AddThreadsOption(*command, a->options.threads);
  AddMemoryOption(*command, a->memory);
  AddOutputOptions(*command, context);
  AddExamples(*command, {"weighbridge check ./Llama-3.2-1B",
                         "weighbridge check ./Llama-3.2-1B ./checkpoints/llama32_1b --explain"});
  command->callback([&context, a] { context.exit_status = Run(context, *a); });
}

}  // namespace weighbridge::cli
