// Which rank holds what: the tensors of every rank of a parallel grid, with the names that they
// have in the ranks' modules.
#pragma once

#include <string>
#include <vector>

#include "family/model.h"
#include "mapping/sharding.h"

namespace weighbridge {

// A parameter on the ranks of one pipeline stage. The ranks of its tensor-parallel group (TP, or
// ETP for experts) hold one shard each.
struct PlacedParameter {
  const Parameter* parameter = nullptr;
  int pp = 0, vpp = 0, ep = 0;
  int64_t local_layer = 0, local_expert = 0;
  // Not empty: a copy that Megatron keeps on another stage, under this name in its modules: the
  // tied embedding as the last stage's output layer, the embedding beside MTP layers.
  std::string copy_as;

  bool is_copy() const { return !copy_as.empty(); }
};

// Something that holds for this model on this grid and that its user should know.
struct GridNote {
  std::string id, message;
};

// Placement of a whole model. Immutable; refers to the Model, which must outlive it.
class Placement {
 public:
  // Errors: kUsage "grid" when the model cannot be placed on the grid, or when megatron-core
  // refuses to build it there (TransformerConfig.__post_init__ of 0.19: attention heads not
  // divisible by TP; query groups neither a multiple nor a divisor of TP; EP without experts).
  static Result<Placement> Create(const Model& model, const ParallelGrid& grid);

  const ParallelGrid& grid() const { return grid_; }
  const std::vector<Stage>& stages() const { return stages_; }
  // "moe-bias-etp": megatron-core 0.19 does not build experts with biases on ETP > 1; the layout is
  // defined all the same. "etp-unused": ETP without experts.
  const std::vector<GridNote>& notes() const { return notes_; }
  // Every parameter once, in the model's order, then the copies.
  const std::vector<PlacedParameter>& parameters() const { return parameters_; }
  // Size of the group that cuts `p`.
  int GroupSize(const Parameter& p) const { return p.is_expert() ? grid_.etp : grid_.tp; }
  // The name in the rank's module: local layer and expert numbers.
  std::string RankName(const PlacedParameter& p, Dialect dialect) const;
  // Processes of the smallest launch that has all these groups.
  int64_t WorldSize() const;
  // Tensors over all ranks of one model replica.
  int64_t ShardCount() const;

 private:
  const Model* model_ = nullptr;
  ParallelGrid grid_;
  std::vector<Stage> stages_;
  std::vector<PlacedParameter> parameters_;
  std::vector<GridNote> notes_;
};

}  // namespace weighbridge
