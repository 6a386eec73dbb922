// `weighbridge export MEGATRON HF`: a torch_dist checkpoint as Hugging Face safetensors.
#include "checks/export.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <memory>

#include "base/atomic_output.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/strings.h"
#include "base/threads.h"
#include "checks/files_beside.h"
#include "checks/megatron_binding.h"
#include "cli/conversion.h"
#include "cli/model_input.h"
#include "cli/size_option.h"
#include "formats/all.h"
#include "formats/checkpoint_files.h"
#include "formats/megatron_config/run_config.h"
#include "report/rows.h"

namespace weighbridge::cli {
namespace {

namespace fs = std::filesystem;

struct ExportArguments {
  std::string megatron, target, like, config, dtype, max_shard_size = "5G";
  std::vector<std::string> families;
  ExportOptions options;
  ConversionOutput output;
  bool overwrite = false;
};

// Whose config, tokenizer and dtypes the export has.
struct Like {
  std::unique_ptr<ModelInput> model;  // with --like
  FamilyLibrary families;
  const FamilySpec* family = nullptr;
  nlohmann::json config;
  fs::path config_file;
};

// Without --like and --config: the model that run_config.yaml names, when it is on this machine.
Status FindSource(const MegatronCheckpoint& megatron, ExportArguments& a, Conversion& done) {
  WB_TRY(const auto run_config, ReadRunConfig(megatron.path() / kRunConfigName));
  const std::string model = run_config ? run_config->HfModel() : "";
  if (!model.empty() && ResolveModelPath(model)) {
    a.like = model;
    done.notes.push_back(
        fmt::format("config, tokenizer and dtypes are those of {}, which {} names as the source",
                    ToPrintable(model), kRunConfigName));
    return {};
  }
  const std::string why = model.empty() ? ""
                                        : fmt::format("; {} names {}, which is not on this machine",
                                                      kRunConfigName, ToPrintable(model));
  return Fail(ErrorKind::kUsage, "usage",
              "say which config.json the export has: --like or --config" + why, "",
              "for example: weighbridge export ./mcore ./hf --like ./Llama-3.2-1B");
}

Result<std::unique_ptr<Like>> OpenLike(const ExportArguments& a) {
  auto like = std::make_unique<Like>();
  if (!a.like.empty()) {
    WB_TRY(like->model, OpenModelInput(a.like, a.families, a.config));
    like->family = like->model->family;
    like->config = like->model->config;
    const fs::path path = like->model->checkpoint->path();
    like->config_file = !a.config.empty()        ? fs::path(a.config)
                        : fs::is_directory(path) ? path / "config.json"
                                                 : path.parent_path() / "config.json";
    return like;
  }
  WB_TRY(like->families, LoadFamilies(a.families));
  WB_TRY(like->config, ReadConfig(a.config));
  WB_TRY(like->family, like->families.ForConfig(like->config));
  like->config_file = a.config;
  return like;
}

Result<Model> ExpandModel(const Like& like, const MegatronCheckpoint& megatron, bool without_mtp) {
  ExpandOptions expand;
  if (like.model != nullptr) {
    expand.has = [&](const std::string& name) {
      return like.model->checkpoint->Find(name) != nullptr;
    };
  }
  expand.without_mtp = without_mtp;
  return ExpandAsStored(*like.family, like.config, std::move(expand), megatron.metadata());
}

// config.json, and with --like the tokenizer and what else lies beside the weights.
Status WriteOthers(const ExportArguments& a, const Like& like, const AtomicDirectory& folder,
                   Conversion& done) {
  WB_TRY(const std::string config, ReadTextFile(like.config_file));
  WB_RETURN_IF_ERROR(folder.WriteFile("config.json", config));
  if (a.like.empty()) return {};
  const fs::path& source = like.model->checkpoint->path();
  WB_TRY(done.copied, FilesBeside(source, done.notes));
  return CopyFiles(source, done.copied, folder);
}

Result<Conversion> Make(ExportArguments& a) {
  const auto start = std::chrono::steady_clock::now();
  Conversion done;
  WB_TRY(const auto megatron, OpenMegatron(a.megatron));
  if (a.like.empty() && a.config.empty()) WB_RETURN_IF_ERROR(FindSource(*megatron, a, done));
  CommandInputs inputs{{a.megatron, a.like}, a.families};
  inputs.files.push_back(a.config);
  WB_RETURN_IF_ERROR(CheckConversionOutput(a.output, inputs));
  WB_TRY(const auto like, OpenLike(a));
  WB_RETURN_IF_ERROR(RefuseSourceAsTarget(megatron->path(), a.target));
  if (!a.like.empty()) {
    WB_RETURN_IF_ERROR(RefuseSourceAsTarget(like->model->checkpoint->path(), a.target));
  }
  if (!a.dtype.empty()) a.options.dtype = ParseShortName(a.dtype);
  WB_TRY(const Model model, ExpandModel(*like, *megatron, a.options.without_mtp));
  const Checkpoint* original = like->model != nullptr ? like->model->checkpoint.get() : nullptr;
  WB_TRY(const ExportPlan what, PlanExport(model, *megatron, original, a.options));
  std::vector<TensorInfo> infos;
  for (const ExportTensor& t : what.tensors) infos.push_back(t.info);
  WB_TRY(const int64_t shard_bytes, ParseSize(a.max_shard_size, "--max-shard-size"));
  WB_TRY(
      SafetensorsPlan plan,
      PlanSafetensors(std::move(infos), {.max_shard_bytes = static_cast<uint64_t>(shard_bytes)}));
  done.bytes = plan.total_size;
  done.files = plan.files.size();
  done.tensors = what.tensors.size();
  WB_TRY(AtomicDirectory folder,
         AtomicDirectory::Create(a.target, {.overwrite = a.overwrite,
                                            .may_replace = CheckReplaceable,
                                            .expected_bytes = plan.TotalFileBytes()}));
  WB_RETURN_IF_ERROR(WriteOthers(a, *like, folder, done));
  Progress progress("export", done.bytes);
  a.options.progress = [&](uint64_t bytes) { progress.Add(bytes); };
  WB_TRY(SafetensorsWriter writer, SafetensorsWriter::Create(folder.path(), std::move(plan)));
  WB_RETURN_IF_ERROR(Export(model, *megatron, what, a.options, writer));
  WB_TRY(done.published, folder.Commit());
  done.command = "export";
  done.source = a.megatron;
  done.target = a.target;
  done.family = like->family->name;
  done.format = "safetensors";
  done.next = CommandLine({"weighbridge", "verify", a.target, a.megatron});
  done.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return done;
}

int Run(ExportArguments& a) {
  const Result<Conversion> done = Make(a);
  return done ? PrintConversion(*done, a.output) : PrintError(JudgeConfigError(done.error()));
}

}  // namespace

void AddExport(CLI::App& app, Context& context) {
  auto a = std::make_shared<ExportArguments>();
  a->options.threads = DefaultThreads();
  CLI::App* command = app.add_subcommand("export", "Megatron -> Hugging Face safetensors");
  command
      ->add_option(std::string("MEGATRON,") + kMegatronSpellings, a->megatron,
                   "a Megatron checkpoint: the folder with the tracker file, or an iter_N")
      ->required();
  command
      ->add_option("HF,--output-dir", a->target,
                   "the folder to make; it appears whole or not at all")
      ->required();
  command
      ->add_option("--like", a->like,
                   "the Hugging Face model that it came from: config, tokenizer, dtypes and tied "
                   "tensors are taken from it; default: the one that run_config.yaml names")
      ->type_name("HF")
      ->group("Model");
  command
      ->add_option("--config", a->config, "the config.json of the export; default: that of --like")
      ->type_name("FILE")
      ->group("Model");
  AddFamilyOption(*command, a->families);
  command->add_option("--dtype", a->dtype, "of the weights; default: as --like, else as stored")
      ->check(CLI::IsMember({"bf16", "fp16", "fp32"}))
      ->group("Output");
  command
      ->add_flag("--without-mtp", a->options.without_mtp,
                 "leave multi-token-prediction layers out; default: off")
      ->group("Model");
  command->add_option("--max-shard-size", a->max_shard_size, "of one weight file: bytes, K, M or G")
      ->type_name("SIZE")
      ->capture_default_str()
      ->group("Output");
  command->add_flag("--overwrite", a->overwrite, "replace HF if it is there; default: off")
      ->group("Output");
  AddConversionOutput(*command, a->output);
  command->add_option("--threads", a->options.threads, "threads; default: all processors")
      ->check(CLI::Range(1, 1024))
      ->group("Run");
  AddExamples(*command, {"weighbridge export ./checkpoints/llama32_1b ./hf --like ./Llama-3.2-1B",
                         "weighbridge export ./mcore/iter_0000100 ./hf --config config.json"});
  command->callback([&context, a] { context.exit_status = Run(*a); });
}

}  // namespace weighbridge::cli
