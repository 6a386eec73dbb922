// What `compare` shows besides its rows and causes.
#pragma once

#include "checks/result.h"
#include "engine/compare_findings.h"

namespace weighbridge {

// Adds to `report`, whose rows are there, the details, notes and tolerances that `findings` give.
void DescribeFindings(const CompareFindings& findings, Report& report);

}  // namespace weighbridge
