// Which names a checkpoint's folder may hold: what must never be overwritten by a report, and what
// may be thrown away when a checkpoint replaces a checkpoint.
#pragma once

#include <filesystem>
#include <string_view>

#include "base/result.h"

namespace weighbridge {

// True for the names of weights, indexes, configs, tokenizers and the papers that come with them,
// as Hugging Face folders and Megatron's checkpoints hold them. Only the name is looked at.
bool IsCheckpointFileName(std::string_view name);

// Whether `folder` may be replaced as a whole by a new Hugging Face checkpoint: it holds a
// config.json and safetensors, and nothing but files with the names of such a checkpoint. kUsage
// "output-not-a-checkpoint" names what is foreign.
Status CheckReplaceable(const std::filesystem::path& folder);

// The same for one iteration of a Megatron checkpoint (torch_dist).
Status CheckReplaceableIteration(const std::filesystem::path& folder);

}  // namespace weighbridge
