#include "checks/ranked_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <sstream>
#include <utility>

#include "base/strings.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

std::string JoinLines(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + '\n';
  return text;
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

Status CheckAgreement(Coordinator& ranks, const JobKey& job) {
  WB_TRY(const auto keys, ranks.Gather(job.source + '\n' + job.work));
  for (size_t r = 1; r < keys.size(); ++r) {
    if (keys[r] == keys[0]) continue;
    const bool source = Lines(keys[r]).front() != job.source;
    return Fail(ErrorKind::kInvalid, "ranks-disagree",
                fmt::format("rank {} {} than rank 0", r,
                            source ? "sees other source files (paths, sizes or times)"
                                   : "has another version, family, config or other options"),
                "", "all ranks have to run the same command on the same files");
  }
  return {};
}

// The folder, first made or found by rank 0, and what its journal says.
Result<AtomicDirectory> OpenFolder(Coordinator& ranks, const fs::path& target,
                                   const PublishOptions& options,
                                   std::vector<FinishedFile>& finished) {
  if (ranks.first()) {
    WB_TRY(AtomicDirectory folder, AtomicDirectory::Create(target, options));
    if (ranks.size() > 1) WB_RETURN_IF_ERROR(folder.partial().Share());
    finished = folder.partial().finished();
    std::vector<std::string> lines = {folder.partial().path().string()};
    for (const FinishedFile& file : finished) lines.push_back(FinishedFileText(file));
    WB_TRY([[maybe_unused]] const std::string sent, ranks.Broadcast(JoinLines(lines)));
    return folder;
  }
  WB_TRY(const std::string text, ranks.Broadcast(""));
  const std::vector<std::string> lines = Lines(text);
  if (lines.empty()) return Fail(ErrorKind::kInternal, "internal", "rank 0 named no folder");
  for (size_t i = 1; i < lines.size(); ++i) {
    WB_TRY(FinishedFile file, ParseFinishedFile(lines[i]));
    finished.push_back(std::move(file));
  }
  return AtomicDirectory::Join(lines[0]);
}

}  // namespace

Result<RankedOutput> RankedOutput::Open(Coordinator& ranks, const fs::path& target,
                                        const std::vector<PlannedFile>& files,
                                        const RankedOutputOptions& options) {
  WB_RETURN_IF_ERROR(CheckAgreement(ranks, options.publish.job.value()));
  std::vector<FinishedFile> finished;
  WB_TRY(AtomicDirectory folder, OpenFolder(ranks, target, options.publish, finished));
  RankedOutput output(std::move(folder));
  WB_RETURN_IF_ERROR(output.Recheck(ranks, options, finished));
  output.Divide(ranks, files, finished);
  return output;
}

// Each rank reads a share of what is to be taken over; all learn what is good.
Status RankedOutput::Recheck(Coordinator& ranks, const RankedOutputOptions& options,
                             std::vector<FinishedFile>& finished) {
  const std::string& why = folder_.partial().note();
  if (!why.empty()) notes_.push_back(why);
  if (!options.recheck || finished.empty()) return {};
  std::vector<uint64_t> sizes;
  for (const FinishedFile& file : finished) sizes.push_back(file.nbytes);
  const std::vector<int> owners = AssignByBytes(sizes, ranks.size());
  std::vector<const FinishedFile*> mine;
  std::vector<fs::path> paths;
  for (size_t i = 0; i < finished.size(); ++i) {
    if (owners[i] != ranks.rank()) continue;
    mine.push_back(&finished[i]);
    paths.push_back(path() / finished[i].name);
  }
  const auto sums = SumFiles(paths, *options.recheck, options.threads);
  std::vector<std::string> bad;
  for (size_t i = 0; i < mine.size(); ++i) {
    if (!sums[i] || *sums[i] != mine[i]->crc) bad.push_back(mine[i]->name);
  }
  WB_TRY(const auto all, ranks.Gather(JoinLines(bad)));
  std::string together;
  for (const std::string& part : all) together += part;
  WB_TRY(const std::string decided, ranks.Broadcast(together));
  for (const std::string& name : Lines(decided)) {
    if (ranks.first()) folder_.partial().Forget(name);
    notes_.push_back(fmt::format("{} of the earlier start is damaged and is written again", name));
    std::erase_if(finished, [&](const FinishedFile& file) { return file.name == name; });
  }
  return ranks.Barrier();
}

void RankedOutput::Divide(const Coordinator& ranks, const std::vector<PlannedFile>& files,
                          const std::vector<FinishedFile>& finished) {
  std::map<std::string, uint64_t> done;
  for (const FinishedFile& file : finished) done.emplace(file.name, file.nbytes);
  planned_files_ = files.size();
  skip_.assign(files.size(), true);
  std::vector<size_t> open;
  std::vector<uint64_t> sizes;
  for (size_t i = 0; i < files.size(); ++i) {
    const auto it = done.find(files[i].name);
    if (it != done.end() && it->second == files[i].nbytes) {
      ++reused_files_;
      reused_bytes_ += files[i].nbytes;
      continue;
    }
    open.push_back(i);
    sizes.push_back(files[i].nbytes);
  }
  const std::vector<int> owners = AssignByBytes(sizes, ranks.size());
  for (size_t i = 0; i < open.size(); ++i) {
    if (owners[i] != ranks.rank()) continue;
    skip_[open[i]] = false;
    own_bytes_ += sizes[i];
  }
  if (reused_files_ > 0) {
    notes_.push_back(fmt::format("going on from an earlier start: {} of {} files ({}) are finished",
                                 reused_files_, planned_files_, FormatBytes(reused_bytes_)));
  }
  if (ranks.size() > static_cast<int>(open.size()) && !open.empty()) {
    notes_.push_back(fmt::format("{} ranks and {} file{} to write: a file is written by one rank",
                                 ranks.size(), open.size(), open.size() == 1 ? "" : "s"));
  }
}

ShardOptions RankedOutput::Shards() {
  return {skip_, [this](const FinishedFile& file) { return folder_.partial().Record(file); }};
}

std::string RankedOutput::Keep(const Error& error) {
  // What was written may not be what it should be, or its place is taken.
  const bool wrong = error.id == "source-changed" || error.id == "readback-mismatch";
  if (wrong || error.kind == ErrorKind::kUsage) folder_.partial().Discard();
  if (!folder_.partial().KeepsFinishedFiles()) return "";
  return "finished files are kept: the same command goes on from them; --discard begins afresh";
}

}  // namespace weighbridge
