#include "report/json.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "report/rows.h"

namespace weighbridge {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json ToJson(const TensorRef& tensor) {
  return {{"name", tensor.name},
          {"shape", tensor.shape},
          {"dtype", tensor.dtype ? Json(ShortName(*tensor.dtype)) : Json()}};
}

Json ToJson(const std::optional<RankId>& rank) {
  if (!rank) return nullptr;
  return {
      {"tp", rank->tp}, {"pp", rank->pp}, {"vpp", rank->vpp}, {"ep", rank->ep}, {"etp", rank->etp}};
}

Json ToJson(const FirstDifference& first) {
  return {{"hf", {{"name", first.hf_tensor}, {"index", first.hf_index}}},
          {"megatron",
           {{"name", first.megatron_tensor},
            {"rank", ToJson(first.rank)},
            {"index", first.megatron_index}}},
          {"expected", first.expected},
          {"actual", first.actual}};
}

void AddMetrics(const ResultRow& row, Json& json) {
  const Metrics& m = row.metrics;
  const bool known = HasMetrics(row);
  const auto put = [&](const char* key, const Json& value) { json[key] = known ? value : Json(); };
  // The library writes NaN and infinity as null.
  put("max_diff", m.max_diff);
  put("mean_diff", m.mean_diff);
  put("cosine", m.cosine);
  put("max_relative", m.max_relative);
  put("max_ulp", m.max_ulp);
  put("mismatched", m.mismatched);
  put("nan_count", m.nan_count);
  put("inf_count", m.inf_count);
}

Json ToJson(const ResultRow& row) {
  Json json;
  json["hf"] = Json::array();
  for (const TensorRef& tensor : row.hf) json["hf"].push_back(ToJson(tensor));
  json["megatron"] = ToJson(row.megatron);
  json["rank"] = ToJson(row.rank);
  json["status"] = ToString(row.status);
  json["transform"] = row.transform;
  json["op"] = row.op;
  json["bytes"] = row.bytes;
  AddMetrics(row, json);
  json["first"] = row.first ? ToJson(*row.first) : Json();
  if (row.noise) {
    json["noise"] = {{"candidate_error", row.noise->candidate},
                     {"reference_error", row.noise->reference},
                     {"ratio", row.noise->ratio},
                     {"max_ratio", row.noise->max_ratio}};
  }
  if (row.xxh3) json["xxh3"] = row.xxh3->Hex();
  json["why"] = row.why;
  return json;
}

Json ToJson(const Cause& cause) {
  return {
      {"id", cause.id},       {"proof", ToString(cause.proof)}, {"origin", ToString(cause.origin)},
      {"where", cause.where}, {"message", cause.message},       {"evidence", cause.evidence},
      {"hint", cause.hint}};
}

Json ToJson(const Error& error) {
  return {{"id", error.id}, {"what", error.what}, {"at", error.at}, {"hint", error.hint}};
}

Json ToJson(const Counts& counts) {
  return {{"total", counts.total},
          {"passed", counts.passed},
          {"failed", counts.failed},
          {"skipped", counts.skipped}};
}

Json Reproduce(const Report& report) {
  Json inputs = Json::array();
  for (const InputFile& input : report.inputs) {
    inputs.push_back({{"path", input.path},
                      {"bytes", input.bytes},
                      {"header_xxh3", input.header_xxh3},
                      {"content_xxh3", input.content_xxh3 ? Json(*input.content_xxh3) : Json()}});
  }
  return {{"argv", report.argv}, {"version", report.version}, {"inputs", inputs}};
}

Json Timing(const Report& report) {
  const double speed =
      report.wall_s > 0 ? static_cast<double>(report.bytes) / report.wall_s / 1e9 : 0;
  return {{"wall_s", report.wall_s}, {"bytes", report.bytes}, {"gb_per_s", speed}};
}

Json ToJson(const SelftestCounts& counts) {
  return {{"injected", counts.injected},
          {"detected", counts.detected},
          {"named", counts.named},
          {"strays", counts.strays},
          {"inert", counts.inert}};
}

Json ToJson(const std::vector<SelftestMiss>& misses) {
  Json json = Json::array();
  for (const SelftestMiss& miss : misses) {
    json.push_back({{"subject", miss.subject},
                    {"seed", miss.seed},
                    {"cause", miss.cause},
                    {"what", miss.what},
                    {"found", miss.found}});
  }
  return json;
}

Json ToJson(const SelftestFigures& figures) {
  Json json = ToJson(figures.total);
  json["clean"] = figures.clean;
  json["false_alarms"] = figures.false_alarms;
  json["causes"] = Json::object();
  for (const auto& [cause, counts] : figures.causes) json["causes"][cause] = ToJson(counts);
  json["misses"] = ToJson(figures.misses);
  json["stray_reports"] = ToJson(figures.strays);
  return json;
}

// Writes the members of one object in order; a list's elements go one per line.
class ObjectWriter {
 public:
  explicit ObjectWriter(const Sink& sink) : sink_(sink) { sink_("{"); }

  void Member(std::string_view key, const Json& value) {
    Key(key);
    sink_(Dump(value));
  }

  void BeginList(std::string_view key) {
    Key(key);
    sink_("[");
    elements_ = 0;
  }
  void Element(const Json& value) {
    sink_(elements_++ == 0 ? "\n" : ",\n");
    sink_(Dump(value));
  }
  void EndList() { sink_(elements_ == 0 ? "]" : "\n]"); }

  void End() { sink_("\n}\n"); }

 private:
  void Key(std::string_view key) {
    sink_(members_++ == 0 ? "\n" : ",\n");
    sink_(Dump(Json(key)));
    sink_(": ");
  }

  const Sink& sink_;
  size_t members_ = 0;
  size_t elements_ = 0;
};

void WriteResults(const Report& report, const JsonOptions& options, ObjectWriter& writer) {
  const size_t rows = report.results.size();
  const bool capped = options.max_results > 0 && rows > options.max_results;
  writer.BeginList("results");
  if (capped) {
    const std::vector<size_t> order = RowsWorstFirst(report);
    for (size_t i = 0; i < options.max_results; ++i) {
      writer.Element(ToJson(report.results[order[i]]));
    }
  } else {
    for (const ResultRow& row : report.results) writer.Element(ToJson(row));
  }
  writer.EndList();
  const uint64_t omitted = report.results_omitted + (capped ? rows - options.max_results : 0);
  if (omitted > 0) writer.Member("results_omitted", omitted);
}

}  // namespace

std::string RowJson(const ResultRow& row) { return Dump(ToJson(row)); }

void WriteJson(const Report& report, const Sink& sink, const JsonOptions& options) {
  ObjectWriter writer(sink);
  writer.Member("schema", kReportSchema);
  writer.Member("command", report.command);
  writer.Member("level", report.level);
  writer.Member("verdict", ToString(report.verdict));
  if (report.verdict == Verdict::kUndecided && report.error) {
    writer.Member("error", ToJson(*report.error));
  }
  writer.Member("counts", ToJson(report.counts));
  writer.BeginList("causes");
  for (const Cause& cause : report.causes) writer.Element(ToJson(cause));
  writer.EndList();
  if (!report.steps.empty()) {
    writer.BeginList("steps");
    for (const WorkflowStep& step : report.steps) {
      writer.Element(
          {{"id", step.id}, {"outcome", ToString(step.outcome)}, {"message", step.message}});
    }
    writer.EndList();
  }
  writer.BeginList("notes");
  for (const Note& note : report.notes) {
    writer.Element({{"id", note.id}, {"message", note.message}});
  }
  writer.EndList();
  WriteResults(report, options, writer);
  if (report.selftest) writer.Member("selftest", ToJson(*report.selftest));
  writer.Member("unproven", report.unproven);
  Json details = Json::object();
  for (const auto& [key, value] : report.details) details[key] = value;
  writer.Member("details", details);
  Json tolerances = Json::object();
  for (const auto& [key, value] : report.tolerances) tolerances[key] = value;
  writer.Member("tolerances", tolerances);
  writer.Member("timing", Timing(report));
  writer.Member("memory", {{"peak_anonymous_bytes", report.peak_anonymous_bytes}});
  writer.Member("reproduce", Reproduce(report));
  writer.End();
}

}  // namespace weighbridge
