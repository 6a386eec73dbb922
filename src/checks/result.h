// The structs that every check yields and every report renders (DESIGN §3;
// docs/report.schema.json). Plain values; nothing here does I/O.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "base/result.h"
#include "tensor/tensor.h"

namespace weighbridge {

enum class Verdict { kPass, kFail, kUndecided };
enum class RowStatus {
  kMatch,
  kMatchWidened,
  kMatchRounded,
  kMismatch,
  kMissing,
  kExtra,
  kSkipped
};
enum class Proof { kExact, kStatistical, kStructural };
enum class Origin { kCheckpoint, kConfig, kRuntime };

std::string_view ToString(Verdict verdict);   // "pass", "fail", "undecided"
std::string_view ToString(RowStatus status);  // "match", "match-widened", ...
std::string_view ToString(Proof proof);
std::string_view ToString(Origin origin);
bool Passed(RowStatus status);  // match, match-widened, match-rounded

struct TensorRef {
  std::string name;
  Shape shape;
  std::optional<DType> dtype;  // nullopt: not known (the tensor is absent)
};

// Where a rank stands in the parallel grid, each counted from 0.
struct RankId {
  int tp = 0, pp = 0, vpp = 0, ep = 0, etp = 0;
  auto operator<=>(const RankId&) const = default;
};

// The first element that differs, in both vocabularies.
struct FirstDifference {
  std::string hf_tensor;
  std::vector<int64_t> hf_index;
  std::string megatron_tensor;
  std::optional<RankId> rank;
  std::vector<int64_t> megatron_index;  // in the rank's tensor when `rank` is set
  std::string expected, actual;         // decimal and, for floats, the bits: "0.5 (0x3f00)"
};

// max_diff and so on are in float64; a value that is not finite is written as null.
struct Metrics {
  double max_diff = 0, mean_diff = 0, cosine = 1, max_relative = 0;
  uint64_t max_ulp = 0;
  int64_t mismatched = 0, nan_count = 0, inf_count = 0;
};

// How wrong a computed result is beside how wrong the reference is itself, against float64: RMS of
// both errors, their ratio, and the ratio of the largest ones.
struct Noise {
  double candidate = 0, reference = 0, ratio = 0, max_ratio = 0;
};

// Of values that were never looked at: not a number, which a report writes as null.
Metrics NotCompared();

// An optional value that costs one pointer where there is none: a report may have a million rows,
// and few of them have a first difference.
template <typename T>
class Boxed {
 public:
  Boxed() = default;
  Boxed(std::nullopt_t) {}
  Boxed(T value) : value_(std::make_unique<T>(std::move(value))) {}
  Boxed(std::optional<T> value) {
    if (value) value_ = std::make_unique<T>(*std::move(value));
  }
  Boxed(const Boxed& other) : value_(other ? std::make_unique<T>(*other) : nullptr) {}
  Boxed(Boxed&&) noexcept = default;
  Boxed& operator=(Boxed other) noexcept {
    value_ = std::move(other.value_);
    return *this;
  }
  bool has_value() const { return value_ != nullptr; }
  explicit operator bool() const { return has_value(); }
  const T& operator*() const { return *value_; }
  const T* operator->() const { return value_.get(); }
  T* operator->() { return value_.get(); }

 private:
  std::unique_ptr<T> value_;
};

struct ResultRow {
  std::vector<TensorRef> hf;
  TensorRef megatron;
  std::optional<RankId> rank;
  RowStatus status = RowStatus::kMatch;
  std::string transform = "identity", op = "none";
  uint64_t bytes = 0;
  Metrics metrics;
  Boxed<FirstDifference> first;
  Boxed<Noise> noise;      // of what a model computed (L2)
  Boxed<Xxh3Digest> xxh3;  // of the tensor that was judged, where a hash was asked for
  std::string why;         // the reason of a skip, a mismatch, an absence
};

struct Cause {
  std::string id;  // docs/causes.md
  Proof proof = Proof::kStructural;
  Origin origin = Origin::kCheckpoint;
  std::vector<std::string> where;
  std::string message, evidence, hint;
};

struct Note {
  std::string id, message;
};

// One step of a workflow (`diagnose`), and what came of it; kUndecided: it could not be done.
struct WorkflowStep {
  std::string id;
  Verdict outcome = Verdict::kUndecided;
  std::string message;
};

struct Counts {
  int64_t total = 0, passed = 0, failed = 0, skipped = 0;
};

// What `selftest` did with one cause, or with all of them.
struct SelftestCounts {
  int64_t injected = 0, detected = 0, named = 0;
  int64_t strays = 0;  // reports that name something besides what was injected
  int64_t inert = 0;   // injections that changed nothing, which are not counted as injected
};

// A fault that was not named, not even detected, or not by itself.
struct SelftestMiss {
  std::string subject;  // the family
  uint64_t seed = 0;
  std::string cause, what;
  std::vector<std::string> found;  // the causes of the report instead
};

struct SelftestFigures {
  SelftestCounts total;
  int64_t clean = 0, false_alarms = 0;  // pairs without a fault, and how many of them failed
  std::vector<std::pair<std::string, SelftestCounts>> causes;  // by id
  std::vector<SelftestMiss> misses;
  std::vector<SelftestMiss> strays;  // `found`: what was named besides
};

struct InputFile {
  std::string path;
  uint64_t bytes = 0;
  std::string header_xxh3;
  std::optional<std::string> content_xxh3;
};

struct Report {
  std::string command;
  std::string level;  // "L0", "L1"
  Verdict verdict = Verdict::kUndecided;
  std::optional<Error> error;  // only when undecided
  Counts counts;
  std::vector<Cause> causes;        // non-empty exactly when the verdict is kFail
  std::vector<WorkflowStep> steps;  // in order; empty where a command has none
  std::vector<Note> notes;
  std::vector<ResultRow> results;
  std::vector<std::string> unproven;
  std::vector<std::pair<std::string, double>> tolerances;    // "atol", "rtol": what was accepted
  std::vector<std::pair<std::string, std::string>> details;  // grid, family, ...: shown, not judged
  double wall_s = 0;
  uint64_t bytes = 0;
  uint64_t peak_anonymous_bytes = 0;
  std::vector<std::string> argv;
  std::string version;  // of the program that made the report; cli::Emit fills it
  std::vector<InputFile> inputs;
  std::optional<SelftestFigures> selftest;  // of `selftest` only
  // Rows that `counts` counts and `results` leaves out: only in a report read back from a capped
  // copy.
  uint64_t results_omitted = 0;
};

// Adds a cause; what has the id of one that is there is the same mistake in more places.
void AddCause(Cause cause, Report& report);

// Counts the rows and sets the verdict: kFail with a cause or a failed row, kPass when at least one
// row with an element passed and none failed, else kUndecided with error "nothing-compared" (a
// check of nothing never passes). A failed row without any cause adds the cause `unexplained`.
void Conclude(Report& report);

// The exit status that DESIGN §2 promises: 0 pass, 1 fail, 2 undecided.
int ExitStatus(const Report& report);

}  // namespace weighbridge
