// Which model a Megatron checkpoint is, from the checkpoint alone: its family and the config.json
// that Hugging Face would have.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "family/library.h"
#include "formats/megatron_checkpoint.h"
#include "formats/megatron_config/megatron_config.h"

namespace weighbridge {

struct SourceConfig {
  const FamilySpec* family = nullptr;
  nlohmann::json config;
  std::vector<std::string> notes;  // what differs all the same, what was taken for granted
};

// A family fits when the config that it derives means, taken forward again, every field that the
// Megatron config has, and when every tensor of the checkpoint has its place in the model. Of
// several that fit, those count whose config carries over every field that one of them does (a
// window, layers without RoPE); of these the one whose name the recorded source has is taken, else
// the plainest of families that read the same HF tensors in the same way. `chosen` (--family) is
// taken whether its fields agree or not, and what differs is noted; nullptr: any.
//
// Errors: kUsage where no family fits, or several do; kInvalid for a config that says too little.
Result<SourceConfig> DeriveSourceConfig(const FamilyLibrary& library, const FamilySpec* chosen,
                                        const MegatronConfig& megatron,
                                        const MegatronCheckpoint& checkpoint);

}  // namespace weighbridge
