// The report as one JSON document (DESIGN §3, docs/report.schema.json). Field names are a promise:
// fields may be added, never renamed.
#pragma once

#include <cstddef>
#include <string>

#include "checks/result.h"
#include "report/sink.h"

namespace weighbridge {

inline constexpr char kReportSchema[] = "weighbridge.report/1";

struct JsonOptions {
  // At most this many rows, in the order given by RowsWorstFirst, instead of all rows in their own
  // order; what was left out is counted in `results_omitted`. 0: all rows.
  size_t max_results = 0;
};

// Writes the document, one result per line, ending in a newline. Values that are not finite become
// null, and so do the metrics of a row whose elements were not compared; bytes that are not valid
// UTF-8 become U+FFFD. The same report gives the same bytes.
void WriteJson(const Report& report, const Sink& sink, const JsonOptions& options = {});

// One element of `results`, on one line.
std::string RowJson(const ResultRow& row);

}  // namespace weighbridge
