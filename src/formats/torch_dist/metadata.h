// The pickle .metadata, which says which chunk stands where.
#pragma once

#include <string>

#include "formats/torch_dist/plan.h"

namespace weighbridge {

// torch.distributed.checkpoint.metadata.Metadata. The same plan gives the same bytes: save_id and
// checkpoint_id, a random number and a path where torch writes them, are None (FORMAT.md).
std::string TorchDistMetadata(const TorchDistPlan& plan);

// metadata.json, from which megatron-core knows the format.
inline constexpr std::string_view kTorchDistMetadataJson =
    R"({"sharded_backend": "torch_dist", "sharded_backend_version": 1})";

}  // namespace weighbridge
