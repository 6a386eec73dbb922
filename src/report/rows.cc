#include "report/rows.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/strings.h"

namespace weighbridge {
namespace {

int Severity(const ResultRow& row) {
  switch (row.status) {
    case RowStatus::kMissing:
      return 0;
    case RowStatus::kExtra:
      return 1;
    case RowStatus::kMismatch:
      return 2;
    case RowStatus::kSkipped:
      return 3;
    case RowStatus::kMatchRounded:
      return 4;
    case RowStatus::kMatchWidened:
      return 5;
    case RowStatus::kMatch:
      return 6;
  }
  return 6;
}

// How far a mismatch is off. Without metrics (another shape) it is as bad as can be.
double Badness(const ResultRow& row) {
  // What a model computed stays in its order: a module is to blame before those after it.
  if (row.status != RowStatus::kMismatch || row.noise) return 0;
  const double diff = row.metrics.max_diff;
  if (!HasMetrics(row) || !std::isfinite(diff)) return std::numeric_limits<double>::infinity();
  return diff;
}

bool PlainInShell(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("@%_-+=:,./").find(c) != std::string_view::npos;
}

std::string ShellQuoted(const std::string& argument) {
  if (!argument.empty() && std::all_of(argument.begin(), argument.end(), PlainInShell)) {
    return argument;
  }
  std::string out = "'";
  for (const char c : argument) {
    if (c == '\'') {
      out += "'\\''";
    } else {
      out += c;
    }
  }
  return out + "'";
}

}  // namespace

bool Failed(const ResultRow& row) {
  return !Passed(row.status) && row.status != RowStatus::kSkipped;
}

bool HasMetrics(const ResultRow& row) {
  // At level L0 a row passes without a value having been looked at.
  if (Passed(row.status) || row.noise) return !std::isnan(row.metrics.max_diff);
  if (row.status != RowStatus::kMismatch) return false;
  return row.first.has_value() || row.metrics.mismatched > 0;
}

std::vector<size_t> RowsWorstFirst(const Report& report) {
  std::vector<size_t> order(report.results.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&report](size_t a, size_t b) {
    const ResultRow& x = report.results[a];
    const ResultRow& y = report.results[b];
    if (Severity(x) != Severity(y)) return Severity(x) < Severity(y);
    return Badness(x) > Badness(y);
  });
  return order;
}

const TensorRef& PrimaryTensor(const Report& report, const ResultRow& row) {
  const bool no_hf = row.hf.empty() || row.hf[0].name.empty();
  if (no_hf) return row.megatron;
  const bool of_megatron = report.command == "verify" || row.noise.has_value() || row.rank;
  if (of_megatron && !row.megatron.name.empty()) return row.megatron;
  return row.hf[0];
}

std::string ToString(const RankId& rank) {
  std::string text = fmt::format("tp {}, pp {}", rank.tp, rank.pp);
  if (rank.vpp != 0) text += fmt::format(", vpp {}", rank.vpp);
  if (rank.ep != 0) text += fmt::format(", ep {}", rank.ep);
  if (rank.etp != 0) text += fmt::format(", etp {}", rank.etp);
  return text;
}

std::string IndexText(const std::vector<int64_t>& index) {
  return fmt::format("[{}]", fmt::join(index, ", "));
}

std::string RowName(const Report& report, const ResultRow& row) {
  const std::string name = ToPrintable(PrimaryTensor(report, row).name);
  return row.rank ? fmt::format("{} @ {}", name, ToString(*row.rank)) : name;
}

std::string_view MatchWord(RowStatus status) {
  switch (status) {
    case RowStatus::kMatch:
      return "yes";
    case RowStatus::kMatchWidened:
      return "yes (widened)";
    case RowStatus::kMatchRounded:
      return "yes (rounded)";
    case RowStatus::kMismatch:
      return "no";
    case RowStatus::kMissing:
      return "no (missing)";
    case RowStatus::kExtra:
      return "no (extra)";
    case RowStatus::kSkipped:
      return "skipped";
  }
  return "";
}

std::string_view MatchWord(const Report& report, const ResultRow& row) {
  return report.level == "L0" && Passed(row.status) ? "fits" : MatchWord(row.status);
}

std::string DTypeText(const ResultRow& row) {
  const std::optional<DType> hf = row.hf.empty() ? std::nullopt : row.hf[0].dtype;
  const std::optional<DType> megatron = row.megatron.dtype;
  if (hf && megatron && *hf != *megatron) {
    return fmt::format("{} -> {}", ShortName(*hf), ShortName(*megatron));
  }
  if (hf) return std::string(ShortName(*hf));
  return megatron ? std::string(ShortName(*megatron)) : "";
}

std::string WhyText(const ResultRow& row) {
  if (!row.why.empty()) return ToPrintable(row.why);
  if (row.status == RowStatus::kMismatch && row.metrics.mismatched > 0) {
    return fmt::format("{} values differ", row.metrics.mismatched);
  }
  return "";
}

std::string FirstText(const FirstDifference& first) {
  std::string hf, megatron;
  if (!first.hf_tensor.empty()) {
    hf = ToPrintable(first.hf_tensor) + IndexText(first.hf_index);
  }
  if (!first.megatron_tensor.empty()) {
    megatron = ToPrintable(first.megatron_tensor);
    if (first.rank) megatron += fmt::format(" ({})", ToString(*first.rank));
    megatron += IndexText(first.megatron_index);
  }
  const char* join = hf.empty() || megatron.empty() ? "" : " = ";
  return fmt::format("first at {}{}{}: expected {}, actual {}", hf, join, megatron,
                     ToPrintable(first.expected), ToPrintable(first.actual));
}

std::string MetricText(double value) {
  return std::isfinite(value) ? fmt::format("{:.4g}", value) : "not finite";
}

std::string_view VerdictWord(Verdict verdict) {
  switch (verdict) {
    case Verdict::kPass:
      return "PASSED";
    case Verdict::kFail:
      return "FAILED";
    case Verdict::kUndecided:
      return "UNDECIDED";
  }
  return "";
}

std::string CommandLine(const std::vector<std::string>& argv) {
  std::string line;
  for (size_t i = 0; i < argv.size(); ++i) {
    std::string argument = ToPrintable(argv[i]);
    if (i == 0) argument = argument.substr(argument.rfind('/') + 1);
    if (i > 0) line += ' ';
    line += ShellQuoted(argument);
  }
  return line;
}

}  // namespace weighbridge
