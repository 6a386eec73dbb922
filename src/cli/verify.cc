// `weighbridge verify HF MEGATRON`: two existing checkpoints, whoever wrote them.
#include "checks/verify.h"

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <span>

#include "base/hash.h"
#include "base/progress.h"
#include "base/threads.h"
#include "checks/megatron_binding.h"
#include "cli/command.h"
#include "cli/model_input.h"
#include "cli/rank_options.h"
#include "cli/size_option.h"

namespace weighbridge::cli {
namespace {

struct VerifyArguments {
  std::string model, megatron, config, level = "L1", runtime = "none", expect_dtype, memory = "64M";
  std::vector<std::string> families;
  VerifyOptions options;
  RankOptions ranks;
};

Result<Model> ExpandFor(const ModelInput& input, std::unique_ptr<MegatronCheckpoint>& megatron,
                        bool without_mtp) {
  ExpandOptions expand;
  expand.has = [&](const std::string& name) { return input.checkpoint->Find(name) != nullptr; };
  expand.without_mtp = without_mtp;
  return ExpandAsStored(*input.family, input.config, std::move(expand), megatron);
}

Result<Report> RunOn(VerifyArguments& a) {
  WB_TRY(a.options.memory_bytes, ParseSize(a.memory, "--memory"));
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
  uint64_t bytes = 0;
  for (const DistTensor& t : megatron->metadata().tensors) {
    bytes += static_cast<uint64_t>(Numel(t.shape) * BitsOf(t.dtype) / 8);
  }
  std::optional<Progress> progress;
  if (a.options.ranks->first()) {
    progress.emplace("verify", bytes / static_cast<uint64_t>(a.options.ranks->size()));
  }
  a.options.progress = [&](uint64_t done) { progress ? progress->Add(done) : void(); };
  a.options.headers_only = a.level == "L0";
  WB_TRY(Report report, Verify(model, *input->checkpoint, *megatron, a.options));
  DescribeInput(*input, report);
  return report;
}

// Nothing is written into checkpoints under judgement.
std::filesystem::path MeetingPlace(const VerifyArguments& a) {
  const std::string both = a.model + '\n' + a.megatron;
  return "weighbridge-verify-" + Xxh3Hex(std::as_bytes(std::span(both))).substr(0, 8) + ".ranks";
}

int Run(Context& context, VerifyArguments& arguments) {
  CommandInputs inputs{{arguments.model, arguments.megatron}, arguments.families};
  inputs.files.push_back(arguments.config);
  return RunRanks(arguments.ranks, MeetingPlace(arguments), [&](Coordinator& ranks) {
    arguments.options.ranks = &ranks;
    return RunCheck(context, "verify", arguments.level, inputs, ranks,
                    [&] { return RunOn(arguments); });
  });
}

}  // namespace

void AddVerify(CLI::App& app, Context& context) {
  auto a = std::make_shared<VerifyArguments>();
  a->options.threads = DefaultThreads();
  CLI::App* command = app.add_subcommand(
      "verify", "a Hugging Face and a Megatron checkpoint: is every byte where it belongs");
  command
      ->add_option(
          std::string("HF,") + kHfSpellings, a->model,
          "a Hugging Face folder, a .safetensors file, or org/name[@REV] in the local cache")
      ->required();
  command
      ->add_option(std::string("MEGATRON,") + kMegatronSpellings, a->megatron,
                   "a Megatron checkpoint: the folder with the tracker file, or an iter_N")
      ->required();
  command->add_option("--level", a->level, "L0: headers only; L1: every byte")
      ->check(CLI::IsMember({"L0", "L1"}))
      ->capture_default_str()
      ->group("Compare");
  command
      ->add_option("--runtime", a->runtime,
                   "whose hidden behaviour counts; this version judges weights only: none")
      ->check(CLI::IsMember({"none"}))
      ->capture_default_str()
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
  command
      ->add_option("--config", a->config,
                   "another config.json; default: the one beside the weights")
      ->type_name("FILE")
      ->group("Model");
  AddFamilyOption(*command, a->families);
  command->add_option("--threads", a->options.threads, "threads; default: all processors")
      ->check(CLI::Range(1, 1024))
      ->group("Run");
  command->add_option("--memory", a->memory, "memory for the blocks in flight: bytes, K, M or G")
      ->type_name("SIZE")
      ->capture_default_str()
      ->group("Run");
  AddRankOptions(*command, a->ranks);
  AddOutputOptions(*command, context);
  AddExamples(*command,
              {"weighbridge verify ./Llama-3.2-1B ./checkpoints/llama32_1b",
               "weighbridge verify Qwen/Qwen3-30B-A3B ./mcore/iter_0000000 --json report.json"});
  command->callback([&context, a] { context.exit_status = Run(context, *a); });
}

}  // namespace weighbridge::cli
