// What explains a recorded stage that Megatron's config does not: the hypotheses that the component
// tries (forward/hypotheses.h), and which of them holds.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "checks/result.h"
#include "engine/describe.h"

namespace weighbridge {

struct Hypothesis {
  std::string cause;                 // docs/causes.md
  std::vector<std::string> modules;  // beneath the layer, where it sits
  std::string what;                  // "positions that start again at token 12"
  nlohmann::json trial;              // as the component takes it
};

// A stage that was recorded.
struct RecordedStage {
  StageId id;
  const nlohmann::json& spec;                    // engine/describe.h
  std::set<std::string> modules;                 // that it has, as rows call them
  const std::vector<std::vector<int64_t>>& ids;  // rows of tokens
};

// Masks and positions that people get wrong, and the constants of the stage. `first` is the first
// token of each row that the stage as it is does not give: where a document, a window or a gap
// begins.
std::vector<Hypothesis> HypothesesOf(const RecordedStage& stage,
                                     const std::vector<std::optional<int64_t>>& first);

// Finds what explains stages, one after the other. What explained one is tried first on the next.
class RecordedCauses {
 public:
  // Hands trials to the component and gives its answer.
  using Ask = std::function<Result<nlohmann::json>(const nlohmann::json& tries)>;

  // Nothing, where the stage as it is gives what was recorded. Errors: those of `ask`. Stages
  // without an explanation are counted, and after a few no more are searched.
  Status Explain(const RecordedStage& stage, const Ask& ask);
  bool Explained(StageId stage) const;
  std::vector<Cause> Causes() const;

 private:
  struct Found {
    Hypothesis hypothesis;
    double ratio = 0, own_ratio = 0, factor = 1;  // of the first stage
    std::vector<StageId> stages;
    std::vector<std::string> where;
  };
  bool Take(const RecordedStage& stage, const std::vector<Hypothesis>& tried,
            const nlohmann::json& answer);

  std::vector<Found> found_;
  int searched_in_vain_ = 0;
};

}  // namespace weighbridge
