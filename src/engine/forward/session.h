// The requests of one comparison. The session walks both models from the embedding to the logits; a
// request brings what one stage needs and answers with what was measured there.
//
// Open:   {"ids": [[...], ...], "threads": 0, "device": "cpu|cuda", "free_run": true,
//          "narrow": null|"bf16"|"fp16"}               token ids, rows of one length
// Call:   {"stage": "embedding|layer|mtp|output", "reference": SIDE, "candidate": SIDE,
//         "keep": false, "top": 5}; at the embedding also "mtp_layers", how many "mtp" stages there
//         will be, after the layers and in order; the first has the final norms too.
//         SIDE = {"model": "hf|megatron", "spec": {...}, "sequence_first": false}; of a candidate
//         that a team holds also "team": {"stage", "layer", "pp"} (parallel/team_stage.h), and its
//         tensors are the leader's shards. Tensors are
//         named "reference.NAME" and "candidate.NAME". "SIDE.recorded.PART" is a recording instead
//         of a computation: "in", "out" and "final", sequence first where SIDE says so, "logits";
//         "in" of the output is the state before the final norm.
// Answer: {"modules": [{"name", "shape", figures, "few_tokens", "narrow": {figures}}], "free":
// {figures} of the
//         states that each side computed from its own, "routing": {...}, "tokens": {...},
//         "experts": {"all", "idle"} of a layer, how many no token of the teacher's reached,
//         "own_flips": tokens that chose other experts there, at the output then "replayed":
//         {figures} of the candidate's logits by the reference's routes, "repeats": bool at the
//         first layer, "seconds": {pass: s}}; of a recorded layer, and of recorded logits, also
//         "whole": {figures} of the output, on the recorded input, and of the candidate's
//         ("of_walk": the logits came without a state before them, and so from the embedding)
//         "explained": {figures} against what the candidate's model computes from that, and of the
//         reference's "recorded_reference": {figures} of the recording beside what we compute of
//         it. Of the output, "final": {figures} of what was recorded after a side's final norm,
//         "last": of the reference, those of the last layer, which that norm follows, and "top":
//         the best tokens of each row's last position, [{"reference":
//         [[id, logit], ...], "candidate"}].
//         {"stage": "modules"} gives the names that there are of modules, of all kinds of models:
//         {"embedding", "layer", "mtp", "output": [names]}.
//         {"stage": "hypotheses", "of": "layer|output", "tries": [...]} with a recorded stage of
//         the candidate, after its call, changes no state; its answer is that of TryHypotheses
//         (hypotheses.h).
// State:  "reference.hidden", "candidate.hidden"; with "keep" at the output also
//         "reference.final", "candidate.final", "reference.logits", "candidate.logits".
//
// At each module both sides get the reference's float32 inputs (teacher-forced); the truth is the
// reference in float64 on the same inputs. Float64 is dear, so of long inputs it is taken of a few
// tokens; where these do not clear a module, of all. Beside it each side walks
// on from its own states, and with "narrow" both compute in that dtype, over a prefix.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/boundary.h"
#include "engine/forward/measure.h"
#include "engine/forward/module.h"
#include "engine/forward/weights.h"

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
  class Clock;

  // Activations of the reference: in float32, of all tokens; beside it, of a prefix, in float64 and
  // in the narrow dtype. Each walks from its own state, as the candidate does with `walks`.
  struct Lanes {
    Activations teacher{}, truth{}, narrow{}, candidate{};
    bool own = true;  // the teacher's states are the reference's
    bool walks = false;
  };
  // The states between stages. `replayed`: the candidate's by the reference's routes; undefined
  // until a token has taken another one.
  struct Walk {
    at::Tensor reference, candidate, replayed, truth, narrow;
    at::Tensor teacher;  // what both were given at the last layer
  };
  // What each side makes of a recorded state of the reference, where what it led to was not
  // recorded before the next norm.
  struct LastLayer {
    at::Tensor reference, candidate, exact;
  };
  struct Exact;
  struct Finals;
  class OutputLayer;

  at::Tensor Prefix(const at::Tensor& x) const;
  at::Tensor PrefixRows(const at::Tensor& flat) const;  // of [tokens, ...]
  at::Tensor Sampled(const at::Tensor& rows) const;
  Exact RunExactly(const Stage& stage, const ModuleInfo& module, Lanes& lanes) const;
  nlohmann::json Judge(const Pair& pair, const ModuleInfo& module, Lanes& lanes,
                       std::span<const at::Tensor> candidate, std::span<const at::Tensor> reference,
                       std::span<const at::Tensor> truth, nlohmann::json& answer) const;
  nlohmann::json JudgeNarrow(const Stage& candidate, const ModuleInfo& module,
                             std::span<const at::Tensor> in, std::span<const at::Tensor> reference,
                             std::span<const at::Tensor> truth) const;
  // Whether a module needs no truth of more tokens than those `taken`.
  static bool Cleared(const Measure& measure, const TokenDistance& distance,
                      const at::Tensor& taken);
  nlohmann::json Teach(const Pair& pair, std::span<const ModuleInfo> modules, Lanes& lanes);
  nlohmann::json Embed(const Pair& pair);
  nlohmann::json Layer(const Pair& pair);
  void FollowRoutes(Lanes& lanes) const;
  std::vector<at::Tensor> RunCandidate(const Stage& candidate, const ModuleInfo& module,
                                       const std::vector<at::Tensor>& taught, Lanes& lanes) const;
  int64_t WalkCandidate(const Stage& candidate, Lanes& lanes);
  void EmbedNext(const Pair& pair, int64_t mtp_layers);
  Walk AfterFinalNorm(const Pair& pair) const;
  nlohmann::json Mtp(const Pair& pair);
  nlohmann::json Output(const Pair& pair, bool keep, int64_t top);
  nlohmann::json Hypotheses(const Pair& pair, const nlohmann::json& request) const;
  void JudgeRecordedFinal(const Pair& pair, nlohmann::json& answer) const;
  void JudgeRecordedLogits(const Pair& pair, const Finals& finals, nlohmann::json& answer) const;

  at::Device device_;
  std::optional<at::ScalarType> narrow_;
  bool free_run_ = true, repeated_ = false;
  at::Tensor ids_;
  at::Tensor sample_;  // tokens of which the truth is taken; undefined: of all
  int64_t prefix_rows_ = 1, prefix_length_ = 1;
  Walk walk_;
  LastLayer last_;
  // Of MTP layers: the embeddings of the tokens that each sees, and the states after the last one
  // that ran.
  std::vector<Walk> next_;
  Walk mtp_;
  size_t mtp_done_ = 0;
  std::map<std::string, at::Tensor> states_;
  std::map<std::string, double> seconds_;
  BufferPool pool_;
};

}  // namespace weighbridge::engine
