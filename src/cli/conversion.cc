#include "cli/conversion.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/memory.h"
#include "base/strings.h"
#include "cli/version_text.h"
#include "report/output_file.h"

namespace weighbridge::cli {
namespace {

std::string Text(const Conversion& done) {
  std::string text = fmt::format(
      "{}: {} of {}\n  {} tensors, {} in {} file{}, {} ({}/s){}, peak anonymous memory {}\n",
      done.target, done.format, done.source, done.tensors, FormatBytes(done.bytes), done.files,
      done.files == 1 ? "" : "s", FormatDuration(done.seconds),
      FormatBytes(
          static_cast<uint64_t>(static_cast<double>(done.bytes) / std::max(done.seconds, 1e-9))),
      done.read_back ? ", read back and equal" : ", not read back",
      FormatBytes(PeakAnonymousBytes()));
  if (!done.copied.empty()) text += fmt::format("  other files copied: {}\n", done.copied.size());
  return text + fmt::format("next: {}\n", done.next);
}

std::string Json(const Conversion& done) {
  nlohmann::ordered_json out;
  out["schema"] = "weighbridge.conversion/1";
  out["command"] = done.command;
  out["source"] = done.source;
  out["path"] = done.target;
  out["family"] = done.family;
  out["format"] = done.format;
  out["tensors"] = done.tensors;
  out["files"] = done.files;
  out["bytes"] = done.bytes;
  out["wall_s"] = done.seconds;
  out["read_back"] = done.read_back;
  out["copied"] = done.copied;
  out["notes"] = done.notes;
  out["memory"] = {{"peak_anonymous_bytes", PeakAnonymousBytes()}};
  out["version"] = VersionText();
  return out.dump(2) + "\n";
}

void PrintNotes(const Conversion& done) {
  for (const std::string& note : done.notes) fmt::print(stderr, "note: {}\n", note);
  if (done.published.kind == PublishKind::kReplaced) {
    fmt::print(stderr,
               "note: this file system cannot exchange folders: {} was absent for a moment\n",
               done.target);
  }
  if (done.published.left_behind) {
    fmt::print(stderr, "note: the old content could not be removed: {}\n",
               done.published.left_behind->string());
  }
}

}  // namespace

void AddConversionOutput(CLI::App& command, ConversionOutput& output) {
  command.add_option("--json", output.json, "write what was made as JSON to FILE, - for stdout")
      ->type_name("FILE")
      ->group("Output");
  command.add_flag("-q,--quiet", output.quiet, "print nothing but errors")->group("Output");
}

Status CheckConversionOutput(const ConversionOutput& output, const CommandInputs& inputs) {
  if (output.json.empty() || output.json == "-") return {};
  WB_RETURN_IF_ERROR(CheckOutputFile(output.json));
  return CheckOutputsSpareInputs(std::array{NamedOutput{"--json", output.json}}, inputs);
}

int PrintConversion(const Conversion& done, const ConversionOutput& output) {
  if (!output.quiet) PrintNotes(done);
  int status = 0;
  if (!output.json.empty() && output.json != "-") {
    const Status written =
        WriteOutputFile(output.json, [&](const Sink& sink) { sink(Json(done)); });
    if (!written) status = PrintError(written.error());
  }
  if (output.json == "-") return PrintStdout(Json(done));
  return output.quiet ? status : std::max(status, PrintStdout(Text(done)));
}

}  // namespace weighbridge::cli
