// What the files of ranks will hold, and where each byte of them stands: Megatron's legacy `torch`
// format as a plan for TorchDistWriter. FORMAT.md has the layout.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "formats/torch_dist/plan.h"

namespace weighbridge {

// One name in a rank's state dict, in its order.
struct RankEntry {
  std::string name;
  std::optional<size_t> tensor;  // index into the tensors; nullopt: an `_extra_state`
  bool none = false;             // which is None, not an empty tensor
};

struct RankState {
  std::string folder;  // "mp_rank_01_000"
  // Per virtual stage: one is `model`, several are `model0`, `model1`, ...
  std::vector<std::vector<RankEntry>> parts;
};

// What stands in each file beside the weights.
struct LegacyRun {
  // The fields of `args`, an argparse.Namespace: null, booleans, numbers, strings, arrays, objects.
  nlohmann::json args = nlohmann::json::object();
  DType params_dtype = DType::kF32;  // args.params_dtype
  int64_t iteration = 0;
};

// A file FOLDER/model_optim_rng.pt per rank. Each tensor is of one rank; its chunks follow each
// other along its first axis, or it has one. Its key is for messages; offsets, sizes and writers
// are not read but for the order. Errors: as PlanTorchDist.
Result<TorchDistPlan> PlanRankFiles(std::vector<TorchDistTensor> tensors,
                                    const std::vector<RankState>& ranks, const LegacyRun& run);

}  // namespace weighbridge
