// One trial of the selftest: faults injected into a right pair, and what `verify` says of it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "checks/selftest/fault_sites.h"
#include "checks/selftest/file_faults.h"
#include "checks/selftest/held_checkpoint.h"
#include "checks/selftest/scale_faults.h"
#include "checks/selftest/selftest.h"

namespace weighbridge {

// A subject's model with quantized weights.
struct CodedSubject {
  CodedModel model;
  CodedValues values;              // the right ones
  std::unique_ptr<Checkpoint> hf;  // that stores codes and scales
};

// A subject made ready: the right Megatron side, and where it can be wrong. Not to be moved once it
// is: its parts point at each other.
struct Bench {
  const SelftestSubject* subject = nullptr;
  std::optional<Model> model;
  std::optional<HeldCheckpoint> clean;
  std::optional<FaultSites> sites;
  // Of a subject whose files may be copied:
  std::optional<PairOnDisk> files;
  std::vector<CodedSubject> coded;       // one for each scheme
  std::vector<std::string_view> causes;  // sorted
  uint64_t bytes = 0;
};

// `folder` is for files that stay; it does not exist yet. Errors: those of Model::Expand,
// HeldCheckpoint::Create and WriteMegatronSide; kIo.
Status Prepare(const SelftestSubject& subject, const std::filesystem::path& folder, Bench& bench);

// What `verify` says of the right pair, concluded: in memory, and of files where there are any.
// `folder` is for copies; it does not exist before or afterwards.
Result<Report> JudgeClean(const Bench& bench, const std::filesystem::path& folder);

struct Trial {
  const Bench* bench = nullptr;
  uint64_t seed = 0;
  std::vector<std::string_view> causes;
};

// What is kept of a trial.
struct Outcome {
  struct Fault {
    std::string_view cause;
    std::string what;
    bool named = false;
  };
  std::vector<Fault> faults;  // empty: none could be injected
  int64_t inert = 0;
  bool detected = false;
  std::vector<std::string> found;   // causes of the report
  std::vector<std::string> strays;  // of them, those that no fault accounts for
};

// `folder` is for copies; it does not exist before or afterwards.
Outcome RunTrial(const Trial& trial, const std::filesystem::path& folder);

std::vector<std::string> CauseIds(const Report& report);

// A fault of files keeps others from being seen, one of codes needs a model of its own: they are
// injected by themselves.
bool ComesAlone(std::string_view cause);

}  // namespace weighbridge
