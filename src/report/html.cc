#include "report/html.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/strings.h"
#include "report/escape.h"
#include "report/html_assets.h"
#include "report/json.h"
#include "report/rows.h"
#include "report/terminal.h"

namespace weighbridge {
namespace {

std::string Esc(std::string_view text) { return EscapeMarkup(text); }

// JSON inside a script element: no `<` may be left, else "</script>" or "<!--" in a name ends it.
std::string EscapeScript(std::string_view json) {
  std::string out;
  out.reserve(json.size());
  for (const char c : json) {
    switch (c) {
      case '<':
        out += "\\u003c";
        break;
      case '>':
        out += "\\u003e";
        break;
      case '&':
        out += "\\u0026";
        break;
      default:
        out += c;
    }
  }
  return out;
}

const char* Sign(Verdict verdict) {
  switch (verdict) {
    case Verdict::kPass:
      return "\u2713";
    case Verdict::kFail:
      return "\u2717";
    case Verdict::kUndecided:
      return "?";
  }
  return "";
}

std::string Title(const Report& report) {
  return fmt::format("{}: weighbridge {}", VerdictWord(report.verdict), Esc(report.command));
}

std::string Tile(const std::string& value, const char* label) {
  return fmt::format("<li><b>{}</b><span>{}</span></li>\n", Esc(value), label);
}

std::string Tiles(const Report& report) {
  const Counts& c = report.counts;
  std::string out = "<ul class=\"tiles\">\n";
  out += Tile(fmt::format("{}", c.total), "results");
  out += Tile(fmt::format("{}", c.passed), "passed");
  out += Tile(fmt::format("{}", c.failed), "failed");
  out += Tile(fmt::format("{}", c.skipped), "skipped");
  if (report.bytes > 0) out += Tile(FormatBytes(report.bytes), "weighed");
  if (report.wall_s > 0) {
    out += Tile(FormatDuration(report.wall_s), "time");
    const double speed = static_cast<double>(report.bytes) / report.wall_s / 1e9;
    if (report.bytes > 0) out += Tile(fmt::format("{:.3g} GB/s", speed), "speed");
  }
  if (report.peak_anonymous_bytes > 0) {
    out += Tile(FormatBytes(report.peak_anonymous_bytes), "peak memory (anonymous)");
  }
  return out + "</ul>\n";
}

std::string Inputs(const Report& report) {
  if (report.inputs.empty()) return "";
  std::string out =
      fmt::format("<details{}><summary>{} input file{}</summary>\n<dl class=\"files\">\n",
                  report.inputs.size() <= 4 ? " open" : "", report.inputs.size(),
                  report.inputs.size() == 1 ? "" : "s");
  for (const InputFile& input : report.inputs) {
    std::string hashes = FormatBytes(input.bytes);
    if (!input.header_xxh3.empty()) hashes += ", header XXH3 " + input.header_xxh3;
    if (input.content_xxh3) hashes += ", content XXH3 " + *input.content_xxh3;
    out += fmt::format("<dt><code>{}</code></dt><dd>{}</dd>\n", Esc(input.path), Esc(hashes));
  }
  return out + "</dl>\n</details>\n";
}

std::string Reproduce(const Report& report) {
  std::string out = "<section id=\"reproduce\">\n<h2>Reproduce</h2>\n";
  if (!report.argv.empty()) {
    out += fmt::format("<pre><code>{}</code></pre>\n", Esc(CommandLine(report.argv)));
  }
  out += fmt::format("<dl>\n<dt>weighbridge</dt><dd>{}</dd>\n", Esc(report.version));
  for (const auto& [key, value] : report.details) {
    out += fmt::format("<dt>{}</dt><dd>{}</dd>\n", Esc(key), Esc(value));
  }
  return out + "</dl>\n" + Inputs(report) + "</section>\n";
}

std::string Field(const char* label, const std::string& text) {
  if (text.empty()) return "";
  return fmt::format("<dt>{}</dt><dd>{}</dd>\n", label, Esc(text));
}

std::string Where(const Cause& cause) {
  constexpr size_t kShown = 20;
  if (cause.where.empty()) return "";
  std::string out = "<dt>where</dt><dd>";
  for (size_t i = 0; i < cause.where.size() && i < kShown; ++i) {
    out += fmt::format("{}<code>{}</code>", i ? "<br>" : "", Esc(cause.where[i]));
  }
  if (cause.where.size() > kShown) {
    out += fmt::format("<br>and {} more", cause.where.size() - kShown);
  }
  return out + "</dd>\n";
}

std::string Causes(const Report& report) {
  if (report.causes.empty()) return "";
  std::string out = "<section id=\"causes\">\n<h2>Causes</h2>\n";
  for (const Cause& cause : report.causes) {
    out += fmt::format(
        "<div class=\"cause\">\n<h3>{}<small>proof: {}, origin: {}</small></h3>\n<p>{}</p>\n<dl>\n",
        Esc(cause.id), ToString(cause.proof), ToString(cause.origin), Esc(cause.message));
    out += Where(cause) + Field("evidence", cause.evidence) + Field("hint", cause.hint);
    out += "</dl>\n</div>\n";
  }
  return out + "</section>\n";
}

std::string Undecided(const Report& report) {
  if (report.verdict != Verdict::kUndecided || !report.error) return "";
  return "<section>\n<h2>Why no judgement was reached</h2>\n<dl>\n" +
         Field("error", report.error->what) + Field("at", report.error->at) +
         Field("hint", report.error->hint) + "</dl>\n</section>\n";
}

std::string Steps(const Report& report) {
  if (report.steps.empty()) return "";
  std::string out = "<section>\n<h2>Steps</h2>\n<ol>\n";
  for (const WorkflowStep& step : report.steps) {
    out += fmt::format("<li><code>{}</code> {}: {}</li>\n", Esc(step.id), ToString(step.outcome),
                       Esc(step.message));
  }
  return out + "</ol>\n</section>\n";
}

std::string Remarks(const Report& report) {
  std::string out = Steps(report);
  if (!report.unproven.empty()) {
    out += "<section>\n<h2>Not proven by this run</h2>\n<ul class=\"plain\">\n";
    for (const std::string& text : report.unproven) out += fmt::format("<li>{}</li>\n", Esc(text));
    out += "</ul>\n</section>\n";
  }
  if (!report.notes.empty()) {
    out += "<section>\n<h2>Notes</h2>\n<ul class=\"plain\">\n";
    for (const Note& note : report.notes) {
      out += fmt::format("<li><code>{}</code> {}</li>\n", Esc(note.id), Esc(note.message));
    }
    out += "</ul>\n</section>\n";
  }
  return out;
}

std::string MetricCell(const ResultRow& row, double value) {
  if (!HasMetrics(row)) return "<td class=\"num muted\">&ndash;</td>";
  const std::string sortable = std::isfinite(value) ? fmt::format("{}", value) : "inf";
  return fmt::format("<td class=\"num\" data-value=\"{}\">{}</td>", sortable, MetricText(value));
}

std::string CountCell(const ResultRow& row, int64_t value) {
  if (!HasMetrics(row)) return "<td class=\"num muted\">&ndash;</td>";
  return fmt::format("<td class=\"num\" data-value=\"{}\">{}</td>", value, value);
}

// The names of the other side under the primary one.
std::string NameCell(const Report& report, const ResultRow& row) {
  const TensorRef& primary = PrimaryTensor(report, row);
  std::string out = fmt::format("<td class=\"name\">{}", Esc(RowName(report, row)));
  for (const TensorRef& tensor : row.hf) {
    if (&tensor != &primary) out += fmt::format("<small>{}</small>", Esc(tensor.name));
  }
  const bool other =
      &row.megatron != &primary && !row.megatron.name.empty() && row.megatron.name != primary.name;
  if (other) out += fmt::format("<small>{}</small>", Esc(row.megatron.name));
  if (row.xxh3) out += fmt::format("<small class=\"why\">XXH3-128 {}</small>", row.xxh3->Hex());
  if (!row.why.empty()) out += fmt::format("<small class=\"why\">{}</small>", Esc(row.why));
  if (row.first) out += fmt::format("<small class=\"why\">{}</small>", Esc(FirstText(*row.first)));
  return out + "</td>";
}

// Rows that all match and say nothing more need no metrics: the table stays narrow.
bool NeedsMetrics(const Report& report) {
  return std::any_of(report.results.begin(), report.results.end(),
                     [](const ResultRow& row) { return row.status != RowStatus::kMatch; });
}

std::string RowHtml(const Report& report, const ResultRow& row, bool metrics) {
  const bool passed = Passed(row.status);
  const bool skipped = row.status == RowStatus::kSkipped;
  const char* kind = passed ? "good" : skipped ? "warn" : "bad";
  const char* sign = passed ? "\u2713" : skipped ? "\u2013" : "\u2717";
  const TensorRef& primary = PrimaryTensor(report, row);
  std::string out = fmt::format("<tr class=\"{}\">{}", kind, NameCell(report, row));
  out += fmt::format("<td class=\"state\">{} {}</td>", sign, MatchWord(report, row));
  out += fmt::format("<td class=\"shape\">{}</td><td>{}</td><td>{}</td>",
                     primary.dtype ? Esc(ToString(primary.shape)) : "&ndash;", Esc(DTypeText(row)),
                     Esc(row.op == "none" ? row.transform : row.transform + ", " + row.op));
  if (metrics) {
    out += MetricCell(row, row.metrics.max_diff) + MetricCell(row, row.metrics.mean_diff) +
           MetricCell(row, row.metrics.cosine) + CountCell(row, row.metrics.mismatched);
  }
  return out + "</tr>\n";
}

std::string TableHead(bool metrics) {
  std::string out =
      "<div class=\"controls\" id=\"controls\" hidden>"
      "<input type=\"search\" id=\"search\" placeholder=\"Filter: words in a row\" "
      "aria-label=\"Filter rows\">"
      "<label><input type=\"checkbox\" id=\"failed\"> failed only</label>"
      "<span class=\"muted\" id=\"shown\"></span></div>\n"
      "<div class=\"scroll\">\n<table id=\"tensors\">\n<thead><tr><th>Weight name</th>"
      "<th>Matches original</th><th>Shape</th><th>DType</th><th>Transform</th>";
  if (metrics) {
    out +=
        "<th class=\"num\">Max diff</th><th class=\"num\">Mean diff</th>"
        "<th class=\"num\">Cosine</th><th class=\"num\">Mismatched</th>";
  }
  return out + "</tr></thead>\n<tbody>\n";
}

std::string Head(const Report& report) {
  std::string out =
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
      "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n";
  out += fmt::format("<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n", Title(report),
                     kHtmlStyle);
  const std::string_view verdict = ToString(report.verdict);
  out += fmt::format(
      "<header><span class=\"badge {}\">{} {}</span><h1>weighbridge {} &middot; {}</h1></header>\n",
      verdict, Sign(report.verdict), VerdictWord(report.verdict), Esc(report.command),
      Esc(report.level));
  out += Tiles(report) + Reproduce(report) + Undecided(report) + Causes(report) + Remarks(report);
  return out + "<section id=\"weights\">\n<h2>Tensors</h2>\n";
}

// How many rows fit: each costs its table row and its line of JSON.
size_t RowsThatFit(const Report& report, const std::vector<size_t>& order, bool metrics,
                   size_t budget) {
  size_t used = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const ResultRow& row = report.results[order[i]];
    used += RowHtml(report, row, metrics).size() + EscapeScript(RowJson(row)).size() + 2;
    if (used > budget) return i;
  }
  return order.size();
}

std::string EmbeddedReport(const Report& report, size_t rows) {
  const std::string json =
      RenderToString([&](const Sink& sink) { WriteJson(report, sink, {.max_results = rows}); });
  return "<script type=\"application/json\" id=\"weighbridge-report\">" + EscapeScript(json) +
         "</script>\n";
}

std::string LeftOut(size_t shown, uint64_t hidden) {
  if (hidden == 0) return "";
  return fmt::format(
      "<p>The {} worst of {} rows are on this page; {} are left out to keep it small. All of them "
      "are in the JSON report (<code>--json FILE</code>).</p>\n",
      shown, shown + hidden, hidden);
}

}  // namespace

void WriteHtml(const Report& report, const Sink& sink, const HtmlOptions& options) {
  const bool metrics = NeedsMetrics(report);
  const std::string head = Head(report);
  const std::string table_head = TableHead(metrics);
  const std::vector<size_t> order = RowsWorstFirst(report);
  const size_t fixed = head.size() + EmbeddedReport(report, 1).size() + table_head.size() +
                       std::string_view(kHtmlScript).size() + 1000;
  const size_t budget = options.max_bytes > fixed ? options.max_bytes - fixed : 0;
  // At least one row, so that the page never looks as if there were none.
  const size_t fitting = std::max<size_t>(1, RowsThatFit(report, order, metrics, budget));
  const size_t shown = std::min(order.size(), fitting);
  sink(head);
  if (order.empty()) {
    sink("<p class=\"muted\">There are no results.</p>\n");
  } else {
    sink(LeftOut(shown, order.size() - shown + report.results_omitted));
    sink(table_head);
    for (size_t i = 0; i < shown; ++i) sink(RowHtml(report, report.results[order[i]], metrics));
    sink("</tbody>\n</table>\n</div>\n");
  }
  sink("</section>\n");
  sink(EmbeddedReport(report, shown));
  sink(fmt::format("<script>{}</script>\n</body>\n</html>\n", kHtmlScript));
}

}  // namespace weighbridge
