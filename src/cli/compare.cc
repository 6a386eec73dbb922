// `weighbridge compare HF [MEGATRON]`: do both models compute the same function, layer by layer?
#include "engine/compare.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <memory>
#include <optional>

#include "base/progress.h"
#include "base/strings.h"
#include "checks/inventory.h"
#include "checks/megatron_binding.h"
#include "cli/command.h"
#include "cli/megatron_input.h"
#include "cli/model_input.h"
#include "engine/component.h"

namespace weighbridge::cli {
namespace {

struct CompareArguments {
  std::string model, megatron, config, runtime;
  std::vector<std::string> families, token_ids, thresholds;
  CompareOptions options;
};

// "1,2,3".
Result<std::vector<int64_t>> ParseIds(const std::string& text) {
  std::vector<int64_t> ids;
  for (const char* at = text.data(); at < text.data() + text.size();) {
    int64_t id = 0;
    const auto [end, error] = std::from_chars(at, text.data() + text.size(), id);
    const bool last = end == text.data() + text.size();
    if (error != std::errc() || (!last && *end != ',')) {
      return Fail(ErrorKind::kUsage, "usage", fmt::format("'{}' is no list of token ids", text),
                  "--token-ids", "numbers with commas between: --token-ids 1,15,27");
    }
    ids.push_back(id);
    at = end + 1;
  }
  return ids;
}

Status ReadIds(CompareArguments& a) {
  if (!a.token_ids.empty() && a.options.seq_len > 0) {
    return Fail(ErrorKind::kUsage, "usage", "--seq-len is for random ids, and ids are given",
                "--seq-len", "leave one of them out");
  }
  for (const std::string& text : a.token_ids) {
    WB_TRY(std::vector<int64_t> ids, ParseIds(text));
    if (ids.empty() ||
        (!a.options.token_ids.empty() && ids.size() != a.options.token_ids.front().size())) {
      return Fail(ErrorKind::kUsage, "usage", "all rows of token ids have to be of one length",
                  "--token-ids", "run the command once for each length");
    }
    a.options.token_ids.push_back(std::move(ids));
  }
  return {};
}

// PATTERN=RATIO.
Status ReadThresholds(CompareArguments& a) {
  for (const std::string& text : a.thresholds) {
    const size_t equals = text.rfind('=');
    RatioThreshold threshold;
    bool is_number = false;
    if (equals != std::string::npos && equals > 0) {
      threshold.pattern = text.substr(0, equals);
      const char* end = text.data() + text.size();
      const auto parsed = std::from_chars(text.data() + equals + 1, end, threshold.ratio);
      is_number = parsed.ec == std::errc() && parsed.ptr == end;
    }
    if (!is_number || !(threshold.ratio > 0) || !std::isfinite(threshold.ratio)) {
      return Fail(ErrorKind::kUsage, "usage",
                  fmt::format("'{}' is no threshold", ToPrintable(text)), "--threshold",
                  "a pattern and a ratio above 0: --threshold '*.mlp.router=4'");
    }
    a.options.thresholds.push_back(std::move(threshold));
  }
  return {};
}

Result<Report> RunOn(CompareArguments& a) {
  // What is missing is said before a large checkpoint is looked at.
  WB_RETURN_IF_ERROR(FindComponent());
  WB_RETURN_IF_ERROR(ReadIds(a));
  WB_RETURN_IF_ERROR(ReadThresholds(a));
  WB_TRY(a.options.runtime, ParseRuntime(a.runtime));
  WB_TRY(const auto input, OpenModelInput(a.model, a.families, a.config));
  std::unique_ptr<MegatronCheckpoint> megatron;
  ExpandOptions expand;
  ChooseStorageBy(*input->checkpoint, expand);
  expand.without_mtp = a.options.without_mtp;
  std::optional<Model> model;
  if (a.megatron.empty()) {
    WB_TRY(model, Model::Expand(*input->family, input->config, expand));
  } else {
    WB_TRY(megatron, OpenMegatron(a.megatron));
    WB_TRY(model, ExpandAsStored(*input->family, input->config, std::move(expand), megatron));
  }
  uint64_t bytes = 0;
  for (const TensorInfo& t : input->checkpoint->tensors()) bytes += t.nbytes;
  Progress progress("compare", 2 * bytes);
  a.options.progress = [&](uint64_t n) { progress.Add(n); };
  WB_TRY(Report report, CompareModels(*model, *input->checkpoint, megatron.get(), a.options));
  DescribeInput(*input, report);
  return report;
}

int Run(Context& context, CompareArguments& a) {
  CommandInputs inputs{{a.model}, a.families};
  if (!a.megatron.empty()) inputs.models.push_back(a.megatron);
  inputs.files.insert(inputs.files.end(), {a.config, a.options.reference, a.options.candidate});
  if (!a.options.record.empty()) {
    const NamedOutput record{"--record", a.options.record};
    if (const Status spared = CheckOutputsSpareInputs({&record, 1}, inputs); !spared) {
      return PrintError(spared.error());
    }
  }
  return RunCheck(context, "compare", "L2", inputs, [&] { return RunOn(a); });
}

void AddTokenOptions(CLI::App& command, CompareArguments& a) {
  command
      .add_option("--token-ids", a.token_ids,
                  "the ids to run on, with commas between; repeated: rows of one batch")
      ->type_name("LIST")
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group("Tokens");
  command
      .add_option("--seq-len", a.options.seq_len,
                  "so many random ids; default: 512, or the longest position of the config")
      ->type_name("N")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 14))
      ->group("Tokens");
  command.add_option("--seed", a.options.seed, "of the random ids")
      ->check(CLI::Range(uint64_t{0}, uint64_t{1} << 53))
      ->capture_default_str()
      ->group("Tokens");
}

void AddJudgementOptions(CLI::App& command, CompareArguments& a) {
  command
      .add_option("--threshold", a.thresholds,
                  "another ratio that passes, for the modules that match; repeatable, the last one "
                  "counts; default: 2, the largest error four times as much")
      ->type_name("PATTERN=RATIO")
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group("Compare");
  command.add_option("--top-k", a.options.top_k, "next tokens that -v shows of the last position")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str()
      ->group("Compare");
}

void AddSourceOptions(CLI::App& command, CompareArguments& a) {
  command
      .add_option("--reference", a.options.reference,
                  "captured activations of transformers instead of its computation here")
      ->type_name("FILE")
      ->group("Compare");
  command
      .add_option("--candidate", a.options.candidate,
                  "captured activations of Megatron, which are judged layer by layer")
      ->type_name("FILE")
      ->group("Compare");
  command
      .add_option("--runtime", a.runtime,
                  "whose hidden behaviour counts: none, or megatron-core==VERSION; default: the "
                  "newest known")
      ->type_name("RUNTIME")
      ->group("Compare");
  command
      .add_option("--precision", a.options.precision,
                  "judge the rounding in this dtype too: auto (the checkpoint's), bf16, fp16, none")
      ->type_name("DTYPE")
      ->check(CLI::IsMember({"auto", "bf16", "fp16", "none"}))
      ->capture_default_str()
      ->group("Compare");
  command
      .add_flag("--no-free-run{false}", a.options.free_run,
                "leave out what each model computes from its own states; default: off")
      ->group("Compare");
  command.add_option("--device", a.options.device, "where both models compute: cpu or cuda")
      ->type_name("DEVICE")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str()
      ->group("Compare");
  command
      .add_flag("--without-mtp", a.options.without_mtp,
                "leave multi-token-prediction layers out; default: off")
      ->group("Compare");
  command
      .add_option("--record", a.options.record,
                  "write the activations of both sides to this safetensors file")
      ->type_name("FILE")
      ->group("Compare");
  command
      .add_flag("--overwrite", a.options.overwrite, "replace the file of --record; default: off")
      ->group("Compare");
}

}  // namespace

void AddCompare(CLI::App& app, Context& context) {
  auto a = std::make_shared<CompareArguments>();
  CLI::App* command = app.add_subcommand(
      "compare", "do both models compute the same, layer by layer and module by module");
  AddHfPositional(*command, "HF", a->model);
  command->add_option(std::string("MEGATRON,") + kMegatronSpellings, a->megatron,
                      "a Megatron checkpoint; default: the weights of HF through the mapping, in "
                      "memory");
  AddTokenOptions(*command, *a);
  AddSourceOptions(*command, *a);
  AddJudgementOptions(*command, *a);
  AddConfigOption(*command, a->config);
  AddFamilyOption(*command, a->families);
  AddThreadsOption(*command, a->options.threads);
  AddOutputOptions(*command, context);
  AddExamples(*command,
              {"weighbridge compare ./Llama-3.2-1B",
               "weighbridge compare ./Llama-3.2-1B ./checkpoints/llama32_1b --seq-len 128",
               "weighbridge compare ./gemma-2-2b --candidate megatron-run.safetensors"});
  command->callback([&context, a] { context.exit_status = Run(context, *a); });
}

}  // namespace weighbridge::cli
