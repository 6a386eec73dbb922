// What `import` and `export` share: the summary of a conversion that was made.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/atomic_output.h"
#include "base/source_files.h"
#include "checks/left_out.h"
#include "checks/megatron_binding.h"
#include "checks/ranked_output.h"
#include "cli/command.h"
#include "cli/output_guard.h"
#include "cli/rank_options.h"

namespace weighbridge::cli {

struct Conversion {
  std::string command, source, target, family, format;
  std::string next;  // the command line that judges it
  size_t tensors = 0, files = 0;
  uint64_t bytes = 0;
  double seconds = 0;
  bool read_back = false;
  size_t reused_files = 0;  // of an earlier start
  uint64_t reused_bytes = 0;
  int ranks = 1;
  std::vector<std::string> copied, notes;
  std::vector<LeftOut> left_out;
  Publication published;
};

struct ConversionOutput {
  std::string json;
  bool quiet = false;
};

void AddConversionOutput(CLI::App& command, ConversionOutput& output);

// How a checkpoint is written.
struct WritingOptions {
  std::string verify = "page", memory = "64M";
  bool overwrite = false, discard = false;
  int threads = 0;
  RankOptions ranks;
};

// --overwrite (of `what`), --discard, --verify, --memory, --threads and those of AddRankOptions.
void AddWritingOptions(CLI::App& command, const std::string& what, WritingOptions& options);

// nullopt: --verify none.
std::optional<ReadBackMode> ReadBackOf(const WritingOptions& options);

// What a second start has to have in common to go on from the first: the files that are read, and
// `work`, texts that say what is made of them. The version is part of it.
Result<SourceFiles> LookAtSources(const std::vector<std::filesystem::path>& files,
                                  const std::vector<std::string>& families);
JobKey KeyOf(const SourceFiles& sources, const std::vector<std::string>& work);

RankedOutputOptions RankedOptions(const WritingOptions& writing,
                                  std::function<Status(const std::filesystem::path&)> may_replace,
                                  uint64_t expected_bytes, JobKey job);

// Runs `make` on every rank of the job that writes `target`; rank 0 prints. The exit status.
int RunConversion(const WritingOptions& writing, const std::filesystem::path& target,
                  const ConversionOutput& output,
                  const std::function<Result<Conversion>(Coordinator&)>& make);

// Fills in what was taken over and how many ranks took part.
void Describe(const RankedOutput& made, const Coordinator& ranks, Conversion& done);

// Notes what of the source, or of --like, has no place in what was made.
void NoteLeftOut(const std::vector<LeftOut>& groups, Conversion& done);
// The same of a Megatron checkpoint: MTP layers, the state of an optimizer.
void NoteLeftOut(const MegatronBinding& binding, Conversion& done);

// The usage error in where the JSON goes, if there is one.
Status CheckConversionOutput(const ConversionOutput& output, const CommandInputs& inputs);

// Says on stderr how the output begins, before the work.
void PrintStart(const RankedOutput& made, const ConversionOutput& output);

// `status` of work on `made`; on an error its hint says what is kept.
Status OrKept(Status status, RankedOutput& made);

// Prints the summary and notes; returns the exit status.
int PrintConversion(const Conversion& done, const ConversionOutput& output);

}  // namespace weighbridge::cli
