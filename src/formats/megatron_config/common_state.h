// What Megatron saves beside the weights that is the same on all ranks.
#pragma once

#include <nlohmann/json.hpp>

#include "formats/pickle/value.h"

namespace weighbridge {

// The plain data (ToPlainJson) of "args" (Megatron-LM's training arguments, a Namespace or dict),
// "iteration" and "checkpoint_version" in `root`: the dict of common.pt or of a rank's file, or the
// list of one dict that megatron-core 0.19 has. Entries that are none of these are left out.
nlohmann::json CommonStateOf(const pickle::Value& root);

}  // namespace weighbridge
