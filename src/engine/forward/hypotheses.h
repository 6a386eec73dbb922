// What a recorded stage is explained by where our model of its library does not give it: other
// masks, positions and constants, tried on that model.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "engine/forward/module.h"
#include "engine/forward/weights.h"

namespace weighbridge::engine {

struct RecordedOutput {
  const nlohmann::json& spec;  // of the side that was recorded
  const Weights& weights;
  at::Tensor in, out;  // batch first, float32
};

// A stage's output for its input, in the input's dtype.
using RunStage = std::function<at::Tensor(const Stage& stage, const at::Tensor& x)>;

// Each of `tries` is {"patch": {...}}, merged into the spec, or {"scales": ["/pointer", ...]}:
// numbers of the spec (1 where there is none) that are multiplied by the one factor that fits best.
// Gives {"own": figures of the spec as it is, "first": [the first token of each row that it does
// not give, or null], "tries": [figures, "factor" with them]}.
nlohmann::json TryHypotheses(const RecordedOutput& layer, const nlohmann::json& tries,
                             const RunStage& run);

}  // namespace weighbridge::engine
