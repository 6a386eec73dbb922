// What `import` and `convert` write: a Megatron checkpoint, torch_dist or legacy torch, from
// whatever holds the parameters.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "checks/parameter_source.h"
#include "family/disk_names.h"
#include "family/model.h"
#include "family/shards.h"
#include "formats/torch_dist/plan.h"
#include "formats/torch_dist/writer.h"

namespace weighbridge {

enum class MegatronFormat { kTorchDist, kTorch };

struct ImportOptions {
  MegatronFormat format = MegatronFormat::kTorchDist;
  Dialect dialect = Dialect::kTe;
  std::optional<DType> dtype;  // of all weights but those that stay float32; nullopt: as stored
  // torch_dist: what torch.save wrote as the common state; "": that of a new run.
  std::string common_state;
  int64_t iteration = 0;            // torch: the one that the files say
  bool extra_state = true;          // write the empty `_extra_state` entries that layers ask for
  int threads = 0;                  // 0: as many as the process may use
  int64_t memory_bytes = 64 << 20;  // blocks in flight, over all threads
  std::function<void(uint64_t bytes)> progress;  // called from any thread
  std::function<Status()> proceed;  // asked before each piece, from any thread; its error ends it
};

// In which `p` is written: what the family keeps in one dtype stays in it.
DType WrittenDType(const Parameter& p, const ParameterSource& source, const ImportOptions& options);

// One tensor of the checkpoint and, per chunk, the parameter whose box it is.
struct ImportPlan {
  TorchDistPlan disk;
  struct Source {
    const Parameter* parameter = nullptr;
    Shape offsets, sizes;  // the box of the parameter
  };
  std::vector<std::vector<Source>> sources;  // [tensor][chunk], as in `disk`
};

// Layers are stacked along a leading axis where Megatron-Core does so. The ranks of `placement`
// decide the chunks and their files. Errors: those of PlanTorchDist; kUnsupported "mixed-dtypes".
// For the format torch: PlanRankImport (rank_import.h).
Result<ImportPlan> PlanImport(const Model& model, const Placement& placement,
                              const ParameterSource& source, const ImportOptions& options);

// Moves the bytes of the files that `writer`, made from plan.disk, does not leave alone, file after
// file. They are finished then; what comes beside them (writer.Finish()) is the caller's.
Status Import(const ParameterSource& source, const ImportPlan& plan, const ImportOptions& options,
              TorchDistWriter& writer);

// Whether the module of a parameter ("decoder.layers.0.mlp.linear_fc1") keeps an `_extra_state`: by
// its rule, else where its name is that of a linear layer of Megatron-Core's.
bool HoldsExtraState(const Parameter& p, std::string_view module);

}  // namespace weighbridge
