// A stage of Megatron's side that several ranks hold: the leader's view of it, and the part of the
// others.
//
// The leader sends, with the tensors of each in parts (distribution.h):
//   {"do": "stage", "stage": "layer", "layer": 3, "spec": {...}}
//       answered, when the weights are there, by {"has": [module ids], "rows": of the output
//       matrix}
//   {"do": "run", "module": id}                    answered by the module's outputs
//   {"do": "logits", "begin": b, "count": n}       by the logits of these rows of its shard
//   {"do": "close"}                                ends the stage
//   {"do": "end", "status": s}                     ends the run
// An answer {"error": text} is what a model does not know.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "engine/boundary.h"
#include "engine/forward/module.h"
#include "engine/parallel/distribution.h"
#include "engine/parallel/team.h"

namespace weighbridge::engine {

class TeamStage final : public Stage {
 public:
  // `place`: {"stage", "layer", "pp": the pipeline rank that holds it}. `weights` are the leader's
  // own shards, empty where it is of another pipeline stage. Both must outlive this.
  TeamStage(Team& team, const nlohmann::json& place, const nlohmann::json& spec,
            const Weights& weights);
  ~TeamStage() override;

  bool Has(ModuleId id) const override { return has_.contains(id); }
  std::vector<at::Tensor> Run(ModuleId id, std::span<const at::Tensor> in) const override;
  int64_t vocabulary() const override;
  at::Tensor Logits(const at::Tensor& x, int64_t begin, int64_t count) const override;

 private:
  int64_t Global(int64_t rank) const { return first_ + rank; }
  bool IsOwn(int64_t rank) const { return Global(rank) == team_.rank(); }
  std::vector<at::Tensor> Answer(int64_t rank) const;
  std::vector<std::vector<at::Tensor>> Collect(
      std::span<const int64_t> ranks,
      const std::function<std::vector<at::Tensor>(int64_t rank)>& own) const;

  Team& team_;
  const int64_t first_;
  Distribution distribution_;
  std::unique_ptr<Stage> own_;  // the leader's, where it is of the stage
  std::set<ModuleId> has_;
  int64_t rows_ = 0, vocab_ = 0;
};

// What a rank that does not lead does.
class Follower {
 public:
  explicit Follower(Team& team) : team_(team) {}

  // Waits for what comes next: {"stage", "layer"} or {"end": status}.
  nlohmann::json Next();
  // Computes that stage as the leader asks, until it closes it. `tensors` are named
  // "candidate.NAME".
  void Serve(std::span<const WbEngineTensor> tensors);

 private:
  Message Answer(const Message& asked, const Stage& stage) const;

  Team& team_;
  nlohmann::json spec_;
  BufferPool pool_;
};

const ModuleInfo& InfoOf(ModuleId id);

}  // namespace weighbridge::engine
