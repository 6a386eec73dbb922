#include "report/read_json.h"

#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/strings.h"
#include "report/json.h"
#include "report/rows.h"

namespace weighbridge {
namespace {

// Not ordered_json, which looks up members one by one: a hostile object would take forever.
using Json = nlohmann::json;

// Reads fields and keeps the first thing that is wrong; afterwards everything reads as a default.
class FieldReader {
 public:
  bool failed() const { return !what_.empty(); }
  const std::string& what() const { return what_; }
  void Complain(std::string what) {
    if (what_.empty()) what_ = std::move(what);
  }

  // The member, or nullptr when it is absent or null.
  const Json* Find(const Json& object, const char* key) {
    if (!object.is_object()) {
      Complain(fmt::format("an object with '{}' is expected", key));
      return nullptr;
    }
    const auto it = object.find(key);
    return it == object.end() || it->is_null() ? nullptr : &*it;
  }

  std::string String(const Json& object, const char* key, bool required = true) {
    const Json* value = Find(object, key);
    if (value == nullptr && !required) return "";
    if (value == nullptr || !value->is_string()) {
      Complain(fmt::format("'{}' is not a string", key));
      return "";
    }
    return value->get<std::string>();
  }

  // Absent or null reads as NaN, which is written as null again.
  double Number(const Json& object, const char* key) {
    const Json* value = Find(object, key);
    if (value == nullptr) return std::numeric_limits<double>::quiet_NaN();
    if (!value->is_number()) Complain(fmt::format("'{}' is not a number", key));
    return value->is_number() ? value->get<double>() : 0;
  }

  // A count: an integer from 0 on that fits `int64_t`. Absent or null reads as 0.
  int64_t Count(const Json& object, const char* key) {
    const Json* value = Find(object, key);
    if (value == nullptr) return 0;
    const uint64_t n = value->is_number_unsigned() ? value->get<uint64_t>() : UINT64_MAX;
    if (n > static_cast<uint64_t>(INT64_MAX)) {
      Complain(fmt::format("'{}' is not a count", key));
      return 0;
    }
    return static_cast<int64_t>(n);
  }

  uint64_t Unsigned(const Json& object, const char* key) {
    const Json* value = Find(object, key);
    if (value == nullptr) return 0;
    if (!value->is_number_unsigned()) Complain(fmt::format("'{}' is not a number from 0 on", key));
    return value->is_number_unsigned() ? value->get<uint64_t>() : 0;
  }

  std::vector<int64_t> Integers(const Json& object, const char* key) {
    std::vector<int64_t> values;
    ForEach(object, key, [&](const Json& value) {
      const bool fits = value.is_number_unsigned() && value.get<uint64_t>() <= INT64_MAX;
      if (!fits)
        return Complain(fmt::format("'{}' holds something that is no index or extent", key));
      values.push_back(value.get<int64_t>());
    });
    return values;
  }

  std::vector<std::string> Strings(const Json& object, const char* key) {
    std::vector<std::string> values;
    ForEach(object, key, [&](const Json& value) {
      if (!value.is_string())
        return Complain(fmt::format("'{}' holds something that is no string", key));
      values.push_back(value.get<std::string>());
    });
    return values;
  }

  // Calls `use` for each element of a list; an absent list is empty.
  template <typename Use>
  void ForEach(const Json& object, const char* key, const Use& use) {
    const Json* list = Find(object, key);
    if (list == nullptr) return;
    if (!list->is_array()) return Complain(fmt::format("'{}' is not a list", key));
    for (const Json& value : *list) {
      if (failed()) return;
      use(value);
    }
  }

  // The value whose ToString is the field's text.
  template <typename Enum, size_t N>
  Enum OneOf(const Json& object, const char* key, const Enum (&values)[N]) {
    const std::string text = String(object, key);
    for (const Enum value : values) {
      if (ToString(value) == text) return value;
    }
    Complain(fmt::format("'{}' has the unknown value '{}'", key, ToPrintable(text).substr(0, 100)));
    return values[0];
  }

 private:
  std::string what_;
};

TensorRef ReadTensor(FieldReader& read, const Json& json) {
  TensorRef tensor;
  tensor.name = read.String(json, "name");
  tensor.shape = read.Integers(json, "shape");
  const std::string dtype = read.String(json, "dtype", /*required=*/false);
  if (!dtype.empty()) {
    tensor.dtype = ParseShortName(dtype);
    if (!tensor.dtype) read.Complain("'dtype' has an unknown value");
  }
  return tensor;
}

int Coordinate(FieldReader& read, const Json& json, const char* key) {
  const int64_t value = read.Count(json, key);
  if (value > std::numeric_limits<int>::max()) read.Complain(fmt::format("'{}' is too large", key));
  return static_cast<int>(value);
}

std::optional<RankId> ReadRank(FieldReader& read, const Json& json) {
  const Json* rank = read.Find(json, "rank");
  if (rank == nullptr) return std::nullopt;
  return RankId{.tp = Coordinate(read, *rank, "tp"),
                .pp = Coordinate(read, *rank, "pp"),
                .vpp = Coordinate(read, *rank, "vpp"),
                .ep = Coordinate(read, *rank, "ep"),
                .etp = Coordinate(read, *rank, "etp")};
}

std::optional<FirstDifference> ReadFirst(FieldReader& read, const Json& row) {
  const Json* json = read.Find(row, "first");
  if (json == nullptr) return std::nullopt;
  FirstDifference first;
  if (const Json* hf = read.Find(*json, "hf")) {
    first.hf_tensor = read.String(*hf, "name");
    first.hf_index = read.Integers(*hf, "index");
  }
  if (const Json* megatron = read.Find(*json, "megatron")) {
    first.megatron_tensor = read.String(*megatron, "name");
    first.rank = ReadRank(read, *megatron);
    first.megatron_index = read.Integers(*megatron, "index");
  }
  first.expected = read.String(*json, "expected");
  first.actual = read.String(*json, "actual");
  return first;
}

std::optional<Xxh3Digest> ReadHash(FieldReader& read, const Json& row) {
  const Json* json = read.Find(row, "xxh3");
  if (json == nullptr) return std::nullopt;
  const auto digest = Xxh3Digest::Parse(read.String(row, "xxh3"));
  if (!digest) read.Complain("'xxh3' is not 32 hex digits");
  return digest;
}

constexpr RowStatus kStatuses[] = {
    RowStatus::kMatch,   RowStatus::kMatchWidened, RowStatus::kMatchRounded, RowStatus::kMismatch,
    RowStatus::kMissing, RowStatus::kExtra,        RowStatus::kSkipped};
constexpr Verdict kVerdicts[] = {Verdict::kPass, Verdict::kFail, Verdict::kUndecided};
constexpr Proof kProofs[] = {Proof::kExact, Proof::kStatistical, Proof::kStructural};
constexpr Origin kOrigins[] = {Origin::kCheckpoint, Origin::kConfig, Origin::kRuntime};

ResultRow ReadRow(FieldReader& read, const Json& json) {
  ResultRow row;
  read.ForEach(json, "hf", [&](const Json& tensor) { row.hf.push_back(ReadTensor(read, tensor)); });
  if (const Json* megatron = read.Find(json, "megatron")) {
    row.megatron = ReadTensor(read, *megatron);
  }
  row.rank = ReadRank(read, json);
  row.status = read.OneOf(json, "status", kStatuses);
  row.transform = read.String(json, "transform");
  row.op = read.String(json, "op");
  row.bytes = read.Unsigned(json, "bytes");
  row.metrics = {.max_diff = read.Number(json, "max_diff"),
                 .mean_diff = read.Number(json, "mean_diff"),
                 .cosine = read.Number(json, "cosine"),
                 .max_relative = read.Number(json, "max_relative"),
                 .max_ulp = read.Unsigned(json, "max_ulp"),
                 .mismatched = read.Count(json, "mismatched"),
                 .nan_count = read.Count(json, "nan_count"),
                 .inf_count = read.Count(json, "inf_count")};
  row.first = ReadFirst(read, json);
  if (const Json* noise = read.Find(json, "noise")) {
    row.noise =
        Noise{read.Number(*noise, "candidate_error"), read.Number(*noise, "reference_error"),
              read.Number(*noise, "ratio"), read.Number(*noise, "max_ratio")};
  }
  row.xxh3 = ReadHash(read, json);
  row.why = read.String(json, "why", /*required=*/false);
  return row;
}

Cause ReadCause(FieldReader& read, const Json& json) {
  Cause cause;
  cause.id = read.String(json, "id");
  cause.proof = read.OneOf(json, "proof", kProofs);
  cause.origin = read.OneOf(json, "origin", kOrigins);
  cause.where = read.Strings(json, "where");
  cause.message = read.String(json, "message");
  cause.evidence = read.String(json, "evidence", /*required=*/false);
  cause.hint = read.String(json, "hint", /*required=*/false);
  return cause;
}

std::optional<Error> ReadError(FieldReader& read, const Json& json) {
  const Json* error = read.Find(json, "error");
  if (error == nullptr) return std::nullopt;
  return Error{ErrorKind::kUsage, read.String(*error, "id"), read.String(*error, "what"),
               read.String(*error, "at", false), read.String(*error, "hint", false)};
}

void ReadReproduce(FieldReader& read, const Json& json, Report& report) {
  const Json* reproduce = read.Find(json, "reproduce");
  if (reproduce == nullptr) return read.Complain("'reproduce' is not there");
  report.argv = read.Strings(*reproduce, "argv");
  report.version = read.String(*reproduce, "version");
  read.ForEach(*reproduce, "inputs", [&](const Json& input) {
    InputFile file{read.String(input, "path"), read.Unsigned(input, "bytes"),
                   read.String(input, "header_xxh3", false), std::nullopt};
    if (read.Find(input, "content_xxh3") != nullptr) {
      file.content_xxh3 = read.String(input, "content_xxh3");
    }
    report.inputs.push_back(std::move(file));
  });
}

void ReadDetails(FieldReader& read, const Json& json, Report& report) {
  const Json* details = read.Find(json, "details");
  if (details == nullptr) return;
  if (!details->is_object()) return read.Complain("'details' is not an object");
  for (const auto& [key, value] : details->items()) {
    if (!value.is_string()) return read.Complain("'details' holds something that is no string");
    report.details.emplace_back(key, value.get<std::string>());
  }
}

void ReadTolerances(FieldReader& read, const Json& json, Report& report) {
  const Json* tolerances = read.Find(json, "tolerances");
  if (tolerances == nullptr) return;
  if (!tolerances->is_object()) return read.Complain("'tolerances' is not an object");
  for (const auto& [key, value] : tolerances->items()) {
    if (!value.is_number()) return read.Complain("'tolerances' holds something that is no number");
    report.tolerances.emplace_back(key, value.get<double>());
  }
}

void ReadTiming(FieldReader& read, const Json& json, Report& report) {
  if (const Json* timing = read.Find(json, "timing")) {
    const double wall_s = read.Number(*timing, "wall_s");
    report.wall_s = wall_s >= 0 ? wall_s : 0;
    report.bytes = read.Unsigned(*timing, "bytes");
  }
  if (const Json* memory = read.Find(json, "memory")) {
    report.peak_anonymous_bytes = read.Unsigned(*memory, "peak_anonymous_bytes");
  }
}

SelftestCounts ReadSelftestCounts(FieldReader& read, const Json& json) {
  return {read.Count(json, "injected"), read.Count(json, "detected"), read.Count(json, "named"),
          read.Count(json, "strays"), read.Count(json, "inert")};
}

std::vector<SelftestMiss> ReadMisses(FieldReader& read, const Json& json, const char* key) {
  std::vector<SelftestMiss> misses;
  read.ForEach(json, key, [&](const Json& miss) {
    misses.push_back({read.String(miss, "subject"), read.Unsigned(miss, "seed"),
                      read.String(miss, "cause"), read.String(miss, "what"),
                      read.Strings(miss, "found")});
  });
  return misses;
}

std::optional<SelftestFigures> ReadSelftest(FieldReader& read, const Json& report) {
  if (!report.contains("selftest")) return std::nullopt;
  const Json* json = read.Find(report, "selftest");
  if (json == nullptr) return std::nullopt;
  SelftestFigures figures;
  figures.total = ReadSelftestCounts(read, *json);
  figures.clean = read.Count(*json, "clean");
  figures.false_alarms = read.Count(*json, "false_alarms");
  if (const Json* causes = read.Find(*json, "causes"); causes != nullptr && causes->is_object()) {
    for (const auto& [cause, counts] : causes->items()) {
      figures.causes.emplace_back(cause, ReadSelftestCounts(read, counts));
    }
  }
  figures.misses = ReadMisses(read, *json, "misses");
  figures.strays = ReadMisses(read, *json, "stray_reports");
  return figures;
}

Report ReadReport(FieldReader& read, const Json& json) {
  Report report;
  report.command = read.String(json, "command");
  report.level = read.String(json, "level");
  report.verdict = read.OneOf(json, "verdict", kVerdicts);
  report.error = ReadError(read, json);
  if (const Json* counts = read.Find(json, "counts")) {
    report.counts = {.total = read.Count(*counts, "total"),
                     .passed = read.Count(*counts, "passed"),
                     .failed = read.Count(*counts, "failed"),
                     .skipped = read.Count(*counts, "skipped")};
  } else {
    read.Complain("'counts' is not there");
  }
  read.ForEach(json, "causes",
               [&](const Json& cause) { report.causes.push_back(ReadCause(read, cause)); });
  if (json.contains("steps")) {
    read.ForEach(json, "steps", [&](const Json& step) {
      report.steps.push_back({read.String(step, "id"), read.OneOf(step, "outcome", kVerdicts),
                              read.String(step, "message")});
    });
  }
  read.ForEach(json, "notes", [&](const Json& note) {
    report.notes.push_back({read.String(note, "id"), read.String(note, "message")});
  });
  read.ForEach(json, "results",
               [&](const Json& row) { report.results.push_back(ReadRow(read, row)); });
  report.results_omitted = read.Unsigned(json, "results_omitted");
  report.selftest = ReadSelftest(read, json);
  report.unproven = read.Strings(json, "unproven");
  ReadDetails(read, json, report);
  ReadTolerances(read, json, report);
  ReadTiming(read, json, report);
  ReadReproduce(read, json, report);
  return report;
}

// "" for a report that could be true.
std::string Contradiction(const Report& report) {
  const Counts& c = report.counts;
  // Each is at most INT64_MAX; the sum is taken in a type that holds three of them.
  const uint64_t sum = static_cast<uint64_t>(c.passed) + static_cast<uint64_t>(c.skipped);
  if (sum > INT64_MAX || sum + static_cast<uint64_t>(c.failed) != static_cast<uint64_t>(c.total)) {
    return "passed, failed and skipped do not add up to total";
  }
  Counts rows;
  for (const ResultRow& row : report.results) {
    ++(Passed(row.status) ? rows.passed : Failed(row) ? rows.failed : rows.skipped);
  }
  const bool complete = report.results_omitted == 0;
  const bool fits =
      complete ? rows.passed == c.passed && rows.failed == c.failed && rows.skipped == c.skipped
               : rows.passed <= c.passed && rows.failed <= c.failed && rows.skipped <= c.skipped;
  if (!fits) return "the counts do not fit the results";
  if (report.verdict == Verdict::kPass && (c.failed > 0 || c.passed == 0)) {
    return "the verdict is 'pass' with failed results or with none that passed";
  }
  if ((report.verdict == Verdict::kFail) == report.causes.empty()) {
    return "causes are there exactly when the verdict is 'fail', but not in this report";
  }
  return "";
}

// The text between the tags of the script element that holds the report.
std::string_view EmbeddedJson(std::string_view page) {
  constexpr std::string_view kTag = "<script type=\"application/json\" id=\"weighbridge-report\">";
  const size_t tag = page.find(kTag);
  if (tag == std::string_view::npos) return page;
  const std::string_view rest = page.substr(tag + kTag.size());
  return rest.substr(0, rest.find("</script>"));
}

tl::unexpected<Error> Bad(std::string what, const std::string& source) {
  return Fail(ErrorKind::kInvalid, "report-invalid", std::move(what), source,
              "give a file that --json or --html wrote");
}

}  // namespace

Result<Report> ParseReport(std::string_view text, const std::string& source) {
  if (text.starts_with("<!doctype html>")) text = EmbeddedJson(text);
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return Bad("the file is not JSON", source);
  FieldReader read;
  const std::string schema = read.String(json, "schema");
  if (read.failed() || schema != kReportSchema) {
    return Bad(fmt::format("not a report: expected the schema '{}', found '{}'", kReportSchema,
                           ToPrintable(schema).substr(0, 100)),
               source);
  }
  Report report = ReadReport(read, json);
  if (read.failed()) return Bad("not a valid report: " + read.what(), source);
  if (const std::string wrong = Contradiction(report); !wrong.empty()) {
    return Bad("the report contradicts itself: " + wrong, source);
  }
  return report;
}

Result<Report> ReadReportFile(const std::filesystem::path& path) {
  WB_TRY(const std::string text, ReadTextFile(path, uint64_t{1} << 30));
  return ParseReport(text, path.string());
}

}  // namespace weighbridge
