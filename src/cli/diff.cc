// `weighbridge diff A B`: two state dicts of any format, key by key.
#include "checks/diff.h"

#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "base/memory.h"
#include "base/progress.h"
#include "base/threads.h"
#include "checks/rank_diff.h"
#include "cli/command.h"
#include "cli/model_input.h"

namespace weighbridge::cli {
namespace {

struct DiffArguments {
  std::string expected, actual;
  DiffOptions options;
};

// The files of several ranks, when that is what `path` is.
Result<std::unique_ptr<MegatronCheckpoint>> OpenRanks(const std::string& path) {
  if (!LooksLikeMegatron(path)) return nullptr;
  WB_TRY(auto megatron, OpenMegatron(path));
  const TorchLegacyCheckpoint* ranks = megatron->rank_files();
  if (ranks == nullptr || ranks->ranks().size() < 2) return nullptr;
  return megatron;
}

// A whole checkpoint against the ranks of a parallel run.
Result<Report> CompareWithRanks(const DiffArguments& arguments,
                                const TorchLegacyCheckpoint& ranks) {
  WB_TRY(const auto whole, OpenStateDict(arguments.expected));
  uint64_t bytes = 0;
  for (const DistTensor& t : ranks.metadata().tensors) {
    bytes += static_cast<uint64_t>(2 * Numel(t.shape) * BitsOf(t.dtype) / 8);
  }
  Progress progress("diff", bytes);
  DiffOptions options = arguments.options;
  options.progress = [&](uint64_t done) { progress.Add(done); };
  const bool one_rank = whole->format() == "torch";
  return DiffRanks(*whole, one_rank ? "mp_rank_00/" : "", ranks, options);
}

Result<Report> Compare(const DiffArguments& arguments) {
  WB_TRY(const auto ranks, OpenRanks(arguments.actual));
  WB_TRY(const auto whole_ranks, OpenRanks(arguments.expected));
  if (ranks != nullptr && whole_ranks == nullptr) {
    return CompareWithRanks(arguments, *ranks->rank_files());
  }
  if (whole_ranks != nullptr && ranks == nullptr) {
    return Fail(ErrorKind::kUsage, "usage",
                "the first is the files of several ranks, the second a whole checkpoint",
                arguments.expected, "give the whole checkpoint first");
  }
  WB_TRY(const auto expected, OpenStateDict(arguments.expected));
  WB_TRY(const auto actual, OpenStateDict(arguments.actual));
  uint64_t bytes = 0;
  for (const Checkpoint* side : {expected.get(), actual.get()}) {
    for (const TensorInfo& tensor : side->tensors()) bytes += tensor.nbytes;
  }
  Progress progress("diff", bytes);
  DiffOptions options = arguments.options;
  options.progress = [&](uint64_t done) { progress.Add(done); };
  return Diff(*expected, *actual, options);
}

int RunDiff(Context& context, DiffArguments& arguments) {
  const CommandInputs inputs{{arguments.expected, arguments.actual}, {}};
  if (const Status spared = CheckOutputs(context.output, inputs); !spared) {
    return PrintError(spared.error());
  }
  PeakAnonymousBytes();
  Result<Report> compared = Compare(arguments);
  if (!compared) return EmitError(context, "diff", "L1", compared.error());
  Report& report = *compared;
  report.peak_anonymous_bytes = PeakAnonymousBytes();
  return Emit(context, report);
}

}  // namespace

void AddDiff(CLI::App& app, Context& context) {
  auto arguments = std::make_shared<DiffArguments>();
  DiffOptions& options = arguments->options;
  options.threads = DefaultThreads();
  CLI::App* command = app.add_subcommand("diff", "two state dicts of any format, key by key");
  command->add_option("A", arguments->expected, "the expected side: file, folder or org/name[@REV]")
      ->required();
  command
      ->add_option("B", arguments->actual,
                   "the side that is judged: file, folder or org/name[@REV]")
      ->required();
  command
      ->add_option("--atol", options.tolerance.atol,
                   "accept |a - b| <= atol + rtol * |a|; 0 and 0: bits must be equal")
      ->check(FiniteFrom(0))
      ->capture_default_str()
      ->group("Compare");
  command->add_option("--rtol", options.tolerance.rtol, "see --atol")
      ->check(FiniteFrom(0))
      ->capture_default_str()
      ->group("Compare");
  command
      ->add_option("--allow-skip", options.allow_skip,
                   "leave out tensors whose name matches PATTERN (*, ?); may be repeated; "
                   "default: none")
      ->type_name("PATTERN")
      ->allow_extra_args(false)
      ->group("Compare");
  command->add_option("--threads", options.threads, "threads; default: all processors")
      ->check(CLI::PositiveNumber)
      ->group("Compare");
  AddOutputOptions(*command, context);
  AddExamples(*command, {"weighbridge diff model.safetensors copy.safetensors",
                         "weighbridge diff meta-llama/Llama-3.2-1B ./exported --json diff.json",
                         "weighbridge diff old/ new/ --rtol 1e-3 --allow-skip '*.inv_freq'"});
  command->callback([&context, arguments] { context.exit_status = RunDiff(context, *arguments); });
}

}  // namespace weighbridge::cli
