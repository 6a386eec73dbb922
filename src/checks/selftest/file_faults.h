// Faults of files (docs/causes.md): a pair of checkpoints on disk whose copies are cut, torn apart
// or contradict themselves, byte by byte.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "checks/selftest/held_tensor.h"
#include "family/model.h"
#include "formats/checkpoint.h"

namespace weighbridge {

// Folders with all that belongs to one side.
struct PairOnDisk {
  std::filesystem::path hf, megatron;
};

struct FileFault {
  std::string_view cause;
  // What was done, in words; nullopt where the files have no place for it.
  std::optional<std::string> (*inject)(const PairOnDisk& pair, Random& random);
};

const std::vector<FileFault>& FileFaults();

// What `import` makes of `hf` on one rank, with its tracker, in `folder`. Errors: those of
// PlanImport and TorchDistWriter.
Status WriteMegatronSide(const Model& model, const Checkpoint& hf,
                         const std::filesystem::path& folder);

// A copy of the pair in `folder`, to be damaged. Errors: kIo.
Result<PairOnDisk> CopyPair(const PairOnDisk& pair, const std::filesystem::path& folder);

}  // namespace weighbridge
