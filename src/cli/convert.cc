// `weighbridge convert A B`: a Megatron checkpoint in another grid, format, spec or dtype.
#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "base/file.h"
#include "checks/bridge_config.h"
#include "checks/files_beside.h"
#include "checks/inventory.h"
#include "checks/repadded.h"
#include "cli/conversion.h"
#include "cli/megatron_input.h"
#include "cli/megatron_output.h"
#include "formats/megatron_config/run_config.h"
#include "formats/megatron_config/yaml.h"
#include "formats/torch_dist/run_files.h"

namespace weighbridge::cli {
namespace {

namespace fs = std::filesystem;

struct ConvertArguments : MegatronArguments {
  MegatronLayout layout;
  ImportOptions options;
  MegatronTarget target;
  WritingOptions writing;
  ConversionOutput output;
};

// Whose names the checkpoint has; nullopt where both specs write the same.
std::optional<Dialect> StoredDialect(const Model& model, const MegatronBinding& binding) {
  for (const BoundParameter& b : binding.bound) {
    for (const bool of_modules : {false, true}) {
      const auto name = [&](Dialect dialect) {
        return of_modules ? model.MegatronName(*b.parameter, dialect)
                          : WrittenName(model, *b.parameter, dialect).key;
      };
      const std::string te = name(Dialect::kTe), local = name(Dialect::kLocal);
      if (te == local) continue;
      if (b.tensor->key == te) return Dialect::kTe;
      if (b.tensor->key == local) return Dialect::kLocal;
    }
  }
  return std::nullopt;
}

Dialect TargetDialect(const ConvertArguments& a, const Model& model, const MegatronBinding& binding,
                      const std::optional<RunConfig>& run_config) {
  if (!a.layout.dialect.empty()) return a.layout.Spec();
  const bool local = run_config && run_config->Text("transformer_impl") == "local";
  return StoredDialect(model, binding).value_or(local ? Dialect::kLocal : Dialect::kTe);
}

// The model as it will be written: its vocabulary padded as the grid needs it.
Result<Model> ExpandTarget(const ConvertArguments& a, const MegatronInput& input,
                           const Model& stored) {
  ExpandOptions expand;
  if (const Checkpoint* original = input.Original()) ChooseStorageBy(*original, expand);
  expand.tp = a.layout.grid.tp;
  expand.pad_vocab = a.layout.pad_vocab > 0 ? a.layout.pad_vocab : stored.padded_vocab();
  expand.without_mtp = a.layout.without_mtp;
  return Model::Expand(*input.family, input.config, expand);
}

Result<std::string> FileText(const fs::path& path, const std::string& fallback) {
  std::error_code error;
  if (!fs::exists(path, error)) return fallback;
  return ReadTextFile(path);
}

// "iter_0000100" -> 100; 0 for `release` and for a folder of another name.
int64_t IterationOf(const fs::path& folder) {
  const std::string name = folder.filename().string();
  if (!name.starts_with("iter_")) return 0;
  int64_t iteration = 0;
  for (char c : name.substr(5)) {
    if (c < '0' || c > '9' || iteration > 1'000'000'000'000) return 0;
    iteration = iteration * 10 + (c - '0');
  }
  return iteration;
}

std::string StoredCommonState(const MegatronCheckpoint& megatron, const fs::path& iteration) {
  const DistObject* stored = megatron.metadata().FindObject(kCommonStateKey);
  if (stored == nullptr) return CommonStateEntry({.iteration = IterationOf(iteration)}).content;
  const auto bytes = megatron.Stored(*stored);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// The source's own files of the run, with what the conversion changes; without them, those of an
// import.
Status DescribeRun(const ConvertArguments& a, const MegatronInput& input, const Model& model,
                   const ParameterSource& source, MegatronTarget& target) {
  const fs::path& iteration = input.checkpoint->path();
  const bool release = iteration.filename() == "release";
  TrainState state;
  state.step = IterationOf(iteration);
  target.iteration = release ? "release" : fmt::format("{}", state.step);
  WB_TRY(target.common_pt, FileText(iteration / kCommonPtName, ""));
  const std::string written = TrainStatePt(state);
  WB_TRY(target.train_state, FileText(iteration / kTrainStateName, written));
  WB_TRY(target.latest_train_state,
         FileText(iteration.parent_path() / kLatestTrainStateName, target.train_state));
  const BridgeConfigOptions options{.grid = a.layout.grid,
                                    .dialect = a.options.dialect,
                                    .dtype = MainDType(model, source, a.options),
                                    .hf_model = input.like_name,
                                    .ckpt_format = a.layout.format};
  WB_TRY(const std::string text, FileText(iteration / kRunConfigName, ""));
  if (!text.empty()) {
    WB_TRY(nlohmann::json config, ParseYaml(text, (iteration / kRunConfigName).string()));
    WB_RETURN_IF_ERROR(UpdateRunConfig(model, options, config));
    target.run_config = DumpYaml(config);
  } else if (!model.spec().bridge.provider.empty() && !input.like_name.empty()) {
    WB_TRY(const nlohmann::json config, BridgeRunConfig(model, options));
    WB_RETURN_IF_ERROR(CheckRunConfigValues(model, config));
    target.run_config = DumpYaml(config);
  }
  return {};
}

void NoteChanges(const Model& stored, const Model& model, const MegatronBinding& binding,
                 Conversion& done) {
  NoteLeftOut(binding, done);
  if (stored.padded_vocab() != model.padded_vocab()) {
    done.notes.push_back(
        fmt::format("the vocabulary of {} rows, padded to {} before, is padded to "
                    "{}",
                    model.vocab(), stored.padded_vocab(), model.padded_vocab()));
  }
}

Result<Conversion> Make(ConvertArguments& a, Coordinator& ranks) {
  const auto start = std::chrono::steady_clock::now();
  WB_RETURN_IF_ERROR(CheckConversionOutput(a.output, a.Inputs()));
  WB_TRY(const auto input, OpenMegatronInput(a));
  const fs::path& iteration = input->checkpoint->path();
  WB_TRY(const SourceFiles sources, LookAtSources(*input, a.families));
  WB_RETURN_IF_ERROR(RefuseSourceAsTarget(iteration, a.target.root));
  WB_TRY(const Model stored, ExpandModel(*input, a.layout.without_mtp));
  WB_TRY(const MegatronParameters weights,
         MegatronParameters::Create(stored, *input->checkpoint, a.layout.without_mtp));
  WB_TRY(const Model model, ExpandTarget(a, *input, stored));
  WB_TRY(const RepaddedParameters source, RepaddedParameters::Create(stored, weights, model));
  WB_TRY(const Placement placement, Placement::Create(model, a.layout.grid));
  WB_TRY(const auto run_config, ReadRunConfig(iteration / kRunConfigName));
  a.options.dialect = TargetDialect(a, stored, weights.binding(), run_config);
  if (!a.layout.dtype.empty()) a.options.dtype = ParseShortName(a.layout.dtype);
  a.options.format = a.layout.Format();
  a.options.iteration = IterationOf(iteration);
  a.options.common_state = StoredCommonState(*input->checkpoint, iteration);
  WB_RETURN_IF_ERROR(DescribeRun(a, *input, model, source, a.target));
  WB_TRY(const ImportPlan plan, PlanImport(model, placement, source, a.options));
  Conversion done;
  done.notes = input->notes;
  NoteChanges(stored, model, weights.binding(), done);
  WB_RETURN_IF_ERROR(WriteMegatron(a.target, {model, source, sources, plan, "convert"}, a.options,
                                   a.writing, a.output, ranks, done));
  done.command = "convert";
  done.source = a.megatron;
  done.target = a.target.root;
  done.family = input->family->name;
  done.format =
      fmt::format("{}, {} spec, {}", a.layout.format,
                  a.options.dialect == Dialect::kLocal ? "local" : "te", ToString(a.layout.grid));
  const bool judged = !input->like_name.empty();
  std::vector<std::string> next = {"weighbridge", judged ? "verify" : "export"};
  if (judged) next.push_back(input->like_name);
  next.push_back(done.target);
  if (!judged) next.emplace_back("HF");
  if (!a.config.empty()) next.insert(next.end(), {"--config", a.config});
  if (a.layout.without_mtp) next.emplace_back("--without-mtp");
  done.next = NextCommand(std::move(next), a.families);
  done.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (a.target.run_config.empty()) {
    done.notes.push_back(fmt::format("no {}: the source has none", kRunConfigName));
  }
  return done;
}

int Run(ConvertArguments& a) {
  return RunConversion(a.writing, a.target.root / "convert", a.output,
                       [&](Coordinator& ranks) { return Make(a, ranks); });
}

}  // namespace

void AddConvert(CLI::App& app, Context& context) {
  auto a = std::make_shared<ConvertArguments>();
  CLI::App* command =
      app.add_subcommand("convert", "Megatron -> Megatron: another grid, format, spec or dtype");
  command
      ->add_option(std::string("MEGATRON,") + kMegatronSpellings, a->megatron,
                   "a Megatron checkpoint: the folder with the tracker file, or an iter_N")
      ->required();
  command
      ->add_option("TARGET,--output-dir", a->target.root,
                   "the folder to convert into; its iteration appears whole or not at all")
      ->required();
  AddMegatronLayoutOptions(*command, a->layout);
  AddMegatronModelOptions(*command, *a, "that the weights are of");
  AddConversionOutput(*command, a->output);
  AddWritingOptions(*command, "replace the iteration if it is there", a->writing);
  AddExamples(*command,
              {"weighbridge convert ./mcore ./mcore-tp4 --tp 4 --pp 2 --like ./Llama-3.2-1B",
               "weighbridge convert ./mcore/iter_0000100 ./mcore-local --dialect local"});
  command->callback([&context, a] { context.exit_status = Run(*a); });
}

}  // namespace weighbridge::cli
