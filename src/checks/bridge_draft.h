// `families from-bridge`: a family file drafted from a bridge in Python.
#pragma once

#include <string>

#include "base/result.h"
#include "checks/bridge_dump.h"

namespace weighbridge {

// A TOML file (docs/families.md) with a parameter for each rule of the dump that reads Hugging Face
// tensors that are there, over base_gpt and base_gqa. What the rules do not say is marked "CHECK":
// which layers have a parameter that not all have, sizes that no dim explains, transforms of
// classes that are not known. `name` is the family's. Errors: kUsage "inventory-missing" without
// the names of the Hugging Face side.
Result<std::string> DraftFamily(const BridgeDump& dump, const std::string& name);

}  // namespace weighbridge
