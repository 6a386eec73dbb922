// A model on the command line: its path, config, family and tensors; the families that a user adds.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "family/library.h"
#include "family/model.h"
#include "formats/checkpoint.h"
#include "formats/torch_dist/reader.h"
#include "mapping/sharding.h"

namespace weighbridge::cli {

// The built-in families, then those of WEIGHBRIDGE_FAMILIES (a folder), then `files` (--family).
// The last one wins where names are equal.
Result<FamilyLibrary> LoadFamilies(const std::vector<std::string>& files);

// --family FILE, to be repeated.
void AddFamilyOption(CLI::App& command, std::vector<std::string>& files);

// --tp --pp --vpp --ep --etp --first-stage-layers --last-stage-layers --pp-layout and Megatron's
// own spellings of them.
void AddGridOptions(CLI::App& command, ParallelGrid& grid);

struct ModelInput {
  FamilyLibrary families;
  const FamilySpec* family = nullptr;
  nlohmann::json config;
  std::unique_ptr<Checkpoint> checkpoint;
};

// Opens `model` (path or org/name), reads its config.json (or `config_file` when not empty), finds
// its family. Returned by pointer: `family` points into `families`.
Result<std::unique_ptr<ModelInput>> OpenModelInput(const std::string& model,
                                                   const std::vector<std::string>& family_files,
                                                   const std::string& config_file);

// A config that contradicts itself is a fault of the checkpoint under judgement; one that lacks a
// key cannot be judged.
Error JudgeConfigError(Error error);

// Opens a Megatron checkpoint: a tracker's folder or an iteration. kUnsupported for a format that
// is not torch_dist.
Result<std::unique_ptr<TorchDistCheckpoint>> OpenMegatron(const std::string& path);

// Reads a JSON config. kCorrupt "header-corrupt" when it is not valid JSON.
Result<nlohmann::json> ReadConfig(const std::filesystem::path& path);

}  // namespace weighbridge::cli
