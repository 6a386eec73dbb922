#include "cli/judge_pair.h"

#include <fmt/format.h>

#include <memory>
#include <optional>

#include "base/progress.h"
#include "checks/inventory.h"
#include "checks/megatron_binding.h"
#include "cli/size_option.h"

namespace weighbridge::cli {
namespace {

Result<Model> ExpandFor(const ModelInput& input, std::unique_ptr<MegatronCheckpoint>& megatron,
                        bool without_mtp) {
  ExpandOptions expand;
  ChooseStorageBy(*input.checkpoint, expand);
  expand.without_mtp = without_mtp;
  return ExpandAsStored(*input.family, input.config, std::move(expand), megatron);
}

// The vocabulary as stored, or padded further where the grid needs it.
Result<Model> ExpandForRanks(const ModelInput& input, const PairArguments& a, const Model& stored) {
  ExpandOptions expand;
  ChooseStorageBy(*input.checkpoint, expand);
  expand.tp = a.grid.tp;
  expand.pad_vocab = a.pad_vocab > 0 ? a.pad_vocab : stored.padded_vocab();
  expand.without_mtp = a.options.without_mtp;
  return Model::Expand(*input.family, input.config, expand);
}

// Whose behaviour counts; nullopt: configs are left alone.
Result<std::optional<RuntimeChoice>> Runtime(const PairArguments& a) {
  WB_TRY(RuntimeChoice choice, ParseRuntime(a.runtime));
  if (a.level != "L1") return std::optional(std::move(choice));
  if (a.runtime.empty() || !choice.hidden) return std::optional<RuntimeChoice>();
  return Fail(ErrorKind::kUsage, "usage", "--level L1 judges weights alone, without a runtime",
              "--runtime", "leave --level out, or add --runtime none");
}

}  // namespace

Result<Report> JudgePair(PairArguments& a, const std::string& command) {
  WB_TRY(a.options.memory_bytes, ParseSize(a.memory, "--memory"));
  if (!a.like.empty()) {
    return Fail(ErrorKind::kUsage, "usage",
                "--like is for a checkpoint against a manifest: here HF is", "",
                "leave --like out");
  }
  WB_TRY(const auto input, OpenModelInput(a.model, a.families, a.config));
  WB_TRY(auto megatron, OpenMegatron(a.megatron));
  if (!a.expect_dtype.empty()) {
    a.options.expect_dtype = ParseShortName(a.expect_dtype);
    if (!a.options.expect_dtype) {
      return Fail(ErrorKind::kUsage, "usage", fmt::format("'{}' is no dtype", a.expect_dtype),
                  "--expect-dtype", "for example bf16, fp16, fp32");
    }
  }
  WB_TRY(const Model model, ExpandFor(*input, megatron, a.options.without_mtp));
  std::optional<Model> of_ranks;
  RankCut cut{nullptr, a.grid, a.ranks.Spec()};
  if (a.ranks.ranks) {
    WB_TRY(of_ranks, ExpandForRanks(*input, a, model));
    cut.model = &*of_ranks;
    a.options.ranks = &cut;
  }
  uint64_t bytes = 0;
  for (const DistTensor& t : megatron->metadata().tensors) {
    bytes += static_cast<uint64_t>(Numel(t.shape) * BitsOf(t.dtype) / 8);
  }
  const int ranks = a.options.coordinator != nullptr ? a.options.coordinator->size() : 1;
  std::optional<Progress> progress;
  if ((a.options.coordinator == nullptr || a.options.coordinator->first())) {
    progress.emplace(command, bytes / static_cast<uint64_t>(ranks));
  }
  a.options.progress = [&](uint64_t done) { progress ? progress->Add(done) : void(); };
  a.options.headers_only = a.level == "L0";
  WB_TRY(a.options.effects, Runtime(a));
  WB_TRY(Report report, Verify(model, *input->checkpoint, *megatron, a.options));
  DescribeInput(*input, report);
  return report;
}

Result<Report> JudgeRoundTrip(RoundTripInput& a) {
  WB_TRY(const auto input, OpenModelInput(a.model, a.families, a.config));
  WB_TRY(a.options.memory_bytes, ParseSize(a.memory, "--memory"));
  ExpandOptions expand;
  ChooseStorageBy(*input->checkpoint, expand);
  expand.tp = a.options.grid.tp;
  expand.pad_vocab = a.pad_vocab;
  expand.without_mtp = a.without_mtp;
  WB_TRY(const Model model, Model::Expand(*input->family, input->config, expand));
  uint64_t bytes = 0;
  for (const TensorInfo& t : input->checkpoint->tensors()) bytes += t.nbytes;
  Progress progress("roundtrip", bytes);
  a.options.progress = [&](uint64_t done) { progress.Add(done); };
  a.options.headers_only = a.level == "L0";
  a.options.ranks = a.ranks.ranks;
  a.options.dialect = a.ranks.Spec();
  WB_TRY(Report report, RoundTrip(model, *input->checkpoint, a.options));
  DescribeInput(*input, report);
  return report;
}

void AddPairOptions(CLI::App& app, PairArguments& arguments) {
  CLI::App* command = &app;
  PairArguments* a = &arguments;
  command
      ->add_option("--runtime", a->runtime,
                   "whose hidden behaviour counts where configs are compared: none, or "
                   "megatron-core==VERSION; default: the newest known")
      ->type_name("RUNTIME")
      ->group("Compare");
  command
      ->add_flag("--without-mtp", a->options.without_mtp,
                 "leave multi-token-prediction layers out; default: off")
      ->group("Compare");
  command
      ->add_option("--expect-dtype", a->expect_dtype,
                   "the Megatron checkpoint was narrowed to this dtype; default: a fault")
      ->type_name("DTYPE")
      ->group("Compare");
  command
      ->add_flag("--strict-padding", a->options.strict_padding,
                 "padded rows of the vocabulary must be zero; default: off")
      ->group("Compare");
}

RoundTripInput RoundTripOf(const PairArguments& arguments) {
  RoundTripInput input;
  input.model = arguments.model;
  input.config = arguments.config;
  input.families = arguments.families;
  input.memory = arguments.memory;
  input.without_mtp = arguments.options.without_mtp;
  input.options.threads = arguments.options.threads;
  return input;
}

}  // namespace weighbridge::cli
