// JUnit XML, which CI systems show: one test case per result.
#pragma once

#include <vector>

#include "checks/result.h"
#include "report/sink.h"

namespace weighbridge {

// One <testsuite> per report. A failed row is a <failure> with what differs; a skipped one is
// <skipped>; an undecided report has one more case with an <error>, and a report whose fault shows
// in no row one more case per cause. Characters that XML forbids are written as escapes.
void WriteJunit(const std::vector<Report>& reports, const Sink& sink);

}  // namespace weighbridge
