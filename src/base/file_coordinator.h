// Ranks that meet in a shared folder and nowhere else: no network, no MPI, no torch. Each rank puts
// small files there, each appearing whole; the others see them by listing the folder.
//
// A rank that fails says so in its state file. One that is killed is noticed on its own host at
// once (its lock is free), from another host when its heartbeat stops for `timeout_s`. Rank 0
// watches all, the others watch rank 0, which tells them.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "base/ranks.h"
#include "base/result.h"

namespace weighbridge {

struct FileCoordinatorOptions {
  // Seen by all ranks; made when it is not there, removed when the job has ended. What an earlier
  // job left in it does not matter.
  std::filesystem::path folder;
  Launch launch;
  double timeout_s = 20;         // silence of a rank on another host that counts as its death
  double start_timeout_s = 300;  // until all ranks are there
  std::function<void(const std::string&)> say;  // what takes long; may be empty
};

// Waits until all ranks are there. Errors: those of the file system; kIo "rank-missing" names the
// ranks that did not come; kUsage "job-busy" when another job meets in the folder.
Result<std::unique_ptr<Coordinator>> JoinInFolder(const FileCoordinatorOptions& options);

}  // namespace weighbridge
