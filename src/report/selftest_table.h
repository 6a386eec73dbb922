// The figures of `selftest` for people.
#pragma once

#include <string>

#include "checks/result.h"
#include "report/sink.h"

namespace weighbridge {

// Cause, injected, detected, named, false alarms; then the first `top` faults that were not named
// (0: all).
void WriteSelftestTable(const SelftestFigures& figures, int top, const Sink& sink);

// "310 of 312 faults named".
std::string SelftestHeadline(const SelftestFigures& figures);

}  // namespace weighbridge
