// A model on the command line: its path, config, family and tensors; the families that a user adds.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/ranks.h"
#include "base/result.h"
#include "checks/result.h"
#include "cli/command.h"
#include "cli/output_guard.h"
#include "family/library.h"
#include "family/model.h"
#include "formats/checkpoint.h"
#include "formats/megatron_checkpoint.h"
#include "mapping/sharding.h"

namespace weighbridge::cli {

// The built-in families, then those of WEIGHBRIDGE_FAMILIES (a folder), then `files` (--family).
// The last one wins where names are equal.
Result<FamilyLibrary> LoadFamilies(const std::vector<std::string>& files);

// True for what --family takes as a file: it ends in ".toml". Anything else is a family's name.
bool IsFamilyFile(const std::string& text);

// LoadFamilies with those of `families` (values of --family) that are files.
Result<FamilyLibrary> LoadFamilyOptions(const std::vector<std::string>& families);

// The family that the last of `families` means, by name or as the one that the file describes.
// kUsage for a file that describes none of its own.
Result<const FamilySpec*> ChosenFamily(const FamilyLibrary& library, const std::string& family);

// --family, to be repeated: a NAME or a FILE, or with `names` false files only.
void AddFamilyOption(CLI::App& command, std::vector<std::string>& families, bool names = true);

// The Hugging Face side as a required positional: "MODEL" or "HF".
void AddHfPositional(CLI::App& command, const char* name, std::string& model);

// --config, of a model whose config.json lies beside its weights.
void AddConfigOption(CLI::App& command, std::string& config);

// --threads and --memory of the commands that stream tensors.
void AddThreadsOption(CLI::App& command, int& threads);
void AddMemoryOption(CLI::App& command, std::string& memory);

// The command line that a summary suggests: `command`, with the --family options that were given.
std::string NextCommand(std::vector<std::string> command, const std::vector<std::string>& families);

// --tp --pp --vpp --ep --etp --first-stage-layers --last-stage-layers --pp-layout and Megatron's
// own spellings of them.
void AddGridOptions(CLI::App& command, ParallelGrid& grid);

// --ranks and --dialect: rows of what each rank holds in memory.
struct RanksArguments {
  bool ranks = false;
  std::string dialect = "te";

  Dialect Spec() const { return dialect == "local" ? Dialect::kLocal : Dialect::kTe; }
};
void AddRanksOptions(CLI::App& command, RanksArguments& arguments);

// kUsage when hashes are asked for at a level that reads no tensor data. Rows of ranks are what is
// asked for: the terminal shows them all.
Status PrepareRanks(const RanksArguments& arguments, const std::string& level,
                    OutputOptions& output);

struct ModelInput {
  FamilyLibrary families;
  const FamilySpec* family = nullptr;
  // Not empty: the family was chosen by --family against what the config says; to be shown.
  std::string family_note;
  std::vector<std::string> files;  // config.json and the family files that were read
  nlohmann::json config;
  std::unique_ptr<Checkpoint> checkpoint;
};

// Opens `model` (path or org/name), reads its config.json (or `config_file` when not empty), finds
// its family: a name given by --family decides; of files given by it the one that the config means,
// else the last that describes a family. Returned by pointer: `family` points into `families`.
Result<std::unique_ptr<ModelInput>> OpenModelInput(const std::string& model,
                                                   const std::vector<std::string>& family_files,
                                                   const std::string& config_file);

// Runs a check of models: refuses outputs that would overwrite `inputs`, then emits its report or
// its error. Returns the exit status.
int RunCheck(Context& context, const std::string& command, const std::string& level,
             const CommandInputs& inputs, const std::function<Result<Report>()>& check);

// The same on one rank of a job: rank 0 emits the report; an error ends the job. 0 on the others,
// which end as rank 0 does.
int RunCheck(Context& context, const std::string& command, const std::string& level,
             const CommandInputs& inputs, Coordinator& ranks,
             const std::function<Result<Report>()>& check);

// Names the config and the family files among the report's inputs, and how the family was chosen.
void DescribeInput(const ModelInput& input, Report& report);

// A config that contradicts itself is a fault of the checkpoint under judgement; one that lacks a
// key cannot be judged.
Error JudgeConfigError(Error error);

// Opens a Megatron checkpoint: a tracker's folder or an iteration, torch_dist or legacy torch.
Result<std::unique_ptr<MegatronCheckpoint>> OpenMegatron(const std::string& path);

// A checkpoint of either world as a flat state dict: what OpenCheckpoint opens, or a Megatron
// checkpoint (checks/megatron_state_dict.h).
Result<std::unique_ptr<Checkpoint>> OpenStateDict(const std::string& model);

// The parts of a config.json ("text_config", "quantization_config") are tables, or null: kInvalid
// "config-kind" with the key else. What reads a config has to ask, for a part that is none reads as
// one that is not there.
Status CheckConfigParts(const nlohmann::json& config);

// Reads a JSON config whose parts are tables. kCorrupt "header-corrupt" when it is not valid JSON.
Result<nlohmann::json> ReadConfig(const std::filesystem::path& path);

}  // namespace weighbridge::cli
