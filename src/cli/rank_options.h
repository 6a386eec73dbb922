// Commands that run as several processes under torchrun, mpirun or srun.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "base/ranks.h"
#include "base/result.h"

namespace weighbridge::cli {

struct RankOptions {
  std::string launcher = "auto", job, folder;
  double timeout_s = 20;
};

// --launcher, --job-id, --rendezvous, --rank-timeout
void AddRankOptions(CLI::App& command, RankOptions& options);

// Meets the other ranks, in `folder` unless --rendezvous names another; a lone process needs none.
Result<std::unique_ptr<Coordinator>> JoinRanks(const RankOptions& options,
                                               const std::filesystem::path& folder);

// Ends a job with this rank's error: all ranks end with the same. `print` is called on the one rank
// that has to say it and returns the exit status.
int EndJob(Coordinator& ranks, const Error& error, const std::function<int(const Error&)>& print);

// Runs `work` on this rank and ends the job; the exit status, rank 0's on all. An error is printed
// once.
int RunRanks(const RankOptions& options, const std::filesystem::path& folder,
             const std::function<Result<int>(Coordinator&)>& work);

}  // namespace weighbridge::cli
