// Megatron-FSDP's checkpoints (ckpt_format fsdp_dtensor): torch.distributed.checkpoint folders as
// Megatron-Core's are, under other names. FORMAT.md has them.
#pragma once

#include "formats/torch_dist/read_metadata.h"

namespace weighbridge {

// Gives the tensors of such a checkpoint the names that they have in the modules: `model.module.`
// goes, and the halves of a gated layer, X_w and X_v, are one tensor X. False, and nothing is
// changed, for another checkpoint.
bool TakeFsdpNames(DistMetadata& metadata);

}  // namespace weighbridge
