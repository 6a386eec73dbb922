// What `import` and `convert` share: writing one iteration of a Megatron checkpoint, whole or not
// at all, and then the tracker that names it.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <string>

#include "base/result.h"
#include "checks/import.h"
#include "cli/conversion.h"

namespace weighbridge::cli {

struct MegatronTarget {
  std::filesystem::path root;      // the folder with the tracker; made when it is not there
  std::string iteration = "0";     // as the tracker says it: digits or "release"
  std::string run_config;          // "": none is written
  std::string common_pt;           // "": none is written
  std::string train_state;         // of train_state.pt
  std::string latest_train_state;  // of latest_train_state.pt beside the iterations
};

// How the checkpoint is laid out.
struct MegatronLayout {
  ParallelGrid grid;
  std::string dialect;  // "te", "local"
  std::string format = "torch_dist";
  std::string dtype;  // "bf16", "fp16", "fp32"; "": as the source
  int64_t pad_vocab = 0;
  bool without_mtp = false;

  MegatronFormat Format() const {
    return format == "torch" ? MegatronFormat::kTorch : MegatronFormat::kTorchDist;
  }
  Dialect Spec() const { return dialect == "local" ? Dialect::kLocal : Dialect::kTe; }
};

// --format, the grid's options, --dialect (its default is layout.dialect, "" being that of the
// source),
// --dtype, --pad-vocab, --without-mtp.
void AddMegatronLayoutOptions(CLI::App& command, MegatronLayout& layout);

// The dtype of the first parameter, the embedding: most weights have it.
DType MainDType(const Model& model, const ParameterSource& source, const ImportOptions& options);

// What is to be written, and from what.
struct MegatronWork {
  const Model& model;
  const ParameterSource& source;
  const SourceFiles& files;  // that `source` reads
  const ImportPlan& plan;
  std::string command;
};

// Called by all ranks; each writes its share, rank 0 publishes. Fills in of `done` what was
// written. Errors: those of RankedOutput, TorchDistWriter and Import.
Status WriteMegatron(const MegatronTarget& target, const MegatronWork& work, ImportOptions options,
                     const WritingOptions& writing, const ConversionOutput& output,
                     Coordinator& ranks, Conversion& done);

}  // namespace weighbridge::cli
