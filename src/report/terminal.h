// The report for people: a table of the tensors that failed (all of them with `verbose`), causes,
// and a last line that repeats the verdict. The text may change; programs read the JSON.
#pragma once

#include "checks/result.h"
#include "report/sink.h"

namespace weighbridge {

struct TerminalOptions {
  bool color = false;  // ANSI colours beside the words, never instead of them
  int verbose = 0;     // 1: every row; 2: also inputs and timings
  int top = 10;        // failed rows shown; 0: all
  int columns = 80;    // names are cut and text is wrapped to this width; 0: neither
};

void WriteTerminal(const Report& report, const TerminalOptions& options, const Sink& sink);

// "290 passed, 0 failed, 0 skipped; 2.47 GB in 0.60 s (4.12 GB/s), peak anonymous memory 35.0 MB";
// what is not known (no time, no bytes) is left out.
std::string SummaryText(const Report& report);

}  // namespace weighbridge
