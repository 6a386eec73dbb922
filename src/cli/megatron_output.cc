#include "cli/megatron_output.h"

#include <string_view>
#include <utility>

#include "base/atomic_output.h"
#include "base/file.h"
#include "base/progress.h"
#include "cli/model_input.h"
#include "formats/checkpoint_files.h"
#include "formats/megatron_config/run_config.h"
#include "formats/torch_dist/run_files.h"

namespace weighbridge::cli {
namespace {

namespace fs = std::filesystem;

Status WriteSmallFile(const fs::path& path, std::string_view text) {
  WB_TRY(AtomicFile file, AtomicFile::Create(path, {.overwrite = true}));
  WB_RETURN_IF_ERROR(file.Append(text));
  WB_TRY([[maybe_unused]] const Publication done, file.Commit());
  return {};
}

// The tracker comes last: before it, nobody finds the iteration.
Status PublishTracker(const MegatronTarget& target, bool torch_dist) {
  if (torch_dist) {
    WB_RETURN_IF_ERROR(
        WriteSmallFile(target.root / kLatestTrainStateName, target.latest_train_state));
  }
  return WriteSmallFile(target.root / kTrackerName, target.iteration);
}

// The legacy format keeps the run's state in the files of the ranks.
Status WriteOthers(const MegatronTarget& target, const AtomicDirectory& folder, bool torch_dist) {
  if (torch_dist) WB_RETURN_IF_ERROR(folder.WriteFile(kTrainStateName, target.train_state));
  if (torch_dist && !target.common_pt.empty()) {
    WB_RETURN_IF_ERROR(folder.WriteFile(kCommonPtName, target.common_pt));
  }
  if (target.run_config.empty()) return {};
  return folder.WriteFile(kRunConfigName, target.run_config);
}

}  // namespace

void AddMegatronLayoutOptions(CLI::App& command, MegatronLayout& layout) {
  AddGridOptions(command, layout.grid);
  command
      .add_option("--format", layout.format,
                  "torch_dist: global tensors, for any grid; torch: the legacy format, a file per "
                  "rank")
      ->check(CLI::IsMember({"torch_dist", "torch"}))
      ->capture_default_str()
      ->group("Megatron");
  CLI::Option* dialect =
      command
          .add_option("--dialect", layout.dialect,
                      layout.dialect.empty()
                          ? "whose module names: te or local; default: as they are"
                          : "whose module names: te or local")
          ->check(CLI::IsMember({"te", "local"}))
          ->group("Megatron");
  if (!layout.dialect.empty()) dialect->capture_default_str();
  command.add_option("--dtype", layout.dtype, "of the weights; default: as they are")
      ->check(CLI::IsMember({"bf16", "fp16", "fp32"}))
      ->group("Megatron");
  command
      .add_option("--pad-vocab", layout.pad_vocab,
                  "pad the vocabulary to N rows; default: as the grid needs")
      ->type_name("N")
      ->check(CLI::PositiveNumber)
      ->group("Megatron");
  command
      .add_flag("--without-mtp", layout.without_mtp,
                "leave multi-token-prediction layers out; default: off")
      ->group("Megatron");
}

DType MainDType(const Model& model, const ParameterSource& source, const ImportOptions& options) {
  if (options.dtype) return *options.dtype;
  const std::vector<Parameter>& all = model.parameters();
  return all.empty() ? DType::kF32 : source.StoredDType(all.front());
}

void AddMegatronTargetOptions(CLI::App& command, MegatronTarget& target) {
  command
      .add_flag("--overwrite", target.overwrite,
                "replace the iteration if it is there; default: off")
      ->group("Output");
  command
      .add_option_function<std::string>(
          "--verify", [&target](const std::string& text) { target.read_back = text == "page"; },
          "page: read back what was written and compare; none: do not")
      ->check(CLI::IsMember({"page", "none"}))
      ->default_str("page")
      ->group("Output");
}

Status WriteMegatron(const MegatronTarget& target, const ParameterSource& source,
                     const ImportPlan& plan, ImportOptions options, const std::string& command,
                     Conversion& done) {
  std::error_code error;
  fs::create_directories(target.root, error);
  if (error) return Fail(ErrnoError(error.value(), "cannot make the folder", target.root));
  WB_TRY(AtomicDirectory folder,
         AtomicDirectory::Create(target.root / TrackedFolder(target.iteration),
                                 {.overwrite = target.overwrite,
                                  .may_replace = CheckReplaceableIteration,
                                  .expected_bytes = plan.disk.TotalFileBytes()}));
  done.tensors = plan.disk.tensors.size();
  done.files = plan.disk.files.size();
  for (const TorchDistTensor& t : plan.disk.tensors) {
    done.bytes += static_cast<uint64_t>(Numel(t.shape) * BitsOf(t.dtype) / 8);
  }
  Progress progress(command, done.bytes);
  options.progress = [&](uint64_t bytes) { progress.Add(bytes); };
  WB_TRY(TorchDistWriter writer, TorchDistWriter::Create(folder.path(), plan.disk));
  WB_RETURN_IF_ERROR(Import(source, plan, options, writer));
  WB_RETURN_IF_ERROR(WriteOthers(target, folder, plan.disk.has_metadata));
  if (target.read_back) {
    WB_RETURN_IF_ERROR(writer.ReadBack(options.threads));
    done.read_back = true;
  }
  WB_TRY(done.published, folder.Commit());
  return PublishTracker(target, plan.disk.has_metadata);
}

}  // namespace weighbridge::cli
