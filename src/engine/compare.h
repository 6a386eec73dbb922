// `compare`: what both models compute, layer by layer (L2). The Hugging Face side runs as
// transformers runs it, the Megatron side as Megatron-Core does, in lockstep and in the memory of a
// layer of each; every module is judged by the function rule (DESIGN §1).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "checks/result.h"
#include "family/effects/runtime.h"
#include "family/model.h"
#include "formats/checkpoint.h"
#include "formats/megatron_checkpoint.h"
#include "mapping/sharding.h"

namespace weighbridge {

// A candidate's error may be so many times the reference's own: by RMS, and the largest one.
inline constexpr double kMostRatio = 2, kMostMaxRatio = 8;

// Of the modules whose names match (GlobMatch of base/strings.h) another ratio passes, and
// kMostMaxRatio / kMostRatio times that for the largest error.
struct RatioThreshold {
  std::string pattern;
  double ratio = 0;
};

struct CompareOptions {
  // Rows of one length; empty: one row of `seq_len` random ids made from `seed`.
  std::vector<std::vector<int64_t>> token_ids;
  int64_t seq_len = 0;  // 0: past the windows, at most 512
  uint64_t seed = 1;
  int threads = 0;  // 0: as torch decides
  RuntimeChoice runtime;
  bool without_mtp = false;
  bool free_run = true;  // both models also walk on from their own states, to the next tokens
  // In which both compute once more, for the verdict on rounding: "bf16", "fp16", "none", or
  // "auto": the dtype of the checkpoint where it is one of these.
  std::string precision = "auto";
  std::string device = "cpu";              // or "cuda"
  std::vector<RatioThreshold> thresholds;  // the last one that matches a module counts
  int top_k = 5;                           // tokens that are shown of the last position
  // Files of captured activations (engine/recording.h) instead of a side's own computation.
  std::string reference, candidate;
  // What the report calls these files; "": by their paths.
  std::string reference_name, candidate_name;
  std::string record;  // a file to write both sides' activations to; "": none
  bool overwrite = false;
  // Ranks that the Megatron side runs on, of which this process leads (engine/team_run.h); a grid
  // of one: it runs alone.
  ParallelGrid grid;
  bool sequence_parallel = false;
  std::string backend;  // "gloo" or "nccl"
  std::function<void(uint64_t bytes)> progress;
};

// One row per module of each layer (of a recording: per layer); causes, notes and details filled;
// not concluded. `megatron` nullptr: the weights of `hf` go through the mapping in memory, with the
// config that `import` would write. `model` was expanded with the inventory of `hf` and, where
// there is one, the vocabulary of `megatron`. Errors: those of FindComponent; kUnsupported for what
// no block computes; kUsage for token ids outside of the vocabulary.
Result<Report> CompareModels(const Model& model, const Checkpoint& hf,
                             const MegatronCheckpoint* megatron, const CompareOptions& options);

// One row of random ids, as long as the options say.
Result<std::vector<std::vector<int64_t>>> RandomTokenIds(const Model& model,
                                                         const CompareOptions& options);

// Whether the engine and `model` take these rows. Errors: kUsage; kUnsupported
// "engine-unsupported" for a length beyond which the model computes otherwise.
Status CheckTokenIds(const Model& model, const std::vector<std::vector<int64_t>>& ids);

}  // namespace weighbridge
