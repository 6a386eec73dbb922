#include "engine/parallel/requests.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>

#include <algorithm>
#include <memory>

#include "engine/parallel/team.h"
#include "engine/parallel/team_stage.h"

namespace weighbridge::engine {
namespace {

using nlohmann::json;

std::unique_ptr<Follower> follower;

Team& Joined() {
  Team* team = Team::Current();
  if (team == nullptr) throw Unsupported("this process is no rank of a team");
  return *team;
}

// Ranks of one host share its cores; the leader computes alone most of the time.
void LimitThreads(const json& request) {
  int threads = request.value("threads", 0);
  if (threads == 0 && request.at("rank") != 0) {
    threads = std::max(1, at::get_num_threads() / request.value("local_ranks", 1));
  }
  if (threads > 0) at::set_num_threads(threads);
}

json Join(const json& request) {
  LimitThreads(request);
  Team::Join(request);
  Team& team = Joined();
  if (!team.leads()) follower = std::make_unique<Follower>(team);
  return {{"backend", team.backend()}};
}

void End(const json& request) {
  Team& team = Joined();
  for (int64_t rank = 1; rank < team.shape().size(); ++rank) {
    team.Send(rank, {{{"do", "end"}, {"status", request.at("status")}}, {}});
  }
}

void Leave() {
  follower.reset();
  Team::Leave();
}

}  // namespace

json HandleTeam(const json& request, std::span<const WbEngineTensor> tensors) {
  const std::string what = request.at("do");
  if (what == "devices") {
    return {{"devices", at::hasCUDA() ? at::detail::getCUDAHooks().deviceCount() : 0}};
  }
  if (what == "listen") return {{"port", Team::Listen()}};
  if (what == "join") return Join(request);
  if (what == "next" && follower != nullptr) return follower->Next();
  if (what == "serve" && follower != nullptr) {
    follower->Serve(tensors);
  } else if (what == "end") {
    End(request);
  } else if (what == "leave") {
    Leave();
  } else {
    throw Unsupported("the request " + what);
  }
  return json::object();
}

}  // namespace weighbridge::engine
