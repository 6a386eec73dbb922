// `weighbridge verify HF MEGATRON`: two existing checkpoints, whoever wrote them.
#include "checks/verify.h"

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <system_error>

#include "base/hash.h"
#include "base/progress.h"
#include "base/threads.h"
#include "checks/inventory.h"
#include "checks/megatron_binding.h"
#include "checks/verify_manifest.h"
#include "cli/canonical_input.h"
#include "cli/command.h"
#include "cli/megatron_input.h"
#include "cli/model_input.h"
#include "cli/rank_options.h"
#include "cli/size_option.h"

namespace weighbridge::cli {
namespace {

// `model` is the Hugging Face side, or the checkpoint that is judged against a manifest.
struct VerifyArguments : MegatronArguments {
  std::string model, level, runtime, expect_dtype, memory = "64M";
  RanksArguments ranks;
  ParallelGrid grid;  // of --ranks
  int64_t pad_vocab = 0;
  VerifyOptions options;
  RankOptions job;
};

// Every Megatron checkpoint is a folder; what is a file can only be a manifest.
bool IsManifest(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error);
}

// The options of `verify HF MEGATRON` that say nothing of hashes.
Status CheckManifestOptions(const VerifyArguments& a) {
  if (a.expect_dtype.empty() && !a.options.strict_padding && !a.ranks.ranks) return {};
  return Fail(ErrorKind::kUsage, "usage",
              fmt::format("{} is for `verify HF MEGATRON`, and a manifest is given",
                          a.ranks.ranks            ? "--ranks"
                          : a.expect_dtype.empty() ? "--strict-padding"
                                                   : "--expect-dtype"));
}

Result<Report> RunOnManifest(const VerifyArguments& a) {
  WB_RETURN_IF_ERROR(CheckManifestOptions(a));
  WB_TRY(const Manifest manifest, ReadManifest(a.megatron));
  MegatronArguments checkpoint = a;
  checkpoint.megatron = a.model;
  const bool headers_only = a.level == "L0";
  WB_TRY(const auto input,
         OpenCanonical(checkpoint, {headers_only, a.options.without_mtp, a.options.threads}));
  Progress progress("verify", input->Bytes());
  WB_TRY(Report report,
         VerifyManifest(*input->tensors, manifest,
                        {headers_only, a.options.threads, [&](uint64_t n) { progress.Add(n); }}));
  input->Describe(report);
  std::error_code error;
  report.inputs.push_back(
      {a.megatron, std::filesystem::file_size(a.megatron, error), "", std::nullopt});
  return report;
}

Result<Model> ExpandFor(const ModelInput& input, std::unique_ptr<MegatronCheckpoint>& megatron,
                        bool without_mtp) {
  ExpandOptions expand;
  ChooseStorageBy(*input.checkpoint, expand);
  expand.without_mtp = without_mtp;
  return ExpandAsStored(*input.family, input.config, std::move(expand), megatron);
}

// The vocabulary as stored, or padded further where the grid needs it.
Result<Model> ExpandForRanks(const ModelInput& input, const VerifyArguments& a,
                             const Model& stored) {
  ExpandOptions expand;
  ChooseStorageBy(*input.checkpoint, expand);
  expand.tp = a.grid.tp;
  expand.pad_vocab = a.pad_vocab > 0 ? a.pad_vocab : stored.padded_vocab();
  expand.without_mtp = a.options.without_mtp;
  return Model::Expand(*input.family, input.config, expand);
}

// Whose behaviour counts; nullopt: configs are left alone.
Result<std::optional<RuntimeChoice>> Runtime(const VerifyArguments& a) {
  WB_TRY(RuntimeChoice choice, ParseRuntime(a.runtime));
  if (a.level != "L1") return std::optional(std::move(choice));
  if (a.runtime.empty() || !choice.hidden) return std::optional<RuntimeChoice>();
  return Fail(ErrorKind::kUsage, "usage", "--level L1 judges weights alone, without a runtime",
              "--runtime", "leave --level out, or add --runtime none");
}

Result<Report> RunOn(VerifyArguments& a) {
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
  std::optional<Progress> progress;
  if (a.options.coordinator->first()) {
    progress.emplace("verify", bytes / static_cast<uint64_t>(a.options.coordinator->size()));
  }
  a.options.progress = [&](uint64_t done) { progress ? progress->Add(done) : void(); };
  a.options.headers_only = a.level == "L0";
  WB_TRY(a.options.effects, Runtime(a));
  WB_TRY(Report report, Verify(model, *input->checkpoint, *megatron, a.options));
  DescribeInput(*input, report);
  return report;
}

// Nothing is written into checkpoints under judgement.
std::filesystem::path MeetingPlace(const VerifyArguments& a) {
  const std::string both = a.model + '\n' + a.megatron;
  return "weighbridge-verify-" + Xxh3Hex(std::as_bytes(std::span(both))).substr(0, 8) + ".ranks";
}

// A grid without --ranks would say nothing: global tensors do not depend on it.
Status CheckGrid(const VerifyArguments& a) {
  if (a.ranks.ranks || (a.grid == ParallelGrid() && a.pad_vocab == 0)) return {};
  return Fail(ErrorKind::kUsage, "usage",
              "global tensors are compared, which do not depend on a parallel grid", "",
              "add --ranks to see what each rank of the grid holds");
}

int Run(Context& context, VerifyArguments& arguments) {
  Status ready = CheckGrid(arguments);
  if (ready) ready = PrepareRanks(arguments.ranks, arguments.level, context.output);
  if (!ready) return PrintError(ready.error());
  const bool manifest = IsManifest(arguments.megatron);
  CommandInputs inputs{{arguments.model, arguments.like}, arguments.families};
  (manifest ? inputs.files : inputs.models).push_back(arguments.megatron);
  inputs.files.push_back(arguments.config);
  return RunRanks(arguments.job, MeetingPlace(arguments), [&](Coordinator& ranks) {
    arguments.options.coordinator = &ranks;
    return RunCheck(
        context, "verify", arguments.level == "L0" ? "L0" : "L1", inputs, ranks,
        [&]() -> Result<Report> { return manifest ? RunOnManifest(arguments) : RunOn(arguments); });
  });
}

}  // namespace

void AddVerify(CLI::App& app, Context& context) {
  auto a = std::make_shared<VerifyArguments>();
  a->options.threads = DefaultThreads();
  CLI::App* command = app.add_subcommand(
      "verify",
      "a Hugging Face and a Megatron checkpoint, or one and a manifest: is every byte where it "
      "belongs");
  command
      ->add_option(std::string("HF,") + kHfSpellings, a->model,
                   "a Hugging Face folder, a .safetensors file, or org/name[@REV] in the local "
                   "cache; against "
                   "a manifest also a Megatron checkpoint")
      ->required();
  command
      ->add_option(std::string("MEGATRON,") + kMegatronSpellings, a->megatron,
                   "a Megatron checkpoint: the folder with the tracker file, or an iter_N; or a "
                   "manifest that `weighbridge manifest` wrote")
      ->required();
  command
      ->add_option("--level", a->level,
                   "L0: headers and configs; L1: every byte, and no configs; default: both")
      ->check(CLI::IsMember({"L0", "L1"}))
      ->group("Compare");
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
  AddRanksOptions(*command, a->ranks);
  AddGridOptions(*command, a->grid);
  command
      ->add_option("--pad-vocab", a->pad_vocab,
                   "the ranks of --ranks pad the vocabulary to N rows; default: as stored, or more "
                   "where the grid needs it")
      ->type_name("N")
      ->check(CLI::PositiveNumber)
      ->group("Compare");
  AddMegatronModelOptions(*command, *a, "that a Megatron checkpoint against a manifest came from");
  command->add_option("--threads", a->options.threads, "threads; default: all processors")
      ->check(CLI::Range(1, 1024))
      ->group("Run");
  command->add_option("--memory", a->memory, "memory for the blocks in flight: bytes, K, M or G")
      ->type_name("SIZE")
      ->capture_default_str()
      ->group("Run");
  AddRankOptions(*command, a->job);
  AddOutputOptions(*command, context);
  AddExamples(*command,
              {"weighbridge verify ./Llama-3.2-1B ./checkpoints/llama32_1b",
               "weighbridge verify Qwen/Qwen3-30B-A3B ./mcore/iter_0000000 --json report.json",
               "weighbridge verify ./Llama-3.2-1B ./checkpoints/llama32_1b --ranks --tp 2 --pp 2",
               "weighbridge verify ./checkpoints/llama32_1b llama.manifest.json"});
  command->callback([&context, a] { context.exit_status = Run(context, *a); });
}

}  // namespace weighbridge::cli
