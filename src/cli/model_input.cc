#include "cli/model_input.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <map>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/strings.h"
#include "checks/megatron_state_dict.h"
#include "cli/rank_options.h"
#include "formats/quantized/checkpoint.h"
#include "formats/torch_dist/reader.h"
#include "formats/torch_legacy/reader.h"
#include "report/rows.h"

namespace weighbridge::cli {
namespace fs = std::filesystem;
namespace {

Result<std::map<std::string, std::string>> ReadFamilyFolder(const fs::path& folder) {
  std::map<std::string, std::string> texts;
  std::error_code ec;
  fs::directory_iterator it(folder, ec);
  if (ec) {
    return Fail(ErrorKind::kUsage, "family-file",
                fmt::format("WEIGHBRIDGE_FAMILIES: {}", ec.message()), folder.string());
  }
  for (const fs::directory_entry& entry : it) {
    if (entry.path().extension() != ".toml") continue;
    WB_TRY(texts[entry.path().stem().string()], ReadTextFile(entry.path(), 1u << 20));
  }
  return texts;
}

}  // namespace

Result<FamilyLibrary> LoadFamilies(const std::vector<std::string>& files) {
  FamilyLibrary library = FamilyLibrary::BuiltIn();
  if (const char* folder = std::getenv("WEIGHBRIDGE_FAMILIES");
      folder != nullptr && *folder != '\0') {
    WB_TRY(const auto texts, ReadFamilyFolder(folder));
    WB_RETURN_IF_ERROR(library.Add(texts, fmt::format("{}/", folder)));
  }
  for (const std::string& file : files) {
    WB_TRY(std::string text, ReadTextFile(file, 1u << 20));
    const fs::path path(file);
    const std::string folder = path.has_parent_path() ? path.parent_path().string() + "/" : "";
    WB_RETURN_IF_ERROR(library.Add({{path.stem().string(), std::move(text)}}, folder));
  }
  return library;
}

bool IsFamilyFile(const std::string& text) { return text.ends_with(".toml"); }

Result<FamilyLibrary> LoadFamilyOptions(const std::vector<std::string>& families) {
  std::vector<std::string> files;
  std::copy_if(families.begin(), families.end(), std::back_inserter(files), IsFamilyFile);
  return LoadFamilies(files);
}

Result<const FamilySpec*> ChosenFamily(const FamilyLibrary& library, const std::string& family) {
  if (!IsFamilyFile(family)) return library.Find(family);
  WB_TRY(const auto* all, library.All());
  for (const auto& [name, spec] : *all) {
    if (fs::path(spec.origin) == fs::path(family)) return &spec;
  }
  return Fail(ErrorKind::kUsage, "usage", "the file is abstract: it describes no family of its own",
              family);
}

namespace {

// The family of the model; what --family says goes before what the config says.
Status ChooseFamily(const std::vector<std::string>& families, ModelInput& input) {
  const auto by_config = input.families.ForConfig(input.config);
  const FamilySpec* chosen = nullptr;
  for (const std::string& text : families) {
    if (!IsFamilyFile(text)) {
      WB_TRY(chosen, input.families.Find(text));
      continue;
    }
    // A file that replaces a base describes no family: the config decides.
    const auto described = ChosenFamily(input.families, text);
    if (!described) continue;
    chosen = *described;
    if (by_config && *by_config == chosen) break;
  }
  if (chosen == nullptr || (by_config && (*by_config)->name == chosen->name)) {
    WB_TRY(input.family, by_config);
    return chosen == nullptr ? input.families.CheckModelType(*input.family, input.config)
                             : Status();
  }
  input.family = chosen;
  input.family_note =
      fmt::format("family {} is used because --family asks for it; by its config the model is {}",
                  chosen->name, by_config ? "of family " + (*by_config)->name : "of none");
  return {};
}

}  // namespace

void AddFamilyOption(CLI::App& command, std::vector<std::string>& families, bool names) {
  const std::string file =
      "a family file (docs/families.md), which replaces or adds to the built-in ones; may be "
      "repeated";
  command
      .add_option("--family", families,
                  names ? "a family's name, or " + file + "; default: what the config says" : file)
      ->type_name(names ? "NAME" : "FILE")
      ->allow_extra_args(false)
      ->group("Model");
}

void AddHfPositional(CLI::App& command, const char* name, std::string& model) {
  command
      .add_option(
          std::string(name) + "," + kHfSpellings, model,
          "a Hugging Face folder, a .safetensors file, or org/name[@REV] in the local cache")
      ->required();
}

void AddConfigOption(CLI::App& command, std::string& config) {
  command
      .add_option("--config", config, "another config.json; default: the one beside the weights")
      ->type_name("FILE")
      ->group("Model");
}

void AddThreadsOption(CLI::App& command, int& threads) {
  command.add_option("--threads", threads, "threads; default: all processors")
      ->check(CLI::Range(1, 1024))
      ->group("Run");
}

void AddMemoryOption(CLI::App& command, std::string& memory) {
  command.add_option("--memory", memory, "memory for the blocks in flight: bytes, K, M or G")
      ->type_name("SIZE")
      ->capture_default_str()
      ->group("Run");
}

std::string NextCommand(std::vector<std::string> command,
                        const std::vector<std::string>& families) {
  for (const std::string& family : families) {
    command.emplace_back("--family");
    command.push_back(family);
  }
  return CommandLine(command);
}

void AddGridOptions(CLI::App& command, ParallelGrid& grid) {
  const auto size = [&](const std::string& names, int& value, const std::string& what) {
    command.add_option(names, value, what)
        ->check(CLI::Range(1, 65536))
        ->capture_default_str()
        ->group("Parallel grid");
  };
  size("--tp,--tensor-model-parallel-size", grid.tp, "tensor-parallel ranks");
  size("--pp,--pipeline-model-parallel-size", grid.pp, "pipeline-parallel ranks");
  size("--vpp,--virtual-pipeline-model-parallel-size", grid.vpp,
       "virtual pipeline stages per rank");
  size("--ep,--expert-model-parallel-size", grid.ep, "expert-parallel ranks");
  size("--etp,--expert-tensor-parallel-size", grid.etp,
       "tensor-parallel ranks of an expert (Megatron-LM's own default is that of --tp)");
  command
      .add_option("--first-stage-layers,--decoder-first-pipeline-num-layers",
                  grid.first_stage_layers, "layers of the first pipeline stage; default: even")
      ->check(CLI::NonNegativeNumber)
      ->group("Parallel grid");
  command
      .add_option("--last-stage-layers,--decoder-last-pipeline-num-layers", grid.last_stage_layers,
                  "layers of the last pipeline stage; default: even")
      ->check(CLI::NonNegativeNumber)
      ->group("Parallel grid");
  command
      .add_option("--pp-layout,--pipeline-model-parallel-layout", grid.pp_layout,
                  "Megatron's layout string, for example 'Et*3|(tt|)*2,m|L'; default: none")
      ->type_name("STRING")
      ->group("Parallel grid");
  command
      .add_flag("--account-for-embedding-in-pipeline-split", grid.account_for_embedding,
                "the embedding counts as one layer of the even split")
      ->group("Parallel grid");
  command
      .add_flag("--account-for-loss-in-pipeline-split", grid.account_for_loss,
                "the loss counts as one layer of the even split")
      ->group("Parallel grid");
}

void AddRanksOptions(CLI::App& command, RanksArguments& arguments) {
  command
      .add_flag("--ranks", arguments.ranks,
                "one row per tensor and rank of the grid, with the XXH3-128 of what the rank holds "
                "in memory; default: off")
      ->group("Compare");
  command
      .add_option("--dialect", arguments.dialect, "whose module names --ranks gives: te or local")
      ->check(CLI::IsMember({"te", "local"}))
      ->capture_default_str()
      ->group("Compare");
}

Status PrepareRanks(const RanksArguments& arguments, const std::string& level,
                    OutputOptions& output) {
  if (!arguments.ranks) {
    if (arguments.dialect == "te") return {};
    return Fail(ErrorKind::kUsage, "usage", "--dialect is for the names of --ranks", "--dialect",
                "add --ranks");
  }
  if (level == "L0") {
    return Fail(ErrorKind::kUsage, "usage",
                "--ranks hashes tensor data, which --level L0 does not "
                "read",
                "--ranks", "leave --level L0 out");
  }
  output.verbose = std::max(output.verbose, 1);
  return {};
}

int RunCheck(Context& context, const std::string& command, const std::string& level,
             const CommandInputs& inputs, const std::function<Result<Report>()>& check) {
  return RunCheck(context, command, level, inputs, *Alone(), check);
}

int RunCheck(Context& context, const std::string& command, const std::string& level,
             const CommandInputs& inputs, Coordinator& ranks,
             const std::function<Result<Report>()>& check) {
  if (const Status spared = CheckOutputs(context.output, inputs); !spared) {
    return EndJob(ranks, spared.error(), PrintError);
  }
  PeakAnonymousBytes();
  Result<Report> report = check();
  if (!report) {
    return EndJob(ranks, JudgeConfigError(report.error()),
                  [&](const Error& error) { return EmitError(context, command, level, error); });
  }
  if (!ranks.first()) return 0;
  Conclude(*report);
  report->peak_anonymous_bytes = PeakAnonymousBytes();
  return Emit(context, *report);
}

void DescribeInput(const ModelInput& input, Report& report) {
  if (!input.family_note.empty()) {
    report.notes.insert(report.notes.begin(), {"family-chosen", input.family_note});
  }
  for (const std::string& file : input.files) {
    std::error_code error;
    const auto size = std::filesystem::file_size(file, error);
    if (!error) report.inputs.push_back({file, size, "", std::nullopt});
  }
}

Error JudgeConfigError(Error error) {
  if (error.kind != ErrorKind::kInvalid) return error;
  if (error.id == "layer-kinds") error.id = "layer-pattern";
  if (error.id == "config-value") error.id = "size-mismatch";
  if (error.id == "layer-pattern" || error.id == "size-mismatch" || error.id == "head-geometry") {
    error.kind = ErrorKind::kCorrupt;
    if (error.at.empty()) error.at = "config.json";
  }
  return error;
}

Result<std::unique_ptr<MegatronCheckpoint>> OpenMegatron(const std::string& path) {
  WB_TRY(const MegatronFolder folder, FindMegatronFolder(path));
  if (!folder.is_torch_dist) return TorchLegacyCheckpoint::Open(folder.iteration);
  return TorchDistCheckpoint::Open(folder.iteration);
}

Result<std::unique_ptr<Checkpoint>> OpenStateDict(const std::string& model) {
  WB_TRY(const fs::path path, ResolveModelPath(model));
  if (!LooksLikeMegatron(path)) return OpenCheckpoint(path);
  WB_TRY(auto megatron, OpenMegatron(path));
  return AsStateDict(std::move(megatron));
}

namespace {

Status CheckParts(const nlohmann::json& table, const std::string& prefix) {
  for (const auto& [key, value] : table.items()) {
    if (!key.ends_with("_config") || key.starts_with("_") || value.is_null()) continue;
    if (!value.is_object()) return WrongKind(prefix + ToPrintable(key), value, "a table");
    WB_RETURN_IF_ERROR(CheckParts(value, prefix + ToPrintable(key) + "."));
  }
  return {};
}

}  // namespace

Status CheckConfigParts(const nlohmann::json& config) {
  return config.is_object() ? CheckParts(config, "") : Status();
}

Result<nlohmann::json> ReadConfig(const fs::path& path) {
  WB_TRY(nlohmann::json config, ReadJsonFile(path));
  WB_RETURN_IF_ERROR(CheckConfigParts(config));
  return config;
}

Result<std::unique_ptr<ModelInput>> OpenModelInput(const std::string& model,
                                                   const std::vector<std::string>& family_files,
                                                   const std::string& config_file) {
  auto input = std::make_unique<ModelInput>();
  WB_TRY(input->families, LoadFamilyOptions(family_files));
  WB_TRY(const fs::path path, ResolveModelPath(model));
  WB_TRY(input->checkpoint, OpenCheckpoint(path));
  std::error_code ec;
  const fs::path folder = fs::is_directory(path, ec) ? path : path.parent_path();
  const fs::path config = config_file.empty() ? folder / "config.json" : fs::path(config_file);
  // A path that cannot be looked at gets its message from being opened.
  if (fs::status(config, ec).type() == fs::file_type::not_found) {
    return Fail(ErrorKind::kNotFound, "config-missing",
                "there is no config.json beside the weights", config.string(),
                "give one with --config FILE");
  }
  WB_TRY(input->config, ReadConfig(config));
  WB_TRY(const QuantizationConfig quantization, ReadQuantizationConfig(input->config));
  WB_TRY(input->checkpoint, ShowValues(std::move(input->checkpoint), quantization));
  input->files.push_back(config.string());
  std::copy_if(family_files.begin(), family_files.end(), std::back_inserter(input->files),
               IsFamilyFile);
  WB_RETURN_IF_ERROR(ChooseFamily(family_files, *input));
  return input;
}

}  // namespace weighbridge::cli
