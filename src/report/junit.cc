#include "report/junit.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>

#include "report/escape.h"
#include "report/rows.h"

namespace weighbridge {
namespace {

// Cases that no row stands for.
struct Extra {
  std::string name;
  const char* element;  // failure or error
  std::string type, message, text;
};

std::string CauseText(const Cause& cause) {
  std::string text = fmt::format("{} (proof: {}, origin: {}): {}", cause.id, ToString(cause.proof),
                                 ToString(cause.origin), cause.message);
  if (!cause.where.empty()) text += fmt::format("; where: {}", fmt::join(cause.where, ", "));
  if (!cause.evidence.empty()) text += "; evidence: " + cause.evidence;
  if (!cause.hint.empty()) text += "; hint: " + cause.hint;
  return text;
}

std::vector<Extra> ExtraCases(const Report& report) {
  std::vector<Extra> extra;
  if (report.verdict == Verdict::kFail && report.counts.failed == 0) {
    for (const Cause& cause : report.causes) {
      extra.push_back({"cause " + cause.id, "failure", cause.id, cause.message, CauseText(cause)});
    }
  }
  if (report.verdict == Verdict::kUndecided) {
    const Error error = report.error.value_or(Error{});
    extra.push_back({"verdict", "error", error.id.empty() ? "undecided" : error.id,
                     error.what.empty() ? "no judgement was reached" : error.what,
                     fmt::format("at: {}; hint: {}", error.at, error.hint)});
  }
  return extra;
}

std::string FailureText(const ResultRow& row) {
  std::string text(MatchWord(row.status));
  if (row.status == RowStatus::kMismatch && HasMetrics(row)) {
    text += fmt::format("; max diff {}, mean diff {}, cosine {}, {} values differ",
                        MetricText(row.metrics.max_diff), MetricText(row.metrics.mean_diff),
                        MetricText(row.metrics.cosine), row.metrics.mismatched);
  }
  if (row.first) text += "; " + FirstText(*row.first);
  return text;
}

void WriteCase(const Report& report, const ResultRow& row, const Sink& sink) {
  sink(fmt::format("    <testcase classname=\"weighbridge.{}\" name=\"{}\"",
                   EscapeMarkup(report.command), EscapeMarkup(RowName(report, row))));
  if (Failed(row)) {
    const std::string why = WhyText(row);
    sink(fmt::format(">\n      <failure type=\"{}\" message=\"{}\">{}</failure>\n    </testcase>\n",
                     ToString(row.status), EscapeMarkup(why.empty() ? MatchWord(row.status) : why),
                     EscapeMarkup(FailureText(row))));
  } else if (row.status == RowStatus::kSkipped) {
    sink(fmt::format(">\n      <skipped message=\"{}\"/>\n    </testcase>\n",
                     EscapeMarkup(row.why)));
  } else {
    sink("/>\n");
  }
}

void WriteSuite(const Report& report, const Sink& sink) {
  const std::vector<Extra> extra = ExtraCases(report);
  const bool undecided = report.verdict == Verdict::kUndecided;
  int64_t failed = undecided ? 0 : static_cast<int64_t>(extra.size());
  int64_t skipped = 0;
  for (const ResultRow& row : report.results) {
    failed += Failed(row) ? 1 : 0;
    skipped += row.status == RowStatus::kSkipped ? 1 : 0;
  }
  sink(fmt::format(
      "  <testsuite name=\"weighbridge {}\" tests=\"{}\" failures=\"{}\" errors=\"{}\" "
      "skipped=\"{}\" time=\"{:.3f}\">\n",
      EscapeMarkup(report.command + " " + report.level), report.results.size() + extra.size(),
      failed, undecided ? 1 : 0, skipped, report.wall_s));
  sink(fmt::format("    <properties>\n      <property name=\"verdict\" value=\"{}\"/>\n",
                   ToString(report.verdict)));
  sink(fmt::format("      <property name=\"command\" value=\"{}\"/>\n",
                   EscapeMarkup(CommandLine(report.argv))));
  sink(fmt::format("      <property name=\"version\" value=\"{}\"/>\n    </properties>\n",
                   EscapeMarkup(report.version)));
  for (const ResultRow& row : report.results) WriteCase(report, row, sink);
  for (const Extra& e : extra) {
    sink(fmt::format(
        "    <testcase classname=\"weighbridge.{}\" name=\"{}\">\n      <{} type=\"{}\" "
        "message=\"{}\">{}</{}>\n    </testcase>\n",
        EscapeMarkup(report.command), EscapeMarkup(e.name), e.element, EscapeMarkup(e.type),
        EscapeMarkup(e.message), EscapeMarkup(e.text), e.element));
  }
  if (!report.causes.empty()) {
    sink("    <system-out>");
    for (const Cause& cause : report.causes) sink(EscapeMarkup(CauseText(cause)) + "\n");
    sink("</system-out>\n");
  }
  sink("  </testsuite>\n");
}

}  // namespace

void WriteJunit(const std::vector<Report>& reports, const Sink& sink) {
  sink("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
  for (const Report& report : reports) WriteSuite(report, sink);
  sink("</testsuites>\n");
}

}  // namespace weighbridge
