#include "engine/parallel/team_stage.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace weighbridge::engine {
namespace {

using at::Tensor;
using nlohmann::json;

constexpr const char* kOutputMatrix = "output_layer.weight";

std::unique_ptr<Stage> StageOf(const json& spec, const Weights& weights, const Team& team) {
  return MakeMegatronStage(spec, weights, team.place());
}

// What a rank says of its stage when its weights are there.
json Describe(const Stage& stage, const Weights& weights) {
  json has = json::array();
  for (const std::span<const ModuleInfo> modules :
       {EmbeddingModules(), LayerModules(), OutputModules(), MtpModules()}) {
    for (const ModuleInfo& module : modules) {
      if (stage.Has(module.id)) has.push_back(static_cast<int>(module.id));
    }
  }
  const bool output = weights.Has(kOutputMatrix);
  return {{"has", std::move(has)}, {"rows", output ? weights.Stored(kOutputMatrix).size(0) : 0}};
}

int64_t GroupsOf(const json& spec, const TeamShape& shape) {
  const json groups = spec.value("groups", json());
  return groups.is_number_integer() ? groups.get<int64_t>() : shape.tp;
}

}  // namespace

const ModuleInfo& InfoOf(ModuleId id) {
  for (const std::span<const ModuleInfo> modules :
       {EmbeddingModules(), LayerModules(), OutputModules(), MtpModules()}) {
    for (const ModuleInfo& module : modules) {
      if (module.id == id) return module;
    }
  }
  throw Unsupported("a module that is not known");
}

// -- the leader --

TeamStage::TeamStage(Team& team, const json& place, const json& spec, const Weights& weights)
    : team_(team),
      first_(place.at("pp").get<int64_t>() * team.shape().width()),
      distribution_(team.shape(), GroupsOf(spec, team.shape())) {
  const json asked = {
      {"do", "stage"}, {"stage", place.at("stage")}, {"layer", place.at("layer")}, {"spec", spec}};
  const int64_t width = team_.shape().width();
  for (int64_t rank = 0; rank < width; ++rank) {
    if (!IsOwn(rank)) team_.Send(Global(rank), {asked, {}});
  }
  if (IsOwn(0)) own_ = StageOf(spec, weights, team_);
  for (int64_t rank = 0; rank < width; ++rank) {
    const json said = IsOwn(rank) ? Describe(*own_, weights) : team_.Receive(Global(rank)).text;
    if (rank > 0) continue;
    for (const json& id : said.at("has")) has_.insert(static_cast<ModuleId>(id.get<int>()));
    rows_ = said.at("rows").get<int64_t>() * team_.shape().tp;
    vocab_ = spec.value("vocab", rows_);
  }
}

TeamStage::~TeamStage() {
  try {
    for (int64_t rank = 0; rank < team_.shape().width(); ++rank) {
      if (!IsOwn(rank)) team_.Send(Global(rank), {{{"do", "close"}}, {}});
    }
  } catch (...) {
    // A lost rank was reported where its answer was missed.
  }
}

std::vector<Tensor> TeamStage::Answer(int64_t rank) const {
  Message answer = team_.Receive(Global(rank));
  if (answer.text.contains("error")) throw Unsupported(answer.text.at("error"));
  return std::move(answer.tensors);
}

// The answers of all ranks, one of which may be this process: no answer is left behind where one is
// an error.
std::vector<std::vector<Tensor>> TeamStage::Collect(
    std::span<const int64_t> ranks,
    const std::function<std::vector<Tensor>(int64_t rank)>& own) const {
  std::vector<std::vector<Tensor>> answers;
  std::optional<Unsupported> failed;
  for (const bool here : {true, false}) {
    for (const int64_t rank : ranks) {
      if (IsOwn(rank) != here) continue;
      try {
        answers.push_back(here ? own(rank) : Answer(rank));
      } catch (const Unsupported& error) {
        failed = error;
      }
    }
  }
  if (failed) throw Unsupported(*failed);
  return answers;
}

std::vector<Tensor> TeamStage::Run(ModuleId id, std::span<const Tensor> in) const {
  const ModuleInfo& module = InfoOf(id);
  const std::vector<int64_t> ranks = distribution_.RanksOf(module);
  for (const int64_t rank : ranks) {
    if (IsOwn(rank)) continue;
    team_.Send(Global(rank), {{{"do", "run"}, {"module", static_cast<int>(id)}},
                              distribution_.Inputs(module, in, rank)});
  }
  // Rank 0 of a stage is the leader where any is: answers come in the order of ranks.
  const auto answers = Collect(
      ranks, [&](int64_t rank) { return own_->Run(id, distribution_.Inputs(module, in, rank)); });
  return distribution_.Outputs(module, answers, in[0]);
}

int64_t TeamStage::vocabulary() const { return std::min(vocab_, rows_); }

Tensor TeamStage::Logits(const Tensor& x, int64_t begin, int64_t count) const {
  const int64_t each = rows_ / team_.shape().tp;
  std::vector<int64_t> ranks;
  const auto rows = [&](int64_t rank) {
    const int64_t from = std::max(begin, rank * each);
    return Range{from - rank * each, std::min(begin + count, (rank + 1) * each) - from};
  };
  for (int64_t rank = 0; rank < team_.shape().tp; ++rank) {
    if (rows(rank).count > 0) ranks.push_back(rank);
  }
  for (const int64_t rank : ranks) {
    if (IsOwn(rank)) continue;
    team_.Send(Global(rank),
               {{{"do", "logits"}, {"begin", rows(rank).begin}, {"count", rows(rank).count}}, {x}});
  }
  const auto answers = Collect(ranks, [&](int64_t rank) -> std::vector<Tensor> {
    return {own_->Logits(x, rows(rank).begin, rows(rank).count)};
  });
  std::vector<Tensor> parts;
  for (const std::vector<Tensor>& answer : answers) parts.push_back(answer.at(0));
  return parts.size() == 1 ? parts.front() : at::cat(parts, -1);
}

// -- the others --

json Follower::Next() {
  const Message asked = team_.Receive(0);
  if (asked.text.at("do") == "end") return {{"end", asked.text.at("status")}};
  spec_ = asked.text.at("spec");
  return {{"stage", asked.text.at("stage")}, {"layer", asked.text.at("layer")}};
}

Message Follower::Answer(const Message& asked, const Stage& stage) const {
  try {
    if (asked.text.at("do") == "logits") {
      return {json::object(),
              {stage.Logits(asked.tensors.at(0), asked.text.at("begin"), asked.text.at("count"))}};
    }
    const auto id = static_cast<ModuleId>(asked.text.at("module").get<int>());
    return {json::object(), stage.Run(id, asked.tensors)};
  } catch (const Unsupported& error) {
    return {{{"error", error.what()}}, {}};
  }
}

void Follower::Serve(std::span<const WbEngineTensor> tensors) {
  const c10::InferenceMode guard;
  Weights weights(pool_, team_.device());
  for (const WbEngineTensor& tensor : tensors) weights.Add(tensor, "candidate.");
  const std::unique_ptr<Stage> stage = StageOf(spec_, weights, team_);
  team_.Send(0, {Describe(*stage, weights), {}});
  for (;;) {
    const Message asked = team_.Receive(0);
    if (asked.text.at("do") == "close") return;
    team_.Send(0, Answer(asked, *stage));
  }
}

}  // namespace weighbridge::engine
