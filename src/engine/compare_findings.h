// What the walk of `compare` found, before anything is said of it.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "checks/result.h"
#include "engine/describe.h"
#include "engine/recorded_cause.h"

namespace weighbridge {

struct JudgedModule {
  StageId stage;
  std::string module;  // as Megatron-Core calls it, beneath its layer; empty: the stage as a whole
  ResultRow row;
  bool of_walk = false;  // from the embedding on: what is wrong in any stage before shows too
};

struct CompareFindings {
  std::vector<JudgedModule> judged;  // what the report's rows are
  // Beside a recording, which is judged by stages: what our own models make of its states.
  std::vector<JudgedModule> evidence;
  std::optional<Error> ended;          // why the walk did not come to its end
  bool recorded = false;               // a side is a recording
  std::set<int64_t> unexplained;       // its layers that our model of its library does not give
  RecordedCauses of_recording;         // of these, where something else explains them
  std::vector<nlohmann::json> growth;  // of the states that each side computed from its own
  nlohmann::json top = nlohmann::json::array();  // tokens of the last position of each row
  nlohmann::json tokens;                         // null: the walk did not come so far
  std::map<std::string, double> seconds;         // of each pass
  int64_t routed = 0, flipped = 0, near_ties = 0;
  // By the name of the layer: how many experts it has, and how many no token reached.
  struct Idle {
    std::string layer;
    int64_t idle = 0, all = 0;
  };
  std::vector<Idle> idle;
  int64_t own_flips = 0;    // where each side routed by its own states
  nlohmann::json replayed;  // of the candidate's logits by the reference's routes; null: as it is
};

}  // namespace weighbridge
