// `weighbridge check HF [MEGATRON]`: the levels that fit, cheapest first, up to the first that
// fails.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <utility>

#include "base/threads.h"
#include "cli/command.h"
#include "cli/judge_forward.h"
#include "cli/judge_pair.h"
#include "engine/component.h"
#include "engine/forward_fit.h"

namespace weighbridge::cli {
namespace {

struct CheckArguments : PairArguments {
  bool explain = false;
  std::string most;  // "": every level that fits
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

bool Passes(Report report) {
  Conclude(report);
  return report.verdict == Verdict::kPass;
}

// -- L2 --

Result<Report> RunForward(const CheckArguments& a, std::string& why) {
  ForwardArguments forward;
  forward.model = a.model;
  forward.megatron = a.megatron;
  forward.config = a.config;
  forward.runtime = a.runtime;
  forward.families = a.families;
  forward.options.without_mtp = a.options.without_mtp;
  forward.options.threads = a.options.threads;
  WB_RETURN_IF_ERROR(FindComponent());
  WB_TRY(const ForwardPair pair, OpenForward(forward));
  WB_TRY(const ForwardFit fit, EstimateForward(*pair.model));
  why = fit.sentence;
  if (!fit.fits && a.most != "L2") {
    return Fail(ErrorKind::kUnsupported, "too-large", fit.sentence + ", which is more than fits",
                "", "--level L2 runs it all the same");
  }
  forward.options.seq_len = fit.tokens;
  return JudgeForward(pair, forward, "check");
}

// What `forward` shows goes behind what the levels before it did.
void Append(Report forward, Report& report) {
  report.level = forward.level;
  std::move(forward.results.begin(), forward.results.end(), std::back_inserter(report.results));
  std::move(forward.notes.begin(), forward.notes.end(), std::back_inserter(report.notes));
  for (Cause& cause : forward.causes) AddCause(std::move(cause), report);
  const auto missing_in = [](const auto& list) {
    return [&list](const auto& value) {
      return std::find(list.begin(), list.end(), value) == list.end();
    };
  };
  std::copy_if(forward.unproven.begin(), forward.unproven.end(),
               std::back_inserter(report.unproven), missing_in(report.unproven));
  for (auto& detail : forward.details) {
    const bool there = std::any_of(report.details.begin(), report.details.end(),
                                   [&](const auto& other) { return other.first == detail.first; });
    if (!there) report.details.push_back(std::move(detail));
  }
  std::move(forward.tolerances.begin(), forward.tolerances.end(),
            std::back_inserter(report.tolerances));
  report.bytes += forward.bytes;
  report.wall_s += forward.wall_s;
}

// Runs L2 where it fits and says in `why` what was done. An error only where it was asked for: what
// this machine or the engine cannot do is no judgement of the model.
Status AddForward(const CheckArguments& a, Report& report, std::string& why) {
  auto forward = RunForward(a, why);
  if (forward) {
    why = "both models run, layer by layer: " + why;
    Append(*std::move(forward), report);
    return {};
  }
  Error error = std::move(forward).error();
  const bool of_model = error.kind == ErrorKind::kCorrupt || error.id == "reference-broken";
  if (a.most == "L2" || of_model) return Fail(std::move(error));
  why = fmt::format("not run: {}{}", error.what, error.hint.empty() ? "" : "; " + error.hint);
  return {};
}

// -- the levels --

Result<Report> RunOn(CheckArguments& a) {
  if (a.most == "L2") WB_RETURN_IF_ERROR(FindComponent());
  std::vector<Note> why;
  WB_TRY(Report report, AtLevel(a, "L0"));
  why.push_back({"level L0", a.megatron.empty()
                                 ? "headers, names, shapes and the config: seconds for any size"
                                 : "headers, names, shapes, and what both configs compute: seconds "
                                   "for any size"});
  bool passes = Passes(report);
  if (a.most == "L0" || !passes) {
    why.push_back({"level L1", passes ? "not asked for" : "not reached: L0 has to pass first"});
    passes = false;
  } else {
    WB_TRY(report, AtLevel(a, "L1"));
    passes = Passes(report);
    why.push_back({"level L1", a.megatron.empty()
                                   ? "every byte through our own way there and back; a Megatron "
                                     "checkpoint would be compared itself"
                                   : "every byte of both checkpoints; what differs is diagnosed"});
  }
  std::string forward = "not reached: L0 and L1 have to pass first";
  if (a.most == "L0" || a.most == "L1") {
    forward = "not asked for";
  } else if (passes) {
    WB_RETURN_IF_ERROR(AddForward(a, report, forward));
  }
  why.push_back({"level L2", forward});
  report.command = "check";
  report.unproven.push_back(report.level == "L2" ? "no training step was compared (L3)"
                                                 : "no forward pass was compared (L2: " + forward +
                                                       "), and no training step (L3)");
  if (a.explain) report.notes.insert(report.notes.begin(), why.begin(), why.end());
  return report;
}

int Run(Context& context, CheckArguments& a) {
  CommandInputs inputs{{a.model}, a.families};
  if (!a.megatron.empty()) inputs.models.push_back(a.megatron);
  inputs.files.push_back(a.config);
  return RunCheck(context, "check", a.most.empty() ? "L1" : a.most, inputs,
                  [&] { return RunOn(a); });
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
  command
      ->add_option(
          "--level", a->most,
          "go no further than this: L0 headers, L1 every byte, L2 what both models compute; "
          "default: every level that fits")
      ->check(CLI::IsMember({"L0", "L1", "L2"}))
      ->group("Compare");
  AddPairOptions(*command, *a);
  AddConfigOption(*command, a->config);
  AddFamilyOption(*command, a->families);
  AddThreadsOption(*command, a->options.threads);
  AddMemoryOption(*command, a->memory);
  AddOutputOptions(*command, context);
  AddExamples(*command, {"weighbridge check ./Llama-3.2-1B",
                         "weighbridge check ./Llama-3.2-1B ./checkpoints/llama32_1b --explain",
                         "weighbridge check ./Llama-3.2-1B --level L1"});
  command->callback([&context, a] { context.exit_status = Run(context, *a); });
}

}  // namespace weighbridge::cli
