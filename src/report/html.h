// One self-contained HTML page: no network, no framework, readable without JavaScript.
#pragma once

#include <cstddef>

#include "checks/result.h"
#include "report/sink.h"

namespace weighbridge {

struct HtmlOptions {
  // Rows are left out, the best ones first, so that the page stays below this; the page says how
  // many.
  size_t max_bytes = 2'000'000;
};

// Verdict and the block to reproduce it first, then causes, what is not proven, and the table of
// tensors, worst first. The JSON of the same rows stands in
// <script type="application/json" id="weighbridge-report">, where `weighbridge report` reads it
// back. The same report gives the same bytes.
void WriteHtml(const Report& report, const Sink& sink, const HtmlOptions& options = {});

}  // namespace weighbridge
