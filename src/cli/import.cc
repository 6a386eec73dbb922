// `weighbridge import HF MEGATRON`: a torch_dist checkpoint that Megatron-Core and the Bridge load.
#include "checks/import.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <memory>

#include "base/atomic_output.h"
#include "base/progress.h"
#include "base/strings.h"
#include "base/threads.h"
#include "checks/bridge_config.h"
#include "checks/files_beside.h"
#include "cli/conversion.h"
#include "cli/model_input.h"
#include "formats/checkpoint_files.h"
#include "formats/megatron_config/run_config.h"
#include "formats/megatron_config/yaml.h"
#include "formats/torch_dist/run_files.h"
#include "report/rows.h"

namespace weighbridge::cli {
namespace {

namespace fs = std::filesystem;

struct ImportArguments {
  std::string model, target, config, dialect = "te", dtype, verify = "page";
  std::vector<std::string> families;
  ParallelGrid grid;
  ImportOptions options;
  ConversionOutput output;
  bool overwrite = false, without_mtp = false;
  int64_t pad_vocab = 0;
};

Result<Model> ExpandModel(const ModelInput& input, const ImportArguments& a) {
  ExpandOptions expand;
  expand.has = [&](const std::string& name) { return input.checkpoint->Find(name) != nullptr; };
  expand.tp = a.grid.tp;
  expand.pad_vocab = a.pad_vocab;
  expand.without_mtp = a.without_mtp;
  return Model::Expand(*input.family, input.config, expand);
}

Status WriteSmallFile(const fs::path& path, std::string_view text) {
  WB_TRY(AtomicFile file, AtomicFile::Create(path, {.overwrite = true}));
  WB_RETURN_IF_ERROR(file.Append(text));
  WB_TRY([[maybe_unused]] const Publication done, file.Commit());
  return {};
}

// That of the embedding: most weights have it.
DType MainDType(const Model& model, const ModelInput& input, const ImportOptions& options) {
  if (options.dtype) return *options.dtype;
  const std::vector<Parameter>& all = model.parameters();
  const TensorInfo* first = all.empty() ? nullptr : input.checkpoint->Find(all.front().hf[0]);
  return first == nullptr ? DType::kF32 : first->dtype;
}

// "" when the family has no provider: the weights can be imported all the same.
Result<std::string> RunConfigText(const Model& model, const ModelInput& input,
                                  const ImportArguments& a) {
  if (model.spec().bridge.provider.empty()) return "";
  WB_TRY(const nlohmann::json config,
         BridgeRunConfig(model, {.grid = a.grid,
                                 .dialect = a.options.dialect,
                                 .dtype = MainDType(model, input, a.options),
                                 .hf_model = a.model}));
  return DumpYaml(config);
}

// The tracker comes last: before it, nobody finds the iteration.
Status PublishTracker(const fs::path& root) {
  WB_RETURN_IF_ERROR(WriteSmallFile(root / kLatestTrainStateName, TrainStatePt({})));
  return WriteSmallFile(root / kTrackerName, "0");
}

std::vector<std::string> ConfigAndFamilies(const ImportArguments& a) {
  std::vector<std::string> files = a.families;
  files.push_back(a.config);
  return files;
}

Result<Conversion> Make(ImportArguments& a) {
  const auto start = std::chrono::steady_clock::now();
  WB_RETURN_IF_ERROR(CheckConversionOutput(a.output, {{a.model}, ConfigAndFamilies(a)}));
  WB_TRY(const auto input, OpenModelInput(a.model, a.families, a.config));
  const fs::path root(a.target);
  WB_RETURN_IF_ERROR(RefuseSourceAsTarget(input->checkpoint->path(), root));
  WB_TRY(const Model model, ExpandModel(*input, a));
  WB_TRY(const Placement placement, Placement::Create(model, a.grid));
  a.options.dialect = a.dialect == "local" ? Dialect::kLocal : Dialect::kTe;
  if (!a.dtype.empty()) a.options.dtype = ParseShortName(a.dtype);
  WB_TRY(const std::string run_config, RunConfigText(model, *input, a));
  WB_TRY(const HfParameters source, HfParameters::Create(model, *input->checkpoint));
  WB_TRY(ImportPlan plan, PlanImport(model, placement, source, a.options));
  std::error_code error;
  fs::create_directories(root, error);
  if (error) return Fail(ErrnoError(error.value(), "cannot make the folder", root));
  WB_TRY(AtomicDirectory folder,
         AtomicDirectory::Create(root / IterationFolder(0),
                                 {.overwrite = a.overwrite,
                                  .may_replace = CheckReplaceableIteration,
                                  .expected_bytes = plan.disk.TotalFileBytes()}));
  Conversion done;
  for (const TorchDistTensor& t : plan.disk.tensors) {
    done.bytes += static_cast<uint64_t>(Numel(t.shape) * BitsOf(t.dtype) / 8);
  }
  Progress progress("import", done.bytes);
  a.options.progress = [&](uint64_t bytes) { progress.Add(bytes); };
  WB_TRY(TorchDistWriter writer, TorchDistWriter::Create(folder.path(), plan.disk));
  WB_RETURN_IF_ERROR(Import(source, plan, a.options, writer));
  WB_RETURN_IF_ERROR(folder.WriteFile(kTrainStateName, TrainStatePt({})));
  if (!run_config.empty()) WB_RETURN_IF_ERROR(folder.WriteFile(kRunConfigName, run_config));
  if (a.verify == "page") {
    WB_RETURN_IF_ERROR(writer.ReadBack(a.options.threads));
    done.read_back = true;
  }
  WB_TRY(done.published, folder.Commit());
  WB_RETURN_IF_ERROR(PublishTracker(root));
  done.command = "import";
  done.source = a.model;
  done.target = a.target;
  done.family = input->family->name;
  done.format = fmt::format("torch_dist, {} spec, {}", a.dialect, ToString(a.grid));
  done.next = CommandLine({"weighbridge", "verify", a.model, a.target});
  done.tensors = plan.disk.tensors.size();
  done.files = plan.disk.files.size();
  done.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (run_config.empty()) {
    done.notes.push_back(fmt::format("no {}: family {} names no provider of Megatron Bridge",
                                     kRunConfigName, input->family->name));
  }
  if (model.padded_vocab() != model.vocab()) {
    done.notes.push_back(fmt::format("the vocabulary of {} rows is padded with zeros to {}",
                                     model.vocab(), model.padded_vocab()));
  }
  return done;
}

int Run(ImportArguments& a) {
  const Result<Conversion> done = Make(a);
  return done ? PrintConversion(*done, a.output) : PrintError(JudgeConfigError(done.error()));
}

}  // namespace

void AddImport(CLI::App& app, Context& context) {
  auto a = std::make_shared<ImportArguments>();
  a->options.threads = DefaultThreads();
  CLI::App* command =
      app.add_subcommand("import", "Hugging Face -> Megatron: a torch_dist checkpoint");
  command
      ->add_option(
          std::string("HF,") + kHfSpellings, a->model,
          "a Hugging Face folder, a .safetensors file, or org/name[@REV] in the local cache")
      ->required();
  command
      ->add_option(std::string("MEGATRON,") + kMegatronSpellings, a->target,
                   "the folder to import into; its iter_0000000 appears whole or not at all")
      ->required();
  AddGridOptions(*command, a->grid);
  command->add_option("--dialect", a->dialect, "whose module names: te or local")
      ->check(CLI::IsMember({"te", "local"}))
      ->capture_default_str()
      ->group("Megatron");
  command->add_option("--dtype", a->dtype, "of the weights; default: as they are")
      ->check(CLI::IsMember({"bf16", "fp16", "fp32"}))
      ->group("Megatron");
  command
      ->add_option("--pad-vocab", a->pad_vocab,
                   "pad the vocabulary to N rows; default: as the grid needs")
      ->type_name("N")
      ->check(CLI::PositiveNumber)
      ->group("Megatron");
  command
      ->add_flag("--without-mtp", a->without_mtp,
                 "leave multi-token-prediction layers out; default: off")
      ->group("Megatron");
  command
      ->add_option("--config", a->config,
                   "another config.json; default: the one beside the weights")
      ->type_name("FILE")
      ->group("Model");
  AddFamilyOption(*command, a->families);
  command
      ->add_flag("--overwrite", a->overwrite, "replace the iteration if it is there; default: off")
      ->group("Output");
  command
      ->add_option("--verify", a->verify,
                   "page: read back what was written and compare; none: do not")
      ->check(CLI::IsMember({"page", "none"}))
      ->capture_default_str()
      ->group("Output");
  AddConversionOutput(*command, a->output);
  command->add_option("--threads", a->options.threads, "threads; default: all processors")
      ->check(CLI::Range(1, 1024))
      ->group("Run");
  AddExamples(*command, {"weighbridge import ./Llama-3.2-1B ./checkpoints/llama32_1b",
                         "weighbridge import Qwen/Qwen3-30B-A3B ./mcore --tp 2 --ep 4"});
  command->callback([&context, a] { context.exit_status = Run(*a); });
}

}  // namespace weighbridge::cli
