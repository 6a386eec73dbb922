// Judges a bridge in Python by its dump alone, of a model that no family describes: what the names
// and shapes of both sides say of its rules.
#pragma once

#include "base/result.h"
#include "checks/bridge_dump.h"
#include "checks/result.h"

namespace weighbridge {

// The two inventories of the dump against its rules. One row per Megatron tensor. Not concluded.
// Errors: kUsage "inventory-missing" when the dump lacks one.
Result<Report> LintInventories(const BridgeDump& dump);

}  // namespace weighbridge
