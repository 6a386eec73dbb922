#include "report/card.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <filesystem>
#include <set>
#include <string>

#include "base/strings.h"
#include "report/rows.h"

namespace weighbridge {
namespace {

void Put(YAML::Emitter& out, const char* key, const std::string& value) {
  out << YAML::Key << key << YAML::Value << YAML::DoubleQuoted << ToValidUtf8(value);
}

void PutNull(YAML::Emitter& out, const char* key) {
  out << YAML::Key << key << YAML::Value << YAML::Null;
}

void PutList(YAML::Emitter& out, const char* key, const std::vector<std::string>& values) {
  out << YAML::Key << key << YAML::Value;
  if (values.empty()) out << YAML::Flow;
  out << YAML::BeginSeq;
  for (const std::string& value : values) out << YAML::DoubleQuoted << ToValidUtf8(value);
  out << YAML::EndSeq;
}

std::string Detail(const Report& report, std::string_view key) {
  for (const auto& [name, value] : report.details) {
    if (name == key) return value;
  }
  return "";
}

// The model as it was named on the command line, else the folder of the first input.
std::string ModelName(const Report& report) {
  if (const std::string named = Detail(report, "model"); !named.empty()) return named;
  for (size_t i = 2; i < report.argv.size(); ++i) {
    if (!report.argv[i].starts_with('-')) return report.argv[i];
  }
  if (report.inputs.empty()) return report.command;
  return std::filesystem::path(report.inputs[0].path).parent_path().string();
}

// "bf16", "bf16, fp32": the dtypes of the source's tensors.
std::string Precision(const Report& report) {
  std::set<std::string> names;
  for (const ResultRow& row : report.results) {
    for (const TensorRef& tensor : row.hf) {
      if (tensor.dtype) names.emplace(ShortName(*tensor.dtype));
    }
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string Expected(const Report& report) {
  const Counts& c = report.counts;
  std::string text = fmt::format("{} passed, {} failed, {} skipped of {} results", c.passed,
                                 c.failed, c.skipped, c.total);
  if (report.verdict == Verdict::kUndecided && report.error) text += "; " + report.error->what;
  return text;
}

void PutCauses(YAML::Emitter& out, const Report& report) {
  out << YAML::Key << "causes" << YAML::Value;
  if (report.causes.empty()) out << YAML::Flow;
  out << YAML::BeginSeq;
  for (const Cause& cause : report.causes) {
    out << YAML::BeginMap;
    Put(out, "id", cause.id);
    Put(out, "proof", std::string(ToString(cause.proof)));
    Put(out, "origin", std::string(ToString(cause.origin)));
    PutList(out, "where", cause.where);
    Put(out, "message", cause.message);
    Put(out, "evidence", cause.evidence);
    Put(out, "hint", cause.hint);
    out << YAML::EndMap;
  }
  out << YAML::EndSeq;
}

void PutItem(YAML::Emitter& out, const Report& report) {
  out << YAML::Key << "weighbridge_" + report.command << YAML::Value << YAML::BeginMap;
  Put(out, "status", report.verdict == Verdict::kPass ? "verified" : "unverified");
  Put(out, "command", CommandLine(report.argv));
  PutNull(out, "last_verified");
  Put(out, "expected_result", Expected(report));
  Put(out, "level", report.level);
  Put(out, "verdict", std::string(ToString(report.verdict)));
  out << YAML::Key << "counts" << YAML::Value << YAML::BeginMap;
  out << YAML::Key << "total" << YAML::Value << report.counts.total;
  out << YAML::Key << "passed" << YAML::Value << report.counts.passed;
  out << YAML::Key << "failed" << YAML::Value << report.counts.failed;
  out << YAML::Key << "skipped" << YAML::Value << report.counts.skipped;
  out << YAML::EndMap;
  PutCauses(out, report);
  std::vector<std::string> steps;
  for (const WorkflowStep& step : report.steps) {
    steps.push_back(fmt::format("{}: {}: {}", step.id, ToString(step.outcome), step.message));
  }
  PutList(out, "steps", steps);
  PutList(out, "unproven", report.unproven);
  std::vector<std::string> notes;
  for (const Note& note : report.notes) notes.push_back(note.id + ": " + note.message);
  PutList(out, "notes", notes);
  out << YAML::EndMap;
}

void PutEnvironment(YAML::Emitter& out, const Report& report) {
  out << YAML::Key << "environment" << YAML::Value << YAML::BeginMap;
  Put(out, "weighbridge", report.version);
  for (const auto& [key, value] : report.details) {
    out << YAML::Key << YAML::DoubleQuoted << ToValidUtf8(key) << YAML::Value << YAML::DoubleQuoted
        << ToValidUtf8(value);
  }
  out << YAML::EndMap;
  out << YAML::Key << "inputs" << YAML::Value;
  if (report.inputs.empty()) out << YAML::Flow;
  out << YAML::BeginSeq;
  for (const InputFile& input : report.inputs) {
    out << YAML::BeginMap;
    Put(out, "path", input.path);
    out << YAML::Key << "bytes" << YAML::Value << input.bytes;
    Put(out, "header_xxh3", input.header_xxh3);
    if (input.content_xxh3) {
      Put(out, "content_xxh3", *input.content_xxh3);
    } else {
      PutNull(out, "content_xxh3");
    }
    out << YAML::EndMap;
  }
  out << YAML::EndSeq;
}

}  // namespace

void WriteCard(const Report& report, const Sink& sink) {
  const std::string model = ModelName(report);
  YAML::Emitter out;
  out << YAML::Comment(
      "Verification card written by weighbridge. Only what `items` names was verified.");
  out << YAML::BeginMap;
  Put(out, "title", std::filesystem::path(model).filename().string());
  out << YAML::Key << "model" << YAML::Value << YAML::BeginMap;
  Put(out, "hf_id", model);
  PutNull(out, "hf_revision");
  const std::string architecture = Detail(report, "architecture");
  Put(out, "architecture", architecture.empty() ? Detail(report, "family") : architecture);
  out << YAML::EndMap;
  Put(out, "precision", Precision(report));
  Put(out, "summary",
      fmt::format("weighbridge {} ({}): {}", report.command, report.level,
                  VerdictWord(report.verdict)));
  out << YAML::Key << "items" << YAML::Value << YAML::BeginMap;
  PutItem(out, report);
  out << YAML::EndMap;
  PutEnvironment(out, report);
  out << YAML::EndMap;
  sink(out.c_str());
  sink("\n");
}

}  // namespace weighbridge
