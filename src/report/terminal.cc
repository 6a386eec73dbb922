#include "report/terminal.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "base/strings.h"
#include "report/rows.h"
#include "report/selftest_table.h"

namespace weighbridge {
namespace {

enum class Ink { kNone, kGood, kBad, kWarn, kBold };

class Painter {
 public:
  explicit Painter(bool on) : on_(on) {}
  std::string operator()(Ink ink, std::string_view text) const {
    if (!on_ || ink == Ink::kNone || text.empty()) return std::string(text);
    return fmt::format("\x1b[{}m{}\x1b[0m", Code(ink), text);
  }

 private:
  static const char* Code(Ink ink) {
    switch (ink) {
      case Ink::kGood:
        return "32";
      case Ink::kBad:
        return "1;31";
      case Ink::kWarn:
        return "33";
      default:
        return "1";
    }
  }
  bool on_;
};

Ink InkOf(const ResultRow& row) {
  if (Passed(row.status)) return Ink::kGood;
  return row.status == RowStatus::kSkipped ? Ink::kWarn : Ink::kBad;
}

Ink InkOf(Verdict verdict) {
  switch (verdict) {
    case Verdict::kPass:
      return Ink::kGood;
    case Verdict::kFail:
      return Ink::kBad;
    case Verdict::kUndecided:
      return Ink::kWarn;
  }
  return Ink::kNone;
}

// `text` in lines of at most `columns`, broken at spaces, later lines indented by `indent`; the
// text begins at column `used`. A word longer than a line stays whole, so that it can be copied.
std::string Wrapped(std::string_view text, size_t used, size_t indent, int columns) {
  if (columns <= 0) return std::string(text);
  const size_t width = std::max<size_t>(static_cast<size_t>(columns), indent + 20);
  std::string out;
  size_t at = used;
  bool first = true;
  while (!text.empty()) {
    const size_t space = text.find(' ');
    const std::string_view word = text.substr(0, space);
    text = space == std::string_view::npos ? "" : text.substr(space + 1);
    const size_t length = DisplayWidth(word);
    if (!first && at + 1 + length > width) {
      out += '\n';
      out.append(indent, ' ');
      at = indent;
    } else if (!first) {
      out += ' ';
      ++at;
    }
    out += word;
    at += length;
    first = false;
  }
  return out;
}

// "  label: text", wrapped under the text.
void WriteField(std::string_view label, std::string_view text, size_t indent, int columns,
                const Sink& sink) {
  if (text.empty()) return;
  const std::string head = fmt::format("{:{}}{}: ", "", indent, label);
  sink(head);
  sink(Wrapped(ToPrintable(text), head.size(), indent + 2, columns));
  sink("\n");
}

enum Column { kName, kShape, kDType, kMatch, kDiff, kColumns };
using Cells = std::array<std::string, kColumns>;

// Of a model that ran, the rows are modules and what they gave.
bool OfModules(const Report& report) {
  return report.level == "L2" && !report.results.empty() && report.results.front().noise;
}

// `check` has tensors and then modules.
std::string_view Things(const Report& report) {
  if (OfModules(report)) return "modules";
  return report.level == "L2" && !report.results.empty() ? "tensors and modules" : "tensors";
}

Cells Titles(const Report& report) {
  return {OfModules(report) ? "Module" : "Weight Name", "Shape", "DType", "Matches Original",
          "Max Diff"};
}

// The same in two lines, for narrow terminals.
std::array<Cells, 2> NarrowTitles(const Report& report) {
  Cells second = Titles(report);
  second[kMatch] = "Original";
  return {{{"", "", "", "Matches", ""}, second}};
}

Cells CellsOf(const Report& report, const ResultRow& row) {
  const bool diff = (row.status == RowStatus::kMismatch || OfModules(report)) && HasMetrics(row);
  const TensorRef& primary = PrimaryTensor(report, row);
  return {RowName(report, row), primary.dtype ? ToString(primary.shape) : "-",
          DTypeText(row).empty() ? "-" : DTypeText(row), std::string(MatchWord(report, row)),
          diff ? MetricText(row.metrics.max_diff) : "-"};
}

class Table {
 public:
  Table(const Report& report, const std::vector<size_t>& rows, const TerminalOptions& options,
        const Painter& paint)
      : report_(report), rows_(rows), options_(options), paint_(paint) {
    for (const size_t row : rows_) {
      const Cells cells = CellsOf(report_, report_.results[row]);
      Widen(cells, width_);
      any_diff_ = any_diff_ || cells[kDiff] != "-";
    }
    FitToColumns();
  }

  void Write(const Sink& sink) const {
    if (narrow_) {
      for (const Cells& titles : NarrowTitles(report_)) WriteLine(titles, Ink::kBold, true, sink);
    } else {
      WriteLine(Titles(report_), Ink::kBold, true, sink);
    }
    std::string rule;
    for (size_t c = 0; c < Used(); ++c) rule += (c ? "  " : "") + std::string(width_[c], '-');
    sink(rule + "\n");
    for (const size_t index : rows_) {
      const ResultRow& row = report_.results[index];
      WriteLine(CellsOf(report_, row), InkOf(row), false, sink);
      WriteWhy(row, sink);
    }
  }

 private:
  size_t Used() const { return any_diff_ ? kColumns : kColumns - 1; }

  using Widths = std::array<size_t, kColumns>;

  static void Widen(const Cells& cells, Widths& widths) {
    for (size_t c = 0; c < kColumns; ++c) widths[c] = std::max(widths[c], DisplayWidth(cells[c]));
  }

  size_t Total() const {
    size_t total = 2 * (Used() - 1);
    for (size_t c = 0; c < Used(); ++c) total += width_[c];
    return total;
  }

  // Narrow titles come first; then the name gives way, down to 20 columns, then the shape.
  void FitToColumns() {
    const Widths content = width_;
    const auto limit = static_cast<size_t>(std::max(options_.columns, 0));
    Widen(Titles(report_), width_);
    if (limit == 0 || Total() <= limit) return;
    narrow_ = true;
    width_ = content;
    for (const Cells& titles : NarrowTitles(report_)) Widen(titles, width_);
    const auto shrink = [&](Column column, size_t least) {
      const size_t total = Total();
      if (total <= limit || width_[column] <= least) return;
      width_[column] -= std::min(total - limit, width_[column] - least);
    };
    shrink(kName, 20);
    shrink(kShape, 8);
  }

  void WriteLine(const Cells& cells, Ink ink, bool all, const Sink& sink) const {
    std::string line;
    for (size_t c = 0; c < Used(); ++c) {
      const bool whole = options_.columns <= 0;
      const std::string text = whole ? cells[c] : CutMiddle(cells[c], width_[c]);
      const size_t pad = width_[c] - std::min(width_[c], DisplayWidth(text));
      if (c > 0) line += "  ";
      line += all || c == kMatch ? paint_(ink, text) : text;
      if (c + 1 < Used()) line.append(pad, ' ');
    }
    line.erase(line.find_last_not_of(' ') + 1);
    sink(line + "\n");
  }

  void WriteWhy(const ResultRow& row, const Sink& sink) const {
    if (row.xxh3 && options_.verbose >= 1) sink("    xxh3 " + row.xxh3->Hex() + "\n");
    const std::string why = WhyText(row);
    if (!why.empty()) sink("    " + Wrapped(why, 4, 4, options_.columns) + "\n");
    if (row.first) sink("    " + Wrapped(FirstText(*row.first), 4, 4, options_.columns) + "\n");
    if (options_.verbose >= 1 && row.noise) {
      sink(fmt::format("    mean diff {}, cosine {:.9g}\n", MetricText(row.metrics.mean_diff),
                       row.metrics.cosine));
    } else if (options_.verbose >= 2 && row.status == RowStatus::kMismatch && HasMetrics(row)) {
      const Metrics& m = row.metrics;
      sink(fmt::format(
          "    mean diff {}, cosine {}, max relative {}, max ULP {}, NaN {}, infinite {}\n",
          MetricText(m.mean_diff), MetricText(m.cosine), MetricText(m.max_relative), m.max_ulp,
          m.nan_count, m.inf_count));
    }
  }

  const Report& report_;
  const std::vector<size_t>& rows_;
  const TerminalOptions& options_;
  const Painter& paint_;
  Widths width_{};
  bool any_diff_ = false;
  bool narrow_ = false;
};

// The rows to show: the worst `top` failures, or everything with -v.
std::vector<size_t> ShownRows(const Report& report, const TerminalOptions& options) {
  std::vector<size_t> order = RowsWorstFirst(report);
  if (options.verbose >= 1) return order;
  const auto failed = std::find_if(order.begin(), order.end(),
                                   [&](size_t i) { return !Failed(report.results[i]); });
  order.erase(failed, order.end());
  const auto top = static_cast<size_t>(std::max(options.top, 0));
  if (top > 0 && order.size() > top) order.resize(top);
  return order;
}

void WriteTable(const Report& report, const TerminalOptions& options, const Painter& paint,
                const Sink& sink) {
  const std::vector<size_t> rows = ShownRows(report, options);
  if (!rows.empty()) Table(report, rows, options, paint).Write(sink);
  const auto shown_failed =
      std::count_if(rows.begin(), rows.end(), [&](size_t i) { return Failed(report.results[i]); });
  const int64_t hidden = report.counts.failed - static_cast<int64_t>(shown_failed);
  if (hidden > 0 && report.results_omitted > 0) {
    sink(fmt::format("... {} more failed; this copy of the report leaves out {} rows\n", hidden,
                     report.results_omitted));
  } else if (hidden > 0) {
    sink(fmt::format("... {} more failed, use --top 0\n", hidden));
  }
  if (!rows.empty() || hidden > 0) sink("\n");
}

void WriteCauses(const Report& report, const TerminalOptions& options, const Painter& paint,
                 const Sink& sink) {
  const size_t n = report.causes.size();
  for (size_t i = 0; i < n; ++i) {
    const Cause& cause = report.causes[i];
    const std::string which = n == 1 ? "cause" : fmt::format("cause {} of {}", i + 1, n);
    sink(fmt::format("{}: {} (proof: {}, origin: {})\n", which,
                     paint(Ink::kBad, ToPrintable(cause.id)), ToString(cause.proof),
                     ToString(cause.origin)));
    WriteField("what", cause.message, 2, options.columns, sink);
    WriteField("where", fmt::format("{}", fmt::join(cause.where, ", ")), 2, options.columns, sink);
    WriteField("evidence", cause.evidence, 2, options.columns, sink);
    WriteField("hint", cause.hint, 2, options.columns, sink);
  }
  if (n > 0) sink("\n");
}

void WriteDetails(const Report& report, const TerminalOptions& options, const Sink& sink) {
  if (options.verbose < 1) return;
  for (const auto& [key, value] : report.details) {
    WriteField(ToPrintable(key), value, 0, options.columns, sink);
  }
  if (options.verbose < 2) return;
  for (const InputFile& input : report.inputs) {
    sink(fmt::format("input: {} ({}, header {})\n", ToPrintable(input.path),
                     FormatBytes(input.bytes), input.header_xxh3));
  }
}

std::string Headline(const Report& report) {
  const Counts& c = report.counts;
  const bool headers = report.level == "L0";
  const std::string_view things = Things(report);
  if (report.selftest && report.verdict != Verdict::kUndecided) {
    return SelftestHeadline(*report.selftest);
  }
  switch (report.verdict) {
    case Verdict::kPass:
      if (headers && c.skipped == 0) {
        return fmt::format("All {} tensors fit (headers only)", c.passed);
      }
      if (headers) return fmt::format("{} of {} tensors fit (headers only)", c.passed, c.total);
      return c.skipped == 0 ? fmt::format("All {} {} match", c.passed, things)
                            : fmt::format("{} of {} {} match", c.passed, c.total, things);
    case Verdict::kFail:
      if (c.total == 0) return "No tensor was compared, a fault was found first";
      if (c.failed == 0) return "No tensor differs, but a fault was found";
      return fmt::format("{} of {} {} failed", c.failed, c.total, things);
    case Verdict::kUndecided:
      if (!report.error) return "No judgement was reached";
      return fmt::format("No judgement was reached, {}", ToPrintable(report.error->what));
  }
  return "";
}

}  // namespace

std::string SummaryText(const Report& report) {
  const Counts& c = report.counts;
  std::string text = fmt::format("{} passed, {} failed, {} skipped", c.passed, c.failed, c.skipped);
  if (report.bytes > 0) {
    text += fmt::format("; {}", FormatBytes(report.bytes));
    if (report.wall_s > 0) {
      text += fmt::format(" in {} ({:.3g} GB/s)", FormatDuration(report.wall_s),
                          static_cast<double>(report.bytes) / report.wall_s / 1e9);
    }
  }
  if (report.peak_anonymous_bytes > 0) {
    text += fmt::format(", peak anonymous memory {}", FormatBytes(report.peak_anonymous_bytes));
  }
  return text;
}

void WriteTerminal(const Report& report, const TerminalOptions& options, const Sink& sink) {
  const Painter paint(options.color);
  WriteDetails(report, options, sink);
  if (report.selftest) {
    WriteSelftestTable(*report.selftest, options.verbose > 0 ? 0 : options.top, sink);
  } else {
    WriteTable(report, options, paint, sink);
  }
  WriteCauses(report, options, paint, sink);
  const std::string headline = fmt::format("{}: {}", Headline(report), SummaryText(report));
  sink(Wrapped(headline, 0, 2, options.columns) + "\n");
  for (size_t i = 0; i < report.steps.size(); ++i) {
    const WorkflowStep& step = report.steps[i];
    WriteField(fmt::format("step {}, {}", i + 1, ToPrintable(step.id)),
               fmt::format("{}: {}", ToString(step.outcome), step.message), 2, options.columns,
               sink);
  }
  for (const std::string& text : report.unproven) {
    WriteField("not proven", text, 2, options.columns, sink);
  }
  for (const Note& note : report.notes) {
    WriteField(fmt::format("note {}", ToPrintable(note.id)), note.message, 2, options.columns,
               sink);
  }
  const std::string line = CommandLine(report.argv);
  sink(fmt::format("{} {}\n", paint(InkOf(report.verdict), VerdictWord(report.verdict)),
                   line.empty() ? ToPrintable(report.command) : line));
}

}  // namespace weighbridge
