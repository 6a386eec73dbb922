// `weighbridge diagnose HF MEGATRON`: the debugging workflow, step by step, down to the single
// mistake that explains what differs.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "base/threads.h"
#include "cli/command.h"
#include "cli/judge_pair.h"

namespace weighbridge::cli {
namespace {

WorkflowStep RoundTripStep(const char* id, const char* title, Result<Report> report) {
  WorkflowStep step{id, Verdict::kUndecided, title};
  if (!report) {
    step.message += fmt::format(", not done: {}", report.error().what);
    return step;
  }
  Conclude(*report);
  step.outcome = report->verdict;
  if (report->verdict == Verdict::kPass) {
    step.message += fmt::format(": {} tensors come back bit for bit", report->counts.passed);
    return step;
  }
  std::string causes;
  for (const Cause& cause : report->causes) causes += (causes.empty() ? "" : ", ") + cause.id;
  step.message += ": " + (causes.empty() && report->error ? report->error->what : causes);
  return step;
}

// How many causes come from configs, and from the checkpoint.
struct Origins {
  int64_t config = 0, checkpoint = 0;
};

Origins CountOrigins(const Report& report) {
  Origins count;
  for (const Cause& cause : report.causes) {
    ++(cause.origin == Origin::kCheckpoint ? count.checkpoint : count.config);
  }
  return count;
}

WorkflowStep ConfigStep(const Report& report) {
  const Origins count = CountOrigins(report);
  const bool unproven =
      std::any_of(report.unproven.begin(), report.unproven.end(),
                  [](const std::string& text) { return text.find("config") != std::string::npos; });
  WorkflowStep step{"configs", Verdict::kPass, "both configs by effect: both compute the same"};
  if (count.config > 0) {
    step.outcome = Verdict::kFail;
    step.message =
        fmt::format("both configs by effect: {} difference(s), named above", count.config);
  } else if (unproven) {
    step.outcome = Verdict::kUndecided;
    step.message = "both configs by effect: not compared in full, see 'not proven' below";
  }
  return step;
}

WorkflowStep WeightsStep(const Report& report) {
  const auto differ = std::count_if(report.results.begin(), report.results.end(),
                                    [](const ResultRow& r) { return !Passed(r.status); });
  if (differ == 0) return {"weights", Verdict::kPass, "the weights: all are equal"};
  return {"weights", Verdict::kFail,
          fmt::format("the weights: {} tensor(s) are not right, above in both vocabularies with "
                      "the first element that differs",
                      differ)};
}

// What the causes are not, in the order of the levels.
std::string RuledOut(const Report& report) {
  std::set<std::string> ids;
  for (const Cause& cause : report.causes) ids.insert(cause.id);
  std::string text = "files that are cut or corrupt";
  const bool missing = std::any_of(ids.begin(), ids.end(), [](const std::string& id) {
    return id.ends_with("-missing") || id == "tensor-extra" || id == "shape-mismatch";
  });
  if (!missing) text += ", missing and extra tensors, shapes";
  if (CountOrigins(report).config == 0) text += ", the configs as far as they were compared";
  if (CountOrigins(report).checkpoint == 0) text += ", layouts and values of all weights";
  const auto differ =
      std::count_if(report.results.begin(), report.results.end(),
                    [](const ResultRow& r) { return r.status == RowStatus::kMismatch; });
  if (differ > 0) {
    text += fmt::format(
        ", and for the {} tensor(s) that differ every other layout, change of values "
        "and tensor in their place that is known",
        differ);
  }
  return text;
}

Result<Report> RunOn(PairArguments& a) {
  RoundTripInput one = RoundTripOf(a), two = RoundTripOf(a);
  two.options.grid.tp = 2;
  WorkflowStep single = RoundTripStep(
      "round-trip", "round trip of the Hugging Face side in one process", JudgeRoundTrip(one));
  WorkflowStep grid = RoundTripStep(
      "parallel-grid", "the same, cut and joined over a parallel grid, TP 2", JudgeRoundTrip(two));
  WB_TRY(Report report, JudgePair(a, "diagnose"));
  report.command = "diagnose";
  report.steps = {std::move(single), std::move(grid), ConfigStep(report), WeightsStep(report)};
  report.notes.insert(report.notes.begin(), {"ruled-out", RuledOut(report)});
  return report;
}

int Run(Context& context, PairArguments& a) {
  CommandInputs inputs{{a.model, a.megatron}, a.families};
  inputs.files.push_back(a.config);
  return RunCheck(context, "diagnose", "L1", inputs, [&] { return RunOn(a); });
}

}  // namespace

void AddDiagnose(CLI::App& app, Context& context) {
  auto a = std::make_shared<PairArguments>();
  a->options.threads = DefaultThreads();
  CLI::App* command = app.add_subcommand(
      "diagnose",
      "the debugging workflow: which single mistake explains why two checkpoints differ");
  AddHfPositional(*command, "HF", a->model);
  command
      ->add_option(std::string("MEGATRON,") + kMegatronSpellings, a->megatron,
                   "a Megatron checkpoint: the folder with the tracker file, or an iter_N")
      ->required();
  AddPairOptions(*command, *a);
  AddConfigOption(*command, a->config);
  AddFamilyOption(*command, a->families);
  AddThreadsOption(*command, a->options.threads);
  AddMemoryOption(*command, a->memory);
  AddOutputOptions(*command, context);
  AddExamples(*command,
              {"weighbridge diagnose ./Llama-3.2-1B ./checkpoints/llama32_1b",
               "weighbridge diagnose ./Llama-3.2-1B ./mcore/iter_0000000 --html why.html"});
  command->callback([&context, a] { context.exit_status = Run(context, *a); });
}

}  // namespace weighbridge::cli
