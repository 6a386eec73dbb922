// The requests of one comparison. The session walks both models from the embedding to the logits; a
// request brings what one stage needs and answers with what was measured there.
//
// Open:   {"ids": [[...], ...], "threads": 0}          token ids, rows of one length
// Call:   {"stage": "embedding|layer|output", "reference": SIDE, "candidate": SIDE, "keep": false}
//         SIDE = {"model": "hf|megatron", "spec": {...}, "sequence_first": false}; tensors are
//         named "reference.NAME" and "candidate.NAME". "SIDE.recorded.PART" is a recording instead
//         of a computation: "in", "out" and "final", sequence first where SIDE says so, "logits".
// Answer: {"modules": [{"name", "shape", figures}], "free": {figures} of the states that each side
//         computed from its own, "routing": {...}, "tokens": {...}}; of a recorded layer, and of
//         recorded logits, also "whole": {figures} of the output, on the recorded input, and of the
//         candidate's "explained": {figures} against what the candidate's model computes from that.
// State:  "reference.hidden", "candidate.hidden"; with "keep" at the output also
//         "reference.final", "candidate.final", "reference.logits", "candidate.logits".
//
// At each module both sides get the reference's float32 inputs (teacher-forced); the truth is the
// reference in float64 on the same inputs. Beside it each side walks on from its own states.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>

#include "engine/boundary.h"
#include "engine/forward/measure.h"
#include "engine/forward/module.h"

namespace weighbridge::engine {

class Session {
 public:
  explicit Session(const nlohmann::json& request);

  nlohmann::json Call(const nlohmann::json& request, std::span<const WbEngineTensor> tensors);
  // nullptr: there is none.
  const at::Tensor* State(const std::string& name) const;

 private:
  struct Side;
  struct Pair;

  // What both walk through at a stage.
  struct Walk {
    at::Tensor reference, candidate, truth;  // hidden states, each from its own
  };

  nlohmann::json Teach(const Pair& pair, std::span<const ModuleInfo> modules, Activations& states);
  nlohmann::json Embed(const Pair& pair);
  nlohmann::json Layer(const Pair& pair);
  nlohmann::json Output(const Pair& pair, bool keep);
  std::optional<nlohmann::json> RecordedLogits(const Pair& pair, const at::Tensor& final) const;

  at::Tensor ids_;
  Walk walk_;
  std::map<std::string, at::Tensor> states_;
};

}  // namespace weighbridge::engine
