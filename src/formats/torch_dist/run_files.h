// The small files and entries that Megatron Bridge and megatron-core put beside the tensors. All of
// these are bytes to be written; none touches a file.
#pragma once

#include <cstdint>
#include <string>

#include "formats/torch_dist/plan.h"

namespace weighbridge {

// What megatron-core calls the common state: what is no tensor and the same on all ranks.
struct CommonState {
  double checkpoint_version = 3.0;
  int64_t iteration = 0;
  // content_metadata: how the sharded state dict was built.
  bool singleton_local_shards = false;
  bool chained_optim_avoid_prefix = true;
};

inline constexpr const char* kCommonStateKey = "common_state/shard_0_1";
inline constexpr const char* kCommonPtName = "common.pt";

// Where megatron-core 0.19 has it: the byte entry kCommonStateKey.
TorchDistBytes CommonStateEntry(const CommonState& state, uint32_t writer = 0);
// Where earlier versions have it: the content of common.pt. megatron-core 0.19 reads this file when
// it is there, and not the entry then.
std::string CommonPt(const CommonState& state);

// The `_extra_state` of a module that keeps none: a list of one tensor uint8 [0] (a linear layer of
// Transformer Engine without FP8), or of None (`none`).
TorchDistBytes ExtraStateEntry(std::string key, bool none = false, uint32_t writer = 0);

// megatron.bridge.training.state.TrainState.
struct TrainState {
  int64_t step = 0;
  int64_t consumed_train_samples = 0, skipped_train_samples = 0, consumed_valid_samples = 0;
  float floating_point_operations_so_far = 0;
  bool do_train = false, do_valid = false, do_test = false;
};

// The content of iter_N/train_state.pt and of latest_train_state.pt beside the iter_N.
std::string TrainStatePt(const TrainState& state);

inline constexpr const char* kTrainStateName = "train_state.pt";
inline constexpr const char* kLatestTrainStateName = "latest_train_state.pt";
// Holds the iteration's digits without a line's end.
inline constexpr const char* kTrackerName = "latest_checkpointed_iteration.txt";

// "iter_0000000"
std::string IterationFolder(int64_t iteration);
// Of what a tracker says: "0" -> "iter_0000000", "release" as it is; "" when it is neither.
std::string TrackedFolder(const std::string& text);

}  // namespace weighbridge
