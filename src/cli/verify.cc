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
#include "cli/judge_pair.h"
#include "cli/megatron_input.h"
#include "cli/model_input.h"
#include "cli/rank_options.h"
#include "cli/size_option.h"

namespace weighbridge::cli {
namespace {

struct VerifyArguments : PairArguments {
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
    return RunCheck(context, "verify", arguments.level == "L0" ? "L0" : "L1", inputs, ranks,
                    [&]() -> Result<Report> {
                      return manifest ? RunOnManifest(arguments) : JudgePair(arguments, "verify");
                    });
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
  AddPairOptions(*command, *a);
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
  AddThreadsOption(*command, a->options.threads);
  AddMemoryOption(*command, a->memory);
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
