// Judges a bridge in Python by its dump (checks/bridge_dump.h), before any weight moves: each
// parameter of the model has to be taken by a rule that reads the right HF tensors, in the right
// roles, by a class that does the right transform. A fault names the rule that makes it.
#pragma once

#include "base/result.h"
#include "checks/bridge_dump.h"
#include "checks/result.h"
#include "family/effects/runtime.h"
#include "family/model.h"

namespace weighbridge {

// Against our family: one row per Megatron parameter of `model`; then the provider's fields against
// the config, by effect. Not concluded. `model` was expanded with the HF names that the rules read
// (HasRuleFor), or with the dump's inventory.
Report LintBridge(const Model& model, const BridgeDump& dump, const RuntimeChoice& runtime);

// True when some rule reads HF tensors of that name.
bool HasRuleFor(const BridgeDump& dump, const std::string& hf_name);

}  // namespace weighbridge
