#include "cli/megatron_output.h"

#include <fmt/format.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/atomic_output.h"
#include "base/file.h"
#include "base/progress.h"
#include "cli/model_input.h"
#include "cli/size_option.h"
#include "formats/checkpoint_files.h"
#include "formats/megatron_config/run_config.h"
#include "formats/torch_dist/metadata.h"
#include "formats/torch_dist/reader.h"
#include "formats/torch_dist/run_files.h"

namespace weighbridge::cli {
namespace {

namespace fs = std::filesystem;

// The tracker comes last: before it, nobody finds the iteration.
Status PublishTracker(const MegatronTarget& target, bool torch_dist) {
  if (torch_dist) {
    WB_RETURN_IF_ERROR(ReplaceFile(target.root / kLatestTrainStateName, target.latest_train_state,
                                   Durability::kSynced));
  }
  return ReplaceFile(target.root / kTrackerName, target.iteration, Durability::kSynced);
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

// All that decides which bytes are written.
JobKey KeyOfWork(const MegatronTarget& target, const MegatronWork& work) {
  std::vector<std::string> texts = {work.command, work.model.spec().name, target.iteration,
                                    target.run_config, TorchDistMetadata(work.plan.disk)};
  for (const TorchDistBytes& entry : work.plan.disk.entries) texts.push_back(entry.content);
  for (const TorchDistPlan::File& file : work.plan.disk.files) {
    texts.push_back(file.name);
    texts.push_back(std::to_string(file.nbytes));
  }
  return KeyOf(work.files, texts);
}

// This rank's share; on rank 0 also what all share, and the publication.
Status Write(const MegatronTarget& target, const MegatronWork& work, ImportOptions& options,
             const WritingOptions& writing, Coordinator& ranks, RankedOutput& output,
             Conversion& done) {
  const std::optional<ReadBackMode> read_back = ReadBackOf(writing);
  WB_TRY(TorchDistWriter writer,
         TorchDistWriter::Create(output.path(), work.plan.disk, output.Shards()));
  {
    std::optional<Progress> progress;
    if (ranks.first()) progress.emplace(work.command, output.own_bytes());
    options.progress = [&](uint64_t bytes) { progress ? progress->Add(bytes) : void(); };
    if (ranks.size() > 1) options.proceed = [&] { return ranks.Check(); };
    WB_RETURN_IF_ERROR(Import(work.source, work.plan, options, writer));
  }
  if (read_back) WB_RETURN_IF_ERROR(writer.ReadBack(writing.threads, *read_back));
  WB_RETURN_IF_ERROR(work.files.CheckUnchanged());
  WB_RETURN_IF_ERROR(ranks.Barrier());
  if (!ranks.first()) return {};
  WB_RETURN_IF_ERROR(writer.Finish());
  if (read_back) WB_RETURN_IF_ERROR(writer.ReadBackMetadata());
  WB_RETURN_IF_ERROR(WriteOthers(target, output.folder(), work.plan.disk.has_metadata));
  WB_TRY(done.published, output.Commit());
  done.read_back = read_back.has_value();
  return PublishTracker(target, work.plan.disk.has_metadata);
}

// Whoever trains in that folder goes on from the iteration that the tracker names.
Status CheckTracker(const MegatronTarget& target, bool overwrite) {
  if (overwrite) return {};
  WB_TRY(const std::string text, ReadTracker(target.root));
  if (text == target.iteration || TrackedFolder(text).empty()) return {};
  return Fail(ErrorKind::kUsage, "output-exists",
              fmt::format("the tracker names {}, and would name {} afterwards", TrackedFolder(text),
                          TrackedFolder(target.iteration)),
              (target.root / kTrackerName).string(),
              "give another folder, or --overwrite to move the tracker");
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
                  "pad the vocabulary to N rows; default: as it is, and as the grid needs")
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

Status WriteMegatron(const MegatronTarget& target, const MegatronWork& work, ImportOptions options,
                     const WritingOptions& writing, const ConversionOutput& output,
                     Coordinator& ranks, Conversion& done) {
  WB_TRY(options.memory_bytes, ParseSize(writing.memory, "--memory"));
  options.threads = writing.threads;
  WB_RETURN_IF_ERROR(CheckTracker(target, writing.overwrite));
  std::error_code error;
  fs::create_directories(target.root, error);
  if (error) return Fail(ErrnoError(error.value(), "cannot make the folder", target.root));
  const TorchDistPlan& disk = work.plan.disk;
  std::vector<PlannedFile> files;
  for (const TorchDistPlan::File& file : disk.files) files.push_back({file.name, file.nbytes});
  WB_TRY(RankedOutput made,
         RankedOutput::Open(ranks, target.root / TrackedFolder(target.iteration), files,
                            RankedOptions(writing, CheckReplaceableIteration, disk.TotalFileBytes(),
                                          KeyOfWork(target, work))));
  if (ranks.first()) PrintStart(made, output);
  WB_RETURN_IF_ERROR(OrKept(Write(target, work, options, writing, ranks, made, done), made));
  done.tensors = disk.tensors.size();
  done.files = disk.files.size();
  for (const TorchDistTensor& t : disk.tensors) {
    done.bytes += static_cast<uint64_t>(Numel(t.shape) * BitsOf(t.dtype) / 8);
  }
  Describe(made, ranks, done);
  return {};
}

}  // namespace weighbridge::cli
