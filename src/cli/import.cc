// `weighbridge import HF MEGATRON`: a checkpoint that Megatron-Core loads; as torch_dist the Bridge
// does too.
#include "checks/import.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <utility>

#include "base/strings.h"
#include "checks/bridge_config.h"
#include "checks/files_beside.h"
#include "checks/inventory.h"
#include "cli/conversion.h"
#include "cli/megatron_output.h"
#include "cli/model_input.h"
#include "formats/megatron_config/run_config.h"
#include "formats/megatron_config/yaml.h"
#include "formats/torch_dist/run_files.h"

namespace weighbridge::cli {
namespace {

namespace fs = std::filesystem;

struct ImportArguments {
  std::string model, config;
  std::vector<std::string> families;
  MegatronLayout layout;
  ImportOptions options;
  MegatronTarget target;
  WritingOptions writing;
  ConversionOutput output;
};

Result<Model> ExpandModel(const ModelInput& input, const ImportArguments& a) {
  ExpandOptions expand;
  ChooseStorageBy(*input.checkpoint, expand);
  expand.tp = a.layout.grid.tp;
  expand.pad_vocab = a.layout.pad_vocab;
  expand.without_mtp = a.layout.without_mtp;
  return Model::Expand(*input.family, input.config, expand);
}

// "" when the family has no provider: the weights can be imported all the same.
Result<std::string> RunConfigText(const Model& model, const ParameterSource& source,
                                  const ImportArguments& a) {
  if (model.spec().bridge.provider.empty()) return "";
  WB_TRY(const nlohmann::json config,
         BridgeRunConfig(model, {.grid = a.layout.grid,
                                 .dialect = a.options.dialect,
                                 .dtype = MainDType(model, source, a.options),
                                 .hf_model = a.model,
                                 .ckpt_format = a.layout.format}));
  WB_RETURN_IF_ERROR(CheckRunConfigValues(model, config));
  return DumpYaml(config);
}

std::vector<std::string> ConfigAndFamilies(const ImportArguments& a) {
  std::vector<std::string> files = a.families;
  files.push_back(a.config);
  return files;
}

Result<SourceFiles> LookAtSources(const ModelInput& input, const ImportArguments& a) {
  std::vector<fs::path> files(input.files.begin(), input.files.end());
  for (const FileInfo& file : input.checkpoint->files()) files.push_back(file.path);
  return cli::LookAtSources(files, a.families);
}

Result<Conversion> Make(ImportArguments& a, Coordinator& ranks) {
  const auto start = std::chrono::steady_clock::now();
  WB_RETURN_IF_ERROR(CheckConversionOutput(a.output, {{a.model}, ConfigAndFamilies(a)}));
  WB_TRY(const auto input, OpenModelInput(a.model, a.families, a.config));
  WB_TRY(const SourceFiles sources, LookAtSources(*input, a));
  WB_RETURN_IF_ERROR(RefuseSourceAsTarget(input->checkpoint->path(), a.target.root));
  WB_TRY(const Model model, ExpandModel(*input, a));
  WB_TRY(const Placement placement, Placement::Create(model, a.layout.grid));
  a.options.dialect = a.layout.Spec();
  a.options.format = a.layout.Format();
  if (!a.layout.dtype.empty()) a.options.dtype = ParseShortName(a.layout.dtype);
  WB_TRY(const HfParameters source, HfParameters::Create(model, *input->checkpoint));
  WB_TRY(a.target.run_config, RunConfigText(model, source, a));
  a.target.train_state = a.target.latest_train_state = TrainStatePt({});
  WB_TRY(const ImportPlan plan, PlanImport(model, placement, source, a.options));
  Conversion done;
  WB_RETURN_IF_ERROR(WriteMegatron(a.target, {model, source, sources, plan, "import"}, a.options,
                                   a.writing, a.output, ranks, done));
  done.command = "import";
  done.source = a.model;
  done.target = a.target.root;
  done.family = input->family->name;
  done.format =
      fmt::format("{}, {} spec, {}", a.layout.format, a.layout.dialect, ToString(a.layout.grid));
  std::vector<std::string> next = {"weighbridge", "verify", a.model, done.target};
  if (!a.config.empty()) next.insert(next.end(), {"--config", a.config});
  if (a.layout.without_mtp) next.emplace_back("--without-mtp");
  done.next = NextCommand(std::move(next), a.families);
  done.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  NoteLeftOut(source.left_out(), done);
  if (a.target.run_config.empty()) {
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
  return RunConversion(a.writing, a.target.root / TrackedFolder(a.target.iteration), a.output,
                       [&](Coordinator& ranks) { return Make(a, ranks); });
}

}  // namespace

void AddImport(CLI::App& app, Context& context) {
  auto a = std::make_shared<ImportArguments>();
  CLI::App* command =
      app.add_subcommand("import", "Hugging Face -> Megatron: a torch_dist or torch checkpoint");
  AddHfPositional(*command, "HF", a->model);
  command
      ->add_option(std::string("MEGATRON,") + kMegatronSpellings, a->target.root,
                   "the folder to import into; its iter_0000000 appears whole or not at all")
      ->required();
  a->layout.dialect = "te";
  AddMegatronLayoutOptions(*command, a->layout);
  AddConfigOption(*command, a->config);
  AddFamilyOption(*command, a->families);
  AddConversionOutput(*command, a->output);
  AddWritingOptions(*command, "replace the iteration if it is there", a->writing);
  AddExamples(*command, {"weighbridge import ./Llama-3.2-1B ./checkpoints/llama32_1b",
                         "weighbridge import ./Llama-3.2-1B ./legacy --format torch --tp 2",
                         "weighbridge import Qwen/Qwen3-30B-A3B ./mcore --tp 2 --ep 4"});
  command->callback([&context, a] { context.exit_status = Run(*a); });
}

}  // namespace weighbridge::cli
