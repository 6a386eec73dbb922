// The requests by which the program makes its process a rank of a team.
//
//   {"do": "listen"}                     of the leader, before the others join: {"port"}
//   {"do": "devices"}                    {"devices": how many GPUs there are}
//   {"do": "join", ...}                  as Team::Join: {"backend": "gloo|nccl"}
//   {"do": "next"}                       of the others: as Follower::Next
//   {"do": "serve"}, with tensors        of the others: as Follower::Serve
//   {"do": "end", "status": s}           of the leader: the others are told
//   {"do": "leave"}
#pragma once

#include <nlohmann/json.hpp>
#include <span>

#include "engine/boundary.h"

namespace weighbridge::engine {

// Throws Unsupported and c10::Error.
nlohmann::json HandleTeam(const nlohmann::json& request, std::span<const WbEngineTensor> tensors);

}  // namespace weighbridge::engine
