// Reads a report back: what WriteJson wrote, or the JSON inside a page that WriteHtml wrote.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"
#include "checks/result.h"

namespace weighbridge {

// `source` names the text in errors. Fields that are not known are ignored (fields may be added).
// Errors (all kInvalid, never kCorrupt: a report is no checkpoint): text that is not JSON, another
// schema, a field of the wrong type, and reports that contradict themselves: counts that do not add
// up or do not fit the rows, a pass with failed rows or with none that passed, a fail without a
// cause.
Result<Report> ParseReport(std::string_view text, const std::string& source);

// ParseReport of a file of at most 1 GiB.
Result<Report> ReadReportFile(const std::filesystem::path& path);

}  // namespace weighbridge
