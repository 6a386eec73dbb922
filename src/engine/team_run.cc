#include "engine/team_run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <vector>

#include "base/json.h"
#include "checks/parameter_source.h"
#include "engine/component.h"
#include "engine/rank_share.h"
#include "engine/stage_weights.h"

namespace weighbridge {
namespace {

using nlohmann::json;

std::string HostName() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "localhost";
}

// What every rank says of itself, on every rank.
Result<std::vector<json>> Exchange(Coordinator& ranks, const json& own) {
  WB_TRY(const std::vector<std::string> texts, ranks.Gather(own.dump()));
  WB_TRY(const std::string all, ranks.Broadcast(json(texts).dump()));
  WB_TRY(const json list, ParseJson(all, "what the ranks said"));
  std::vector<json> said;
  for (const json& text : list) {
    WB_TRY(said.emplace_back(), ParseJson(text.get<std::string>(), "what a rank said"));
  }
  return said;
}

// This rank among those of its host, and how many these are.
struct LocalRank {
  int64_t rank = 0, size = 0;
};

LocalRank LocalRankOf(const std::vector<json>& said, size_t rank) {
  LocalRank local;
  for (size_t other = 0; other < said.size(); ++other) {
    if (said[other].at("host") != said[rank].at("host")) continue;
    local.rank += other < rank ? 1 : 0;
    ++local.size;
  }
  return local;
}

// NCCL needs a device for each rank.
bool HaveOwnDevices(const std::vector<json>& said) {
  for (size_t rank = 0; rank < said.size(); ++rank) {
    if (said[rank].at("devices").get<int64_t>() < LocalRankOf(said, rank).size) return false;
  }
  return true;
}

StageId StageOf(const json& next) {
  const std::string kind = next.at("stage");
  const StageKind of = kind == "embedding" ? StageKind::kEmbedding
                       : kind == "layer"   ? StageKind::kLayer
                       : kind == "mtp"     ? StageKind::kMtp
                                           : StageKind::kOutput;
  return {of, next.at("layer").get<int64_t>()};
}

Result<std::unique_ptr<ParameterSource>> OpenMegatronSide(const Model& model, const Checkpoint& hf,
                                                          const MegatronCheckpoint* megatron,
                                                          bool without_mtp) {
  if (megatron == nullptr) {
    WB_TRY(HfParameters parameters, HfParameters::Create(model, hf));
    return std::make_unique<HfParameters>(std::move(parameters));
  }
  WB_TRY(MegatronParameters parameters, MegatronParameters::Create(model, *megatron, without_mtp));
  return std::make_unique<MegatronParameters>(std::move(parameters));
}

}  // namespace

int64_t TeamSize(const ParallelGrid& grid) {
  return int64_t{grid.pp} * std::lcm(int64_t{grid.tp}, int64_t{grid.ep} * grid.etp);
}

Result<TeamRun> TeamRun::Join(Coordinator& ranks, const CompareOptions& options) {
  const ParallelGrid& grid = options.grid;
  if (TeamSize(grid) != ranks.size()) {
    return Fail(ErrorKind::kUsage, "grid",
                fmt::format("{} needs {} ranks, and {} were started", ToString(grid),
                            TeamSize(grid), ranks.size()),
                "", "start as many, or run `compare` alone: it starts them itself");
  }
  TeamRun run;
  run.cuda_ = options.device == "cuda";
  run.rank_ = ranks.rank();
  json own = {{"host", HostName()}, {"devices", 0}, {"port", 0}};
  if (run.cuda_) {
    WB_TRY(const json found, AskTeam({{"do", "devices"}}, true));
    own["devices"] = found.at("devices");
  }
  if (ranks.first()) {
    WB_TRY(const json listening, AskTeam({{"do", "listen"}}, run.cuda_));
    own["port"] = listening.at("port");
  }
  WB_TRY(const std::vector<json> said, Exchange(ranks, own));
  const LocalRank local = LocalRankOf(said, static_cast<size_t>(ranks.rank()));
  const bool one_host = local.size == ranks.size();
  const int64_t devices = std::max<int64_t>(own.at("devices").get<int64_t>(), 1);
  WB_TRY(
      const json joined,
      AskTeam({{"do", "join"},
               {"rank", ranks.rank()},
               {"store", {one_host ? json("127.0.0.1") : said[0].at("host"), said[0].at("port")}},
               {"local", one_host},
               {"tp", grid.tp},
               {"pp", grid.pp},
               {"ep", grid.ep},
               {"etp", grid.etp},
               {"sequence_parallel", options.sequence_parallel},
               {"device", options.device},
               {"device_index", local.rank % devices},
               {"nccl", run.cuda_ && HaveOwnDevices(said)},
               {"local_ranks", local.size},
               {"threads", options.threads}},
              run.cuda_));
  run.backend_ = joined.at("backend");
  return run;
}

TeamRun::~TeamRun() {
  if (joined_) [[maybe_unused]]
    const auto left = AskTeam({{"do", "leave"}}, cuda_);
}

Status TeamRun::End() const {
  WB_TRY([[maybe_unused]] const json told, AskTeam({{"do", "end"}, {"status", 0}}, cuda_));
  return {};
}

Status TeamRun::Follow(const Model& model, const Checkpoint& hf, const MegatronCheckpoint* megatron,
                       const CompareOptions& options) const {
  WB_TRY(const std::unique_ptr<ParameterSource> source,
         OpenMegatronSide(model, hf, megatron, options.without_mtp));
  const RankId rank = RankOf(options.grid, rank_);
  StageTensors tensors;
  for (;;) {
    WB_TRY(const json next, AskTeam({{"do", "next"}}, cuda_));
    if (next.contains("end")) return {};
    tensors.Clear();
    WB_RETURN_IF_ERROR(
        AddShards(model, *source, StageOf(next), options.grid, rank, "candidate", tensors));
    WB_TRY([[maybe_unused]] const json served, AskTeam({{"do", "serve"}}, cuda_, tensors.tensors));
  }
}

}  // namespace weighbridge
