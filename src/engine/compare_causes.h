// Why modules of `compare` failed.
#pragma once

#include "checks/effect_check.h"
#include "checks/result.h"
#include "engine/compare_findings.h"

namespace weighbridge {

// Adds to `report` the causes: the `effects` in which the configs differ where they explain what
// failed, "module-differs" for what is left, "next-token" where nothing else is to be told. Effects
// that nothing failed at are notes.
void ExplainFailures(const CompareFindings& findings, EffectFindings effects, Report& report);

}  // namespace weighbridge
