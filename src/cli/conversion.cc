#include "cli/conversion.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <iterator>
#include <nlohmann/json.hpp>
#include <span>

#include "base/hash.h"
#include "base/memory.h"
#include "base/strings.h"
#include "base/threads.h"
#include "cli/model_input.h"
#include "cli/version_text.h"
#include "report/output_file.h"

namespace weighbridge::cli {
namespace {

namespace fs = std::filesystem;

std::string Text(const Conversion& done) {
  std::string text = fmt::format(
      "{}: {} of {}\n  {} tensors, {} in {} file{}, {} ({}/s){}, peak anonymous memory {}\n",
      done.target, done.format, done.source, done.tensors, FormatBytes(done.bytes), done.files,
      done.files == 1 ? "" : "s", FormatDuration(done.seconds),
      FormatBytes(
          static_cast<uint64_t>(static_cast<double>(done.bytes) / std::max(done.seconds, 1e-9))),
      done.read_back ? ", read back and equal" : ", not read back",
      FormatBytes(PeakAnonymousBytes()));
  if (done.ranks > 1) text += fmt::format("  by {} ranks\n", done.ranks);
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
  out["reused"] = {{"files", done.reused_files}, {"bytes", done.reused_bytes}};
  out["ranks"] = done.ranks;
  out["copied"] = done.copied;
  out["notes"] = done.notes;
  out["left_out"] = nlohmann::ordered_json::array();
  for (const LeftOut& group : done.left_out) {
    out["left_out"].push_back({{"side", group.side},
                               {"pattern", group.pattern},
                               {"why", group.why},
                               {"tensors", group.tensors},
                               {"bytes", group.bytes}});
  }
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

void AddWritingOptions(CLI::App& command, const std::string& what, WritingOptions& options) {
  command.add_flag("--overwrite", options.overwrite, what + "; default: off")->group("Output");
  command
      .add_flag("--discard", options.discard,
                "begin afresh where an earlier start was interrupted; default: go on from it")
      ->group("Output");
  command
      .add_option(
          "--verify", options.verify,
          "page: read back what was written and compare; device: the same, dropped from the "
          "page cache first; none: do not")
      ->check(CLI::IsMember({"page", "device", "none"}))
      ->capture_default_str()
      ->group("Output");
  AddMemoryOption(command, options.memory);
  options.threads = DefaultThreads();
  AddThreadsOption(command, options.threads);
  AddRankOptions(command, options.ranks);
}

std::optional<ReadBackMode> ReadBackOf(const WritingOptions& options) {
  if (options.verify == "none") return std::nullopt;
  return options.verify == "device" ? ReadBackMode::kDevice : ReadBackMode::kPage;
}

Result<SourceFiles> LookAtSources(const std::vector<fs::path>& files,
                                  const std::vector<std::string>& families) {
  std::vector<fs::path> all = files;
  std::copy_if(families.begin(), families.end(), std::back_inserter(all), IsFamilyFile);
  const char* folder = std::getenv("WEIGHBRIDGE_FAMILIES");
  std::error_code error;
  for (fs::directory_iterator it(folder != nullptr ? folder : "", error), end; !error && it != end;
       it.increment(error)) {
    if (it->path().extension() == ".toml") all.push_back(it->path());
  }
  return SourceFiles::Look(all);
}

JobKey KeyOf(const SourceFiles& sources, const std::vector<std::string>& work) {
  Xxh3Stream hash;
  const auto add = [&](const std::string& text) {
    const std::string size = fmt::format("{}\n", text.size());
    hash.Update(std::as_bytes(std::span(size)));
    hash.Update(std::as_bytes(std::span(text)));
  };
  add(VersionText());
  for (const std::string& text : work) add(text);
  return {sources.Key(), hash.Hex()};
}

RankedOutputOptions RankedOptions(const WritingOptions& writing,
                                  std::function<Status(const fs::path&)> may_replace,
                                  uint64_t expected_bytes, JobKey job) {
  return {.publish = {.overwrite = writing.overwrite,
                      .may_replace = std::move(may_replace),
                      .expected_bytes = expected_bytes,
                      .job = std::move(job),
                      .discard = writing.discard},
          .recheck = ReadBackOf(writing),
          .threads = writing.threads};
}

int RunConversion(const WritingOptions& writing, const fs::path& target,
                  const ConversionOutput& output,
                  const std::function<Result<Conversion>(Coordinator&)>& make) {
  const fs::path name = target.has_filename() ? target : target.parent_path();
  return RunRanks(writing.ranks, name.string() + ".ranks", [&](Coordinator& ranks) -> Result<int> {
    const Result<Conversion> done = make(ranks);
    if (!done) return Fail(JudgeConfigError(done.error()));
    return ranks.first() ? PrintConversion(*done, output) : 0;
  });
}

void Describe(const RankedOutput& made, const Coordinator& ranks, Conversion& done) {
  done.reused_files = made.reused_files();
  done.reused_bytes = made.reused_bytes();
  done.ranks = ranks.size();
}

void NoteLeftOut(const std::vector<LeftOut>& groups, Conversion& done) {
  for (const LeftOut& group : groups) {
    done.notes.push_back(Describe(group).message);
    done.left_out.push_back(group);
  }
}

void NoteLeftOut(const MegatronBinding& binding, Conversion& done) {
  for (const Note& note : binding.notes) {
    if (note.id == "optimizer-state") done.notes.push_back("not converted: " + note.message);
  }
  NoteLeftOut(binding.left_out, done);
}

Status CheckConversionOutput(const ConversionOutput& output, const CommandInputs& inputs) {
  if (output.json.empty() || output.json == "-") return {};
  WB_RETURN_IF_ERROR(CheckOutputFile(output.json));
  return CheckOutputsSpareInputs(std::array{NamedOutput{"--json", output.json}}, inputs);
}

void PrintStart(const RankedOutput& made, const ConversionOutput& output) {
  if (output.quiet) return;
  for (const std::string& note : made.notes()) fmt::print(stderr, "note: {}\n", note);
}

Status OrKept(Status status, RankedOutput& made) {
  if (status) return status;
  Error error = std::move(status).error();
  const std::string kept = made.Keep(error);
  if (!kept.empty()) error.hint += (error.hint.empty() ? "" : "; ") + kept;
  return Fail(std::move(error));
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
