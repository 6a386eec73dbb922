// A Megatron checkpoint on the command line, and which model it is: the config of Hugging Face
// comes from --like, --config, the source that run_config.yaml names, or else is derived from the
// config that Megatron saved.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/source_files.h"
#include "cli/model_input.h"
#include "cli/output_guard.h"
#include "family/model.h"
#include "formats/megatron_checkpoint.h"

namespace weighbridge::cli {

struct MegatronArguments {
  std::string megatron, like, config;
  std::vector<std::string> families;

  // What a command reads, for CheckOutputs.
  CommandInputs Inputs() const;
};

// --like, --config and --family. `what` ends the sentence "the Hugging Face model ...".
void AddMegatronModelOptions(CLI::App& command, MegatronArguments& arguments,
                             const std::string& what);

struct MegatronInput {
  std::unique_ptr<MegatronCheckpoint> checkpoint;
  // The Hugging Face model of --like, or the one that run_config.yaml names; nullptr with --config
  // alone.
  std::unique_ptr<ModelInput> like;
  std::string like_name;  // what was typed or recorded
  const FamilySpec* family = nullptr;
  nlohmann::json config;
  std::filesystem::path config_file;  // empty: `config` was derived from Megatron's
  std::vector<std::string> notes;
  // Weights that `like` stores quantized are meant as plain ones.
  bool plain_weights = false;
  FamilyLibrary families;  // of `family` without `like`

  // The checkpoint of `like`, or nullptr.
  const Checkpoint* Original() const { return like ? like->checkpoint.get() : nullptr; }
};

// A config that was given is compared with the checkpoint's own, field by field; what differs is
// noted. Errors: those of OpenMegatron, OpenModelInput and DeriveSourceConfig; kCorrupt
// "size-mismatch" or "head-geometry" when a given config shapes other weights; kUsage when nothing
// says which model it is.
Result<std::unique_ptr<MegatronInput>> OpenMegatronInput(const MegatronArguments& arguments);

// The model as the checkpoint holds it (its padded vocabulary). Makes one of rank files a global
// view.
Result<Model> ExpandModel(MegatronInput& input, bool without_mtp);

// The files that a conversion of `input` reads.
Result<SourceFiles> LookAtSources(const MegatronInput& input,
                                  const std::vector<std::string>& families);

}  // namespace weighbridge::cli
