#include "cli/rank_options.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>

#include "base/file_coordinator.h"
#include "cli/command.h"

namespace weighbridge::cli {

void AddRankOptions(CLI::App& command, RankOptions& options) {
  command
      .add_option("--launcher", options.launcher,
                  "whose variables say which rank of how many this process is; none: run alone")
      ->check(CLI::IsMember(LauncherNames()))
      ->capture_default_str()
      ->group("Ranks");
  command
      .add_option("--job-id", options.job,
                  "what tells this job from others; default: what the launcher says")
      ->type_name("TEXT")
      ->group("Ranks");
  command
      .add_option("--rendezvous", options.folder,
                  "a folder that all ranks see, where they meet; default: beside the output, or in "
                  "the working directory")
      ->type_name("DIR")
      ->group("Ranks");
  command
      .add_option("--rank-timeout", options.timeout_s,
                  "seconds of silence after which a rank of another host counts as lost")
      ->type_name("S")
      ->check(FiniteFrom(1, 86400))
      ->capture_default_str()
      ->group("Ranks");
}

Result<std::unique_ptr<Coordinator>> JoinRanks(const RankOptions& options,
                                               const std::filesystem::path& folder) {
  WB_TRY(Launch launch,
         DetectLaunch(options.launcher, [](const char* name) { return std::getenv(name); }));
  if (launch.size == 1) return Alone();
  if (!options.job.empty()) launch.job = options.job;
  FileCoordinatorOptions join;
  // Set where this program started the ranks itself.
  const char* own = std::getenv("WEIGHBRIDGE_RENDEZVOUS");
  const std::string meeting = own != nullptr ? own : options.folder;
  join.folder =
      meeting.empty() ? folder : std::filesystem::path(meeting) / (folder.filename().string());
  join.launch = std::move(launch);
  join.timeout_s = options.timeout_s;
  if (join.launch.rank == 0) {
    join.say = [](const std::string& text) { fmt::print(stderr, "note: {}\n", text); };
  }
  return JoinInFolder(join);
}

int EndJob(Coordinator& ranks, const Error& error, const std::function<int(const Error&)>& print) {
  const Error decided = ranks.Abort(error);
  if (ranks.Speaks()) return print(decided);
  return decided.kind == ErrorKind::kCorrupt ? 1 : 2;
}

int RunRanks(const RankOptions& options, const std::filesystem::path& folder,
             const std::function<Result<int>(Coordinator&)>& work) {
  const auto ranks = JoinRanks(options, folder);
  if (!ranks) return PrintError(ranks.error());
  const Result<int> status = work(**ranks);
  if (!status) return EndJob(**ranks, status.error(), PrintError);
  const auto decided = (*ranks)->Broadcast(std::to_string(*status));
  if (!decided) return EndJob(**ranks, decided.error(), PrintError);
  int all = 2;
  std::from_chars(decided->data(), decided->data() + decided->size(), all);
  return all;
}

}  // namespace weighbridge::cli
