// `compare` on several ranks of a parallel grid: how they meet, and what those do that do not lead.
// The leader (rank 0) runs CompareModels; the others hold shards of the Megatron side.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "base/ranks.h"
#include "base/result.h"
#include "engine/compare.h"
#include "family/model.h"
#include "formats/checkpoint.h"
#include "formats/megatron_checkpoint.h"
#include "mapping/sharding.h"

namespace weighbridge {

// Ranks of the smallest launch that has the grid's groups.
int64_t TeamSize(const ParallelGrid& grid);

class TeamRun {
 public:
  // All ranks of `ranks` call it: the leader opens a store, and all join it. `options`: grid,
  // sequence_parallel, device, threads. Errors: those of AskTeam; kUsage "grid" when there are not
  // as many ranks as the grid asks for.
  static Result<TeamRun> Join(Coordinator& ranks, const CompareOptions& options);
  TeamRun(TeamRun&& other) noexcept
      : joined_(std::exchange(other.joined_, false)),
        cuda_(other.cuda_),
        rank_(other.rank_),
        backend_(std::move(other.backend_)) {}
  TeamRun& operator=(TeamRun&&) = delete;
  ~TeamRun();

  // Of a rank that does not lead: computes what the leader asks, until it ends the run. Errors:
  // those of reading the weights, and of the component.
  Status Follow(const Model& model, const Checkpoint& hf, const MegatronCheckpoint* megatron,
                const CompareOptions& options) const;
  // Of the leader: the others stop.
  Status End() const;

  // How groups of ranks move tensors: "gloo" or "nccl".
  const std::string& backend() const { return backend_; }

 private:
  TeamRun() = default;
  bool joined_ = true, cuda_ = false;
  int rank_ = 0;
  std::string backend_;
};

}  // namespace weighbridge
