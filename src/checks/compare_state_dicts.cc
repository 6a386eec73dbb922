#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "checks/diff.h"
#include "checks/metrics.h"
#include "weighbridge/compare.h"

namespace weighbridge {
namespace {

TensorDifference DifferenceOf(const ResultRow& row) {
  return {row.hf[0].name, row.metrics.max_diff, row.metrics, row.why};
}

// NaN is the worst.
bool Worse(const TensorDifference& a, const TensorDifference& b) {
  if (std::isnan(a.max_diff) != std::isnan(b.max_diff)) return std::isnan(a.max_diff);
  if (a.max_diff != b.max_diff && !std::isnan(a.max_diff)) return a.max_diff > b.max_diff;
  return a.name < b.name;
}

void Take(const ResultRow& row, StateDictComparison& out) {
  if (row.status == RowStatus::kSkipped) return;
  if (row.status == RowStatus::kMissing) {
    out.missing.push_back(row.hf[0].name);
    return;
  }
  if (row.status == RowStatus::kExtra) {
    out.extra.push_back(row.megatron.name);
    return;
  }
  if (row.hf[0].shape != row.megatron.shape) {
    out.shape_mismatches.push_back(DifferenceOf(row));
    return;
  }
  ++out.compared;
  if (row.hf[0].dtype != row.megatron.dtype) out.dtype_mismatches.push_back(DifferenceOf(row));
  if (Passed(row.status)) {
    ++out.matched;
  } else {
    out.differences.push_back(DifferenceOf(row));
  }
}

std::string Number(double value) {
  return std::isnan(value) ? "not a number" : fmt::format("{:.6g}", value);
}

std::string Summarize(const StateDictComparison& c, bool bitwise) {
  if (c.compared == 0 && c.missing.empty() && c.extra.empty() && c.shape_mismatches.empty()) {
    return "Nothing was compared.";
  }
  if (c.equal) {
    if (!bitwise) return fmt::format("All {} parameters match within the tolerance.", c.compared);
    std::string text = fmt::format("All {} parameters match exactly.", c.compared);
    if (!c.dtype_mismatches.empty()) {
      text += fmt::format("\n{} of them in another dtype.", c.dtype_mismatches.size());
    }
    return text;
  }
  std::string text = fmt::format("{} of {} compared parameters match.", c.matched, c.compared);
  const auto line = [&](size_t n, const char* what, const std::string& first) {
    if (n > 0) text += fmt::format("\n{} {}, first {}", n, what, first);
  };
  line(c.missing.size(), "missing", c.missing.empty() ? "" : c.missing[0]);
  line(c.extra.size(), "extra", c.extra.empty() ? "" : c.extra[0]);
  if (!c.shape_mismatches.empty()) {
    line(c.shape_mismatches.size(), "of another shape",
         c.shape_mismatches[0].name + ": " + c.shape_mismatches[0].message);
  }
  if (!c.differences.empty()) {
    text += fmt::format("\n{} with other values, largest max_diff {} in {}", c.differences.size(),
                        Number(c.differences[0].max_diff), c.differences[0].name);
  }
  return text;
}

}  // namespace

TensorComparison CompareTensors(const TensorView& expected, const TensorView& actual,
                                const CompareOptions& options) {
  TensorComparison out;
  out.shapes_match = expected.shape == actual.shape;
  out.dtypes_match = expected.dtype == actual.dtype;
  if (!out.shapes_match) {
    out.message =
        fmt::format("shape {} against {}", ToString(expected.shape), ToString(actual.shape));
    return out;
  }
  const ElementStats stats =
      CompareElements(expected, actual, {options.atol, options.rtol}, options.threads);
  out.metrics = ToMetrics(stats);
  out.equal = stats.mismatched == 0;
  if (out.equal) {
    out.message = options.atol == 0 && options.rtol == 0 ? "equal" : "equal within the tolerance";
    return out;
  }
  const FirstDifference first = DescribePair("", expected, "", actual, stats.first_mismatch);
  out.first_index = first.hf_index;
  out.first_expected = first.expected;
  out.first_actual = first.actual;
  out.message = fmt::format("{} of {} values differ, max_diff {}; first at {}: {} against {}",
                            stats.mismatched, stats.elements, Number(out.metrics.max_diff),
                            ToString(first.hf_index), first.expected, first.actual);
  return out;
}

StateDictComparison CompareStateDicts(const Checkpoint& expected, const Checkpoint& actual,
                                      const CompareOptions& options) {
  DiffOptions diff;
  diff.tolerance = {options.atol, options.rtol};
  diff.threads = options.threads;
  diff.allow_skip = options.ignore;
  const Report report = Diff(expected, actual, diff);
  StateDictComparison out;
  for (const ResultRow& row : report.results) Take(row, out);
  std::sort(out.differences.begin(), out.differences.end(), Worse);
  out.equal = out.compared > 0 && out.matched == out.compared && out.missing.empty() &&
              out.extra.empty() && out.shape_mismatches.empty();
  out.summary = Summarize(out, diff.tolerance.bitwise());
  return out;
}

}  // namespace weighbridge
