#include "checks/result.h"

#include <algorithm>
#include <limits>

namespace weighbridge {

std::string_view ToString(Verdict verdict) {
  switch (verdict) {
    case Verdict::kPass:
      return "pass";
    case Verdict::kFail:
      return "fail";
    case Verdict::kUndecided:
      return "undecided";
  }
  return "";
}

std::string_view ToString(RowStatus status) {
  switch (status) {
    case RowStatus::kMatch:
      return "match";
    case RowStatus::kMatchWidened:
      return "match-widened";
    case RowStatus::kMatchRounded:
      return "match-rounded";
    case RowStatus::kMismatch:
      return "mismatch";
    case RowStatus::kMissing:
      return "missing";
    case RowStatus::kExtra:
      return "extra";
    case RowStatus::kSkipped:
      return "skipped";
  }
  return "";
}

std::string_view ToString(Proof proof) {
  switch (proof) {
    case Proof::kExact:
      return "exact";
    case Proof::kStatistical:
      return "statistical";
    case Proof::kStructural:
      return "structural";
  }
  return "";
}

std::string_view ToString(Origin origin) {
  switch (origin) {
    case Origin::kCheckpoint:
      return "checkpoint";
    case Origin::kConfig:
      return "config";
    case Origin::kRuntime:
      return "runtime";
  }
  return "";
}

Metrics NotCompared() {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  return {.max_diff = kNan, .mean_diff = kNan, .cosine = kNan, .max_relative = kNan};
}

void AddCause(Cause cause, Report& report) {
  for (Cause& known : report.causes) {
    if (known.id != cause.id) continue;
    known.where.insert(known.where.end(), cause.where.begin(), cause.where.end());
    return;
  }
  report.causes.push_back(std::move(cause));
}

bool Passed(RowStatus status) {
  return status == RowStatus::kMatch || status == RowStatus::kMatchWidened ||
         status == RowStatus::kMatchRounded;
}

namespace {

// Whether the row is about at least one value.
bool HasElements(const ResultRow& row) {
  const TensorRef& tensor = row.hf.empty() ? row.megatron : row.hf[0];
  return std::find(tensor.shape.begin(), tensor.shape.end(), 0) == tensor.shape.end();
}

}  // namespace

void Conclude(Report& report) {
  Counts counts;
  bool elements = false;
  std::vector<std::string> failed;
  for (const ResultRow& row : report.results) {
    ++counts.total;
    if (Passed(row.status)) {
      ++counts.passed;
      elements = elements || HasElements(row);
    } else if (row.status == RowStatus::kSkipped) {
      ++counts.skipped;
    } else {
      ++counts.failed;
      if (failed.size() < 8) {
        failed.push_back(row.megatron.name.empty() && !row.hf.empty() ? row.hf[0].name
                                                                      : row.megatron.name);
      }
    }
  }
  report.counts = counts;
  if (counts.failed > 0 && report.causes.empty()) {
    report.causes.push_back({.id = "unexplained",
                             .proof = Proof::kStructural,
                             .origin = Origin::kCheckpoint,
                             .where = failed,
                             .message = "tensors differ and no cause was established",
                             .evidence = "",
                             .hint = ""});
  }
  if (!report.causes.empty()) {
    report.verdict = Verdict::kFail;
  } else if (report.error || counts.passed == 0 || !elements) {
    report.verdict = Verdict::kUndecided;
    if (!report.error) {
      report.error = Error{ErrorKind::kUsage, "nothing-compared",
                           counts.passed == 0 ? "nothing was compared"
                                              : "nothing was compared: no tensor has an element",
                           "", "a check of nothing never passes; see the skipped rows"};
    }
  } else {
    report.verdict = Verdict::kPass;
  }
}

int ExitStatus(const Report& report) {
  switch (report.verdict) {
    case Verdict::kPass:
      return 0;
    case Verdict::kFail:
      return 1;
    case Verdict::kUndecided:
      return 2;
  }
  return 2;
}

}  // namespace weighbridge
