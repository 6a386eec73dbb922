// `selftest`: injects every known fault into copies of right checkpoints, and counts how many of
// them `verify` detects and names.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "checks/result.h"
#include "family/spec.h"
#include "formats/checkpoint.h"

namespace weighbridge {

// A model to be made faulty. Nothing of it is changed.
struct SelftestSubject {
  std::string name;  // of the family, or what was typed
  const FamilySpec* family = nullptr;
  nlohmann::json config;
  const Checkpoint* hf = nullptr;
  // What `hf` was opened from, where its files may be copied to be damaged; empty: they may not,
  // and no faults of files are injected.
  std::filesystem::path folder;
};

struct SelftestOptions {
  uint64_t first_seed = 0;
  int64_t seeds = 1;
  std::vector<std::string> causes;  // empty: all
  // 1: each cause by itself. Else `combinations` times so many different ones at once, over all
  // subjects.
  int faults = 1;
  int64_t combinations = 200;
  int threads = 1;
  std::filesystem::path folder;                  // that exists and is empty
  std::function<void(uint64_t bytes)> began;     // that will be weighed, once it is known
  std::function<void(uint64_t bytes)> progress;  // called from any thread
};

// At least so much of what was injected has to be named: of single faults for each cause, of
// several at once over all of them.
inline constexpr double kNamedAlone = 0.95, kNamedTogether = 0.9;

// One row per cause, and one for the pairs without a fault; `selftest` filled; not concluded. The
// same subjects, seeds and causes give the same report, whatever the number of threads. Anonymous
// memory: each subject once. Errors: kUsage for a cause that no fault has; those of Model::Expand
// and HfParameters::Create.
Result<Report> Selftest(const std::vector<SelftestSubject>& subjects,
                        const SelftestOptions& options);

// Every cause that faults are known for, sorted.
std::vector<std::string_view> InjectedCauses();

}  // namespace weighbridge
