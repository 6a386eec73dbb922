// A distributed Megatron checkpoint as a flat state dict: one tensor per layer and expert, under
// the names of Megatron's modules, whatever way the files stack and cut them. Knows no family.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "formats/checkpoint.h"
#include "formats/megatron_checkpoint.h"

namespace weighbridge {

// "decoder.layers.mlp.linear_fc1.weight" -> "decoder.layers.3.mlp.linear_fc1.weight", one per index
// of the leading axis; "....experts.experts.linear_fc1.weight" -> "....experts.linear_fc1.weight7".
// Optimizer state is a tensor like the others; objects are left out and counted in a note.
//
// A tensor that the files hold in one piece is read in place. One that they hold in several is
// joined in memory at its first Data() and given back by DropBehind(). Errors: those of
// MegatronCheckpoint::Data: every chunk is looked at.
Result<std::unique_ptr<Checkpoint>> AsStateDict(std::unique_ptr<MegatronCheckpoint> megatron);

}  // namespace weighbridge
