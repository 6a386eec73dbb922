// Why modules of `compare` failed.
#pragma once

#include "base/result.h"
#include "checks/effect_check.h"
#include "checks/result.h"
#include "engine/compare_findings.h"
#include "engine/weight_causes.h"

namespace weighbridge {

// Adds to `report` the causes: the `effects` in which the configs differ where they explain what
// failed or are structural, the `weights` of modules that failed (nullptr: both sides have the
// same), what explains a recording, "module-differs" for what is left, "next-token" where nothing
// else is to be told. Effects that nothing failed at are notes. Errors: those of FindWeightCauses.
Status ExplainFailures(const CompareFindings& findings, EffectFindings effects,
                       const ComparedWeights* weights, Report& report);

}  // namespace weighbridge
