// `weighbridge manifest CKPT`: a hash per tensor, so that checkpoints are compared from afar.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>

#include "base/hash.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/strings.h"
#include "base/threads.h"
#include "checks/make_manifest.h"
#include "cli/canonical_input.h"
#include "cli/command.h"
#include "cli/output_guard.h"
#include "cli/rank_options.h"
#include "report/output_file.h"

namespace weighbridge::cli {
namespace {

struct ManifestArguments : MegatronArguments {
  std::string output = "-";
  CanonicalOptions options;
  RankOptions job;
  bool quiet = false;
};

Status CheckOutput(const ManifestArguments& a) {
  if (a.output == "-") return {};
  WB_RETURN_IF_ERROR(CheckOutputFile(a.output));
  return CheckOutputsSpareInputs(std::array{NamedOutput{"--output", a.output}}, a.Inputs());
}

void PrintNotes(const CanonicalInput& input) {
  for (const std::string& note : input.notes) fmt::print(stderr, "note: {}\n", note);
  for (const Note& note : input.tensors->notes()) {
    fmt::print(stderr, "note: {}\n", ToPrintable(note.message));
  }
  for (const ResultRow& row : input.tensors->rows()) {
    if (!Passed(row.status)) continue;
    const TensorRef& copy = row.hf.empty() ? row.megatron : row.hf[0];
    fmt::print(stderr, "note: {} is not listed, it is equal to another: {}\n",
               ToPrintable(copy.name), ToPrintable(row.why));
  }
}

// What was done, for people: beside the document, never in it.
std::string Summary(const ManifestArguments& a, const Manifest& manifest, uint64_t bytes,
                    double seconds) {
  return fmt::format(
      "{}: {} tensors, {} in {} ({}/s), peak anonymous memory {}\n", a.output,
      manifest.tensors.size(), FormatBytes(bytes), FormatDuration(seconds),
      FormatBytes(static_cast<uint64_t>(static_cast<double>(bytes) / std::max(seconds, 1e-9))),
      FormatBytes(PeakAnonymousBytes()));
}

// Nothing is written beside what is read.
std::filesystem::path MeetingPlace(const ManifestArguments& a) {
  return "weighbridge-manifest-" + Xxh3Hex(std::as_bytes(std::span(a.megatron))).substr(0, 8) +
         ".ranks";
}

Result<int> Make(const ManifestArguments& a, Coordinator& ranks) {
  if (ranks.first()) WB_RETURN_IF_ERROR(CheckOutput(a));
  PeakAnonymousBytes();
  const auto start = std::chrono::steady_clock::now();
  WB_TRY(const auto input, OpenCanonical(a, a.options));
  const uint64_t bytes = input->Bytes();
  Manifest manifest;
  {
    std::optional<Progress> progress;
    if (ranks.first()) {
      progress.emplace("manifest", bytes / static_cast<uint64_t>(ranks.size()));
    }
    ManifestOptions options;
    options.config_dtype = ConfigDType(input->config());
    options.threads = a.options.threads;
    options.coordinator = &ranks;
    options.progress = [&](uint64_t done) { progress ? progress->Add(done) : void(); };
    WB_TRY(manifest, MakeManifest(input->family().name, *input->tensors, options));
  }
  if (!ranks.first()) return 0;
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  if (!a.quiet) PrintNotes(*input);
  const auto write = [&](const Sink& sink) { WriteManifest(manifest, sink); };
  if (a.output == "-") return PrintStdout(write);
  WB_RETURN_IF_ERROR(WriteOutputFile(a.output, write));
  return a.quiet ? 0 : PrintStdout(Summary(a, manifest, bytes, took.count()));
}

int Run(const ManifestArguments& a) {
  return RunRanks(a.job, MeetingPlace(a), [&](Coordinator& ranks) -> Result<int> {
    Result<int> status = Make(a, ranks);
    if (!status) return Fail(JudgeConfigError(status.error()));
    return status;
  });
}

}  // namespace

void AddManifest(CLI::App& app, Context& context) {
  auto a = std::make_shared<ManifestArguments>();
  a->options.threads = DefaultThreads();
  CLI::App* command = app.add_subcommand(
      "manifest", "the hash of every tensor, equal for a model on either side of a conversion");
  command
      ->add_option(std::string("CKPT,") + kHfSpellings + "," + kMegatronSpellings, a->megatron,
                   "a Hugging Face folder, file or org/name[@REV], or a Megatron checkpoint")
      ->required();
  command->add_option("-o,--output", a->output, "write the manifest (JSON) to FILE, - for stdout")
      ->type_name("FILE")
      ->capture_default_str()
      ->group("Output");
  AddMegatronModelOptions(*command, *a, "that a Megatron checkpoint came from");
  command
      ->add_flag("--without-mtp", a->options.without_mtp,
                 "leave multi-token-prediction layers out; default: off")
      ->group("Model");
  command->add_flag("-q,--quiet", a->quiet, "print nothing but the manifest and errors")
      ->group("Output");
  AddThreadsOption(*command, a->options.threads);
  AddRankOptions(*command, a->job);
  AddExamples(*command, {"weighbridge manifest ./Llama-3.2-1B -o llama.manifest.json",
                         "weighbridge manifest ./checkpoints/llama32_1b --like ./Llama-3.2-1B",
                         "weighbridge verify ./checkpoints/llama32_1b llama.manifest.json"});
  command->callback([&context, a] { context.exit_status = Run(*a); });
}

}  // namespace weighbridge::cli
