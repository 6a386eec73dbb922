#include "report/selftest_table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/strings.h"

namespace weighbridge {
namespace {

void WriteLine(std::string_view cause, const SelftestCounts& counts, const std::string& alarms,
               size_t width, const Sink& sink) {
  std::string line =
      fmt::format("{:{}}  {:>8}  {:>8}  {:>8}  {:>6}  {:>6}  {:>12}", cause, width, counts.injected,
                  counts.detected, counts.named, counts.strays, counts.inert, alarms);
  line.erase(line.find_last_not_of(' ') + 1);
  sink(line + "\n");
}

void WriteMisses(const SelftestFigures& figures, int top, const Sink& sink) {
  const size_t shown =
      top > 0 ? std::min(figures.misses.size(), static_cast<size_t>(top)) : figures.misses.size();
  for (size_t i = 0; i < shown; ++i) {
    const SelftestMiss& miss = figures.misses[i];
    const std::string found =
        miss.found.empty() ? "not detected" : fmt::format("named {}", fmt::join(miss.found, ", "));
    sink(ToPrintable(fmt::format("{}, seed {}: {} ({}): {}", miss.subject, miss.seed, miss.cause,
                                 miss.what, found)) +
         "\n");
  }
  if (shown < figures.misses.size()) {
    sink(fmt::format("... {} more were not named, use --top 0\n", figures.misses.size() - shown));
  }
  if (shown > 0) sink("\n");
}

}  // namespace

void WriteSelftestTable(const SelftestFigures& figures, int top, const Sink& sink) {
  size_t width = std::string_view("cause").size();
  for (const auto& [cause, counts] : figures.causes) width = std::max(width, cause.size());
  sink(fmt::format("{:{}}  injected  detected     named  strays   inert  false alarms\n", "cause",
                   width));
  sink(fmt::format("{:-<{}}  --------  --------  --------  ------  ------  ------------\n", "",
                   width));
  for (const auto& [cause, counts] : figures.causes) {
    WriteLine(ToPrintable(cause), counts, "", width, sink);
  }
  WriteLine("all", figures.total, fmt::format("{} of {}", figures.false_alarms, figures.clean),
            width, sink);
  sink("\n");
  WriteMisses(figures, top, sink);
}

std::string SelftestHeadline(const SelftestFigures& figures) {
  return fmt::format("{} of {} faults detected, {} named, {} false alarm(s) on {} right pair(s)",
                     figures.total.detected, figures.total.injected, figures.total.named,
                     figures.false_alarms, figures.clean);
}

}  // namespace weighbridge
