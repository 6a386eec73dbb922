#include "engine/forward/session.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "engine/forward/hypotheses.h"
#include "engine/forward/routes.h"
#include "engine/forward/sides.h"

namespace weighbridge::engine {
namespace {

using at::Tensor;
using nlohmann::json;

// Of so many tokens the truth is taken of all; of more, of so many, and over such a prefix.
constexpr int64_t kAllTokens = 64, kSampledTokens = 32, kPrefixTokens = 32, kPrefixRows = 4;

// Beyond so many tokens the products of one pass alone keep all cores busy.
constexpr int64_t kTokensAtOnce = 4096;

// The error of so few tokens is one of a few roundings, which whole heads and rows share.
constexpr int64_t kFewTokens = 8;

// What clears a module whose truth is known of a sample: errors that are clearly within the rule
// there, and a distance of both sides at the other tokens like the one at these. A doubt costs
// time, no verdict: the truth is then taken of all tokens.
constexpr double kClearRatio = 1.5, kClearMaxRatio = 6, kClearRest = 2, kClearRestMax = 4;

std::vector<int64_t> ShapeOf(const Tensor& x) { return x.sizes().vec(); }

// [tokens, all the rest].
Tensor Tokens(const Tensor& x) { return x.flatten(0, 1).flatten(1); }

std::optional<at::ScalarType> NarrowOf(const json& name) {
  if (name.is_null()) return std::nullopt;
  if (name == "bf16") return at::kBFloat16;
  if (name == "fp16") return at::kHalf;
  throw Unsupported("computing in " + name.dump());
}

// Both sides and the truth in what they say that they compute in.
void RequireCuda() {
  if (!at::hasCUDA() || at::detail::getCUDAHooks().deviceCount() < 1) {
    throw Unsupported("CUDA: torch finds no device");
  }
  at::globalContext().setAllowTF32CuBLAS(false);
  at::globalContext().setAllowTF32CuDNN(false);
}

// The weights of experts, of the tokens that count.
json JudgeRoutes(Measure measure, std::span<const Tensor> candidate,
                 std::span<const Tensor> reference, std::span<const Tensor> truth, json& routing) {
  Routes routes = CompareRoutes(candidate, reference, truth);
  const auto rows = [&](const Tensor& x) { return x.flatten(0, 1).index({routes.counted}); };
  measure.Add(rows(candidate[0]), rows(reference[0]), rows(truth[0]));
  routing = std::move(routes.figures);
  return measure.ToJson();
}

// Runs the module on several groups of tokens [b, s, ...] at once: its matrices are made once.
std::vector<std::vector<Tensor>> RunTogether(const Stage& stage, const ModuleInfo& module,
                                             std::span<const std::vector<Tensor>> groups) {
  std::vector<Tensor> joined;
  std::vector<int64_t> tokens;
  for (const std::vector<Tensor>& group : groups) {
    tokens.push_back(group[0].size(0) * group[0].size(1));
  }
  for (size_t slot = 0; slot < module.in.size(); ++slot) {
    std::vector<Tensor> parts;
    for (const std::vector<Tensor>& group : groups) {
      if (group[slot].defined()) parts.push_back(group[slot].flatten(0, 1));
    }
    joined.push_back(parts.empty() ? Tensor() : at::cat(parts).unsqueeze(0));
  }
  std::vector<std::vector<Tensor>> out(groups.size());
  for (const Tensor& whole : RunOr(stage, module, joined)) {
    int64_t begin = 0;
    for (size_t g = 0; g < groups.size(); ++g) {
      Tensor part;
      if (whole.defined()) {
        const Tensor& like = groups[g][0];
        part = whole[0].narrow(0, begin, tokens[g]).unflatten(0, {like.size(0), like.size(1)});
      }
      out[g].push_back(std::move(part));
      begin += tokens[g];
    }
  }
  return out;
}

// Whether inputs of tokens can stand one after another.
bool AreAlike(std::span<const Tensor> a, std::span<const Tensor> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Tensor& x, const Tensor& y) {
    return x.defined() == y.defined() && (!x.defined() || x.sizes() == y.sizes());
  });
}

json AllModules() {
  const auto names = [](std::span<const ModuleInfo> modules) {
    json list = json::array();
    for (const ModuleInfo& module : modules) list.push_back(module.name);
    return list;
  };
  return {{"embedding", names(EmbeddingModules())},
          {"layer", names(LayerModules())},
          {"mtp", names(MtpModules())},
          {"output", names(OutputModules())}};
}

}  // namespace

Session::Session(const json& request)
    : device_(request.value("device", "cpu") == "cuda" ? at::kCUDA : at::kCPU),
      narrow_(NarrowOf(request.value("narrow", json()))),
      free_run_(request.value("free_run", true)) {
  if (device_.is_cuda()) RequireCuda();
  const int threads = request.value("threads", 0);
  if (threads > 0) at::set_num_threads(threads);
  const auto rows = request.at("ids").get<std::vector<std::vector<int64_t>>>();
  std::vector<Tensor> tensors;
  for (const std::vector<int64_t>& row : rows) {
    tensors.push_back(at::tensor(row, at::TensorOptions().dtype(at::kLong)));
  }
  ids_ = at::stack(tensors);
  const int64_t tokens = ids_.numel();
  prefix_rows_ = std::min(ids_.size(0), kPrefixRows);
  prefix_length_ = std::min(ids_.size(1), std::max<int64_t>(1, kPrefixTokens / prefix_rows_));
  if (tokens > kAllTokens) {
    // The first and the last among them.
    sample_ = at::linspace(0, static_cast<double>(tokens - 1), kSampledTokens,
                           at::TensorOptions().dtype(at::kDouble))
                  .round()
                  .to(at::kLong);
  } else {
    prefix_rows_ = ids_.size(0);
    prefix_length_ = ids_.size(1);
  }
}

json Session::Call(const json& request, std::span<const WbEngineTensor> tensors) {
  const c10::InferenceMode guard;
  if (request.at("stage") == "modules") return AllModules();
  seconds_.clear();
  const Pair pair{{request.at("reference"), tensors, "reference", pool_, device_},
                  {request.at("candidate"), tensors, "candidate", pool_, device_}};
  const std::string stage = request.at("stage");
  if (stage == "hypotheses") return Hypotheses(pair, request);
  if (stage == "embedding") EmbedNext(pair, request.value("mtp_layers", int64_t{0}));
  json answer = stage == "embedding" ? Embed(pair)
                : stage == "layer"   ? Layer(pair)
                : stage == "mtp"
                    ? Mtp(pair)
                    : Output(pair, request.value("keep", false), request.value("top", int64_t{0}));
  states_["reference.hidden"] = walk_.reference;
  states_["candidate.hidden"] = walk_.candidate;
  answer["seconds"] = seconds_;
  if (ids_.numel() < kFewTokens) {
    for (json& row : answer.at("modules")) {
      row["few_tokens"] = true;
      if (row.contains("narrow")) row["narrow"]["few_tokens"] = true;
    }
  }
  return answer;
}

// What else gives a recorded output of the candidate, on the input that it was judged with.
json Session::Hypotheses(const Pair& pair, const json& request) const {
  const Side& side = pair.candidate;
  const bool output = request.at("of") == "output";
  const char* part = !output ? "out" : side.recorded.Has("logits") ? "logits" : "final";
  const auto run = [&](const Stage& stage, const Tensor& x) {
    if (!output) return RunLayer(stage, x);
    const Tensor final = RunOr(stage, OutputModules()[0], std::span(&x, 1))[0];
    return side.recorded.Has("logits") ? stage.Logits(final, 0, stage.vocabulary()) : final;
  };
  return TryHypotheses({request.at("candidate").at("spec"), side.weights,
                        output ? walk_.candidate : walk_.teacher, side.Recorded(part).value()},
                       request.at("tries"), run);
}

// The first tokens of the first rows.
Tensor Session::Prefix(const Tensor& x) const {
  return x.narrow(0, 0, prefix_rows_).narrow(1, 0, prefix_length_);
}

// Of [tokens, ...] those of which the truth is taken.
Tensor Session::Sampled(const Tensor& rows) const {
  return sample_.defined() ? rows.index_select(0, sample_.to(rows.device())) : rows;
}

// What the reference gives in float64: on the teacher's inputs at the tokens that the module's
// reach allows to take alone, on the state of the truth's own walk, and on the narrow inputs.
struct Session::Exact {
  std::vector<Tensor> taught, walk, narrow;
};

Session::Exact Session::RunExactly(const Stage& stage, const ModuleInfo& module,
                                   Lanes& lanes) const {
  const auto picked = [&](const std::vector<Tensor>& in) {
    std::vector<Tensor> out;
    for (const Tensor& x : in) {
      if (!x.defined() || module.reach == Reach::kAll || !sample_.defined()) {
        out.push_back(x);
      } else if (module.reach == Reach::kPast) {
        out.push_back(Prefix(x));
      } else {
        out.push_back(Sampled(x.flatten(0, 1)).unsqueeze(0));
      }
    }
    return out;
  };
  std::vector<std::vector<Tensor>> groups;
  groups.push_back(InDType(picked(Inputs(lanes.teacher, module, at::kFloat)), at::kDouble));
  groups.push_back(Inputs(lanes.truth, module, at::kDouble));
  if (narrow_) {
    groups.push_back(InDType(Inputs(lanes.narrow, module, *narrow_), at::kDouble));
  }
  std::vector<std::vector<Tensor>> out;
  if (module.reach == Reach::kToken) {
    out = RunTogether(stage, module, groups);
  } else {
    for (const std::vector<Tensor>& group : groups) out.push_back(RunOr(stage, module, group));
  }
  return {std::move(out[0]), std::move(out[1]),
          narrow_ ? std::move(out[2]) : std::vector<Tensor>()};
}

// `truth` is of what RunExactly() took.
json Session::Judge(const Pair& pair, const ModuleInfo& module, Lanes& lanes,
                    std::span<const Tensor> candidate, std::span<const Tensor> reference,
                    std::span<const Tensor> truth, json& answer) const {
  if (module.id == ModuleId::kRouter && reference.size() == 2) {
    return JudgeRoutes(Measure(), candidate, reference, truth, answer["routing"]);
  }
  Measure measure;
  TokenDistance distance;
  const bool all = !sample_.defined() || module.reach == Reach::kAll;
  const bool prefix = module.reach == Reach::kPast;
  const auto taken = [&](const Tensor& x) {
    if (all) return Tokens(x);
    return prefix ? Tokens(Prefix(x)) : Sampled(Tokens(x));
  };
  for (size_t i = 0; i < reference.size(); ++i) {
    measure.AddErrors(taken(candidate[i]), taken(reference[i]), Tokens(truth[i]).to(at::kDouble));
    measure.AddDifference(Tokens(candidate[i]), Tokens(reference[i]), &distance);
  }
  if (all) return measure.ToJson();
  Tensor is_taken = at::zeros({ids_.numel()}, at::TensorOptions().dtype(at::kBool));
  if (prefix) {
    Prefix(is_taken.view(ids_.sizes())).fill_(true);
  } else {
    is_taken.index_fill_(0, sample_, true);
  }
  if (Cleared(measure, distance, is_taken)) return measure.ToJson();
  Measure whole;
  const std::vector<Tensor> exact =
      RunOr(*pair.reference.stage, module, Inputs(lanes.teacher, module, at::kDouble));
  for (size_t i = 0; i < reference.size(); ++i) {
    whole.Add(Tokens(candidate[i]), Tokens(reference[i]), Tokens(exact[i]).to(at::kDouble));
  }
  return whole.ToJson();
}

bool Session::Cleared(const Measure& measure, const TokenDistance& distance, const Tensor& taken) {
  // A few elements that hold all of the error are judged by the largest, which a sample may miss.
  if (!measure.finite() || measure.concentrated() || !(measure.ratio() <= kClearRatio) ||
      !(measure.max_ratio() <= kClearMaxRatio)) {
    return false;
  }
  const Tensor all = distance.Relative();
  const Tensor here = all.index({taken}), rest = all.index({taken.logical_not()});
  if (rest.numel() == 0) return true;
  constexpr double kUlp = 0x1p-23;
  const auto root = [&](const Tensor& squared) { return std::sqrt(squared.item<double>()); };
  const double like = std::max(root(here.mean()), kUlp);
  const double largest = std::max(root(here.max()), kUlp);
  if (root(rest.mean()) > kClearRest * like || root(rest.max()) > kClearRestMax * largest) {
    return false;
  }
  // One element may be far off where its token is not.
  const Tensor peaks = distance.Peaks();
  const double peak = std::max(root(peaks.index({taken}).max()), kUlp);
  return root(peaks.index({taken.logical_not()}).max()) <= kClearRestMax * peak;
}

// Runs the reference's chains; each module's outputs are measured on the teacher's inputs.
json Session::Teach(const Pair& pair, std::span<const ModuleInfo> modules, Lanes& lanes) {
  json answer;
  answer["modules"] = json::array();
  const Stage &reference = *pair.reference.stage, &candidate = *pair.candidate.stage;
  for (const ModuleInfo& module : modules) {
    const bool of_reference = reference.Has(module.id), of_candidate = candidate.Has(module.id);
    if (lanes.walks && !of_candidate && !IsFilled(lanes.candidate, module)) {
      Store(lanes.candidate, module,
            RunOr(candidate, module, Inputs(lanes.candidate, module, at::kFloat)));
    }
    if (!of_reference && !of_candidate && IsFilled(lanes.teacher, module)) continue;
    const std::vector<Tensor> in = Inputs(lanes.teacher, module, at::kFloat);
    std::vector<Tensor> out, narrow;
    Exact exact;
    {
      const Clock clock(seconds_, "reference");
      out = RunOr(reference, module, in);
    }
    {
      const Clock clock(seconds_, "truth");
      exact = RunExactly(reference, module, lanes);
    }
    std::vector<Tensor> narrow_in;
    if (narrow_) {
      const Clock clock(seconds_, "narrow");
      narrow_in = Inputs(lanes.narrow, module, *narrow_);
      narrow = InDType(RunOr(reference, module, narrow_in), *narrow_);
    }
    if (of_reference || of_candidate) {
      std::vector<Tensor> other;
      {
        const Clock clock(seconds_, "candidate");
        other = RunCandidate(candidate, module, in, lanes);
      }
      if (other.size() != out.size()) {
        throw Unsupported(std::string("models whose ") + module.name + " gives other tensors");
      }
      json row;
      {
        const Clock clock(seconds_, "measures");
        row = Judge(pair, module, lanes, other, out, exact.taught, answer);
      }
      row["name"] = module.name;
      row["shape"] = ShapeOf(out[0]);
      if (of_reference != of_candidate) row["only"] = of_reference ? "reference" : "candidate";
      if (narrow_) {
        const Clock clock(seconds_, "narrow");
        row["narrow"] = JudgeNarrow(candidate, module, narrow_in, narrow, exact.narrow);
      }
      answer["modules"].push_back(std::move(row));
    }
    Store(lanes.teacher, module, std::move(out));
    Store(lanes.truth, module, std::move(exact.walk));
    if (module.id == ModuleId::kRouter) FollowRoutes(lanes);
    if (narrow_) Store(lanes.narrow, module, std::move(narrow));
  }
  if (const Tensor& routing = At(lanes.teacher, Slot::kRouting); routing.defined()) {
    const Tensor reached = (routing != 0).flatten(0, -2).any(0);
    answer["experts"] = {{"all", reached.numel()},
                         {"idle", reached.logical_not().sum().item<int64_t>()}};
  }
  return answer;
}

// On the teacher's inputs, and on its own where it walks on beside them: at once where each token
// is for itself, since a matrix is then read and packed once.
std::vector<Tensor> Session::RunCandidate(const Stage& candidate, const ModuleInfo& module,
                                          const std::vector<Tensor>& taught, Lanes& lanes) const {
  if (!lanes.walks || !candidate.Has(module.id)) return RunOr(candidate, module, taught);
  const std::vector<Tensor> own = Inputs(lanes.candidate, module, at::kFloat);
  if (module.reach == Reach::kToken && ids_.numel() <= kTokensAtOnce && AreAlike(taught, own)) {
    std::vector<std::vector<Tensor>> out =
        RunTogether(candidate, module, std::vector<std::vector<Tensor>>{taught, own});
    Store(lanes.candidate, module, std::move(out[1]));
    return std::move(out[0]);
  }
  Store(lanes.candidate, module, candidate.Run(module.id, own));
  return candidate.Run(module.id, taught);
}

// A token that takes another expert in float64 than in float32 walks on by the reference's route:
// what it shows of the reference is rounding, not the other expert.
void Session::FollowRoutes(Lanes& lanes) const {
  Tensor& truth = At(lanes.truth, Slot::kRouting);
  const Tensor& taught = At(lanes.teacher, Slot::kRouting);
  if (!lanes.own || !truth.defined() || !taught.defined()) return;
  const Tensor routes = Prefix(taught).to(truth.scalar_type());
  truth = at::where((truth != 0).ne(routes != 0).any(-1, true), routes, truth);
}

// The same verdict in the narrow dtype, with its own error and ULP.
json Session::JudgeNarrow(const Stage& candidate, const ModuleInfo& module,
                          std::span<const Tensor> in, std::span<const Tensor> reference,
                          std::span<const Tensor> truth) const {
  std::vector<Tensor> other = RunOr(candidate, module, in);
  Measure measure(*narrow_);
  if (module.id == ModuleId::kRouter && reference.size() == 2) {
    json routing;  // told of float32 alone
    return JudgeRoutes(measure, other, reference, truth, routing);
  }
  for (size_t i = 0; i < reference.size(); ++i) {
    measure.Add(Tokens(other[i].to(*narrow_)), Tokens(reference[i]),
                Tokens(truth[i]).to(at::kDouble));
  }
  return measure.ToJson();
}

json Session::Embed(const Pair& pair) {
  Lanes lanes;
  const Tensor ids = ids_.to(device_);
  At(lanes.teacher, Slot::kIds) = ids;
  At(lanes.truth, Slot::kIds) = Prefix(ids);
  At(lanes.narrow, Slot::kIds) = Prefix(ids);
  json answer = Teach(pair, EmbeddingModules(), lanes);
  if (const auto recorded = pair.candidate.Recorded("out")) {
    Measure measure;
    const Tensor& own = At(lanes.teacher, Slot::kOut);
    measure.Add(*recorded, own, own.to(at::kDouble));
    answer["whole"] = measure.ToJson();
    answer["whole"]["shape"] = ShapeOf(own);
  }
  walk_.reference = pair.reference.Recorded("out").value_or(At(lanes.teacher, Slot::kOut));
  Activations ids_only{};
  At(ids_only, Slot::kIds) = ids;
  Activations own = Chain(*pair.candidate.stage, EmbeddingModules(), ids_only);
  walk_.candidate = pair.candidate.Recorded("out").value_or(At(own, Slot::kOut));
  walk_.truth = At(lanes.truth, Slot::kOut).to(at::kDouble);
  walk_.narrow = At(lanes.narrow, Slot::kOut);
  return answer;
}

// MTP layer i sees the token i + 1 places on; beyond the end it sees token 0, as Megatron's does.
void Session::EmbedNext(const Pair& pair, int64_t mtp_layers) {
  const ModuleInfo& embedding = EmbeddingModules()[0];
  Tensor ids = ids_.to(device_);
  for (int64_t layer = 0; layer < mtp_layers; ++layer) {
    ids = at::constant_pad_nd(ids.slice(1, 1), {0, 1});
    Walk next;
    next.reference = RunOr(*pair.reference.stage, embedding, std::span(&ids, 1))[0];
    next.candidate = RunOr(*pair.candidate.stage, embedding, std::span(&ids, 1))[0];
    next.truth = Prefix(next.reference).to(at::kDouble);
    if (narrow_) next.narrow = Prefix(next.reference).to(*narrow_);
    next_.push_back(std::move(next));
  }
}

// What the first MTP layer sees: the states after the final norm.
Session::Walk Session::AfterFinalNorm(const Pair& pair) const {
  const auto normed = [](const Stage& stage, const Tensor& x) {
    return RunOr(stage, OutputModules()[0], std::span(&x, 1))[0];
  };
  Walk after;
  after.reference = normed(*pair.reference.stage, walk_.reference);
  after.candidate = normed(*pair.candidate.stage, walk_.candidate);
  after.truth = normed(*pair.reference.stage, walk_.truth);
  if (narrow_) after.narrow = normed(*pair.reference.stage, walk_.narrow);
  return after;
}

json Session::Mtp(const Pair& pair) {
  const Stage &reference = *pair.reference.stage, &candidate = *pair.candidate.stage;
  if (mtp_done_ == 0) {
    if (auto in = pair.candidate.Recorded("in")) walk_.candidate = *std::move(in);
    mtp_ = AfterFinalNorm(pair);
  }
  const Walk& next = next_.at(mtp_done_++);
  const auto run = [](const Stage& stage, const Tensor& embedded, const Tensor& before) {
    Activations own{};
    At(own, Slot::kNext) = embedded;
    At(own, Slot::kBefore) = before;
    own = Chain(stage, MtpModules(), std::move(own));
    return At(own, Slot::kFinal);
  };
  const auto recorded = pair.candidate.Recorded("out");
  const Tensor before = recorded ? mtp_.candidate : mtp_.reference;
  Lanes lanes;
  lanes.own = !recorded;
  At(lanes.teacher, Slot::kNext) = next.reference;
  At(lanes.teacher, Slot::kBefore) = before;
  At(lanes.truth, Slot::kNext) = next.truth;
  At(lanes.truth, Slot::kBefore) = mtp_.truth;
  At(lanes.narrow, Slot::kNext) = next.narrow;
  At(lanes.narrow, Slot::kBefore) = mtp_.narrow;
  json answer = Teach(pair, MtpModules(), lanes);
  const Tensor taught = At(lanes.teacher, Slot::kFinal);
  if (recorded) {
    const auto wide = [](const Tensor& x) { return x.to(at::kDouble); };
    Measure measure, explained;
    measure.Add(*recorded, taught, run(reference, wide(next.reference), wide(before)));
    explained.Add(*recorded, run(candidate, next.candidate, before),
                  run(candidate, wide(next.candidate), wide(before)));
    answer["whole"] = measure.ToJson();
    answer["whole"]["shape"] = ShapeOf(before);
    answer["explained"] = explained.ToJson();
    mtp_.reference = run(reference, next.reference, mtp_.reference);
    mtp_.candidate = *recorded;
  } else {
    mtp_.reference = taught;
    if (free_run_) mtp_.candidate = run(candidate, next.candidate, mtp_.candidate);
  }
  mtp_.truth = At(lanes.truth, Slot::kFinal);
  mtp_.narrow = At(lanes.narrow, Slot::kFinal);
  states_["reference.mtp"] = mtp_.reference;
  states_["candidate.mtp"] = mtp_.candidate;
  return answer;
}

json Session::Layer(const Pair& pair) {
  const auto& run = RunLayer;
  // What was recorded of either side is the teacher; the candidate's, where both are.
  Tensor teacher = walk_.reference;
  for (const Side* side : {&pair.reference, &pair.candidate}) {
    if (const auto in = side->Recorded("in")) teacher = *in;
  }
  walk_.teacher = teacher;
  const bool is_own = teacher.is_same(walk_.reference);
  Lanes lanes;
  lanes.own = is_own;
  At(lanes.teacher, Slot::kX) = teacher;
  At(lanes.truth, Slot::kX) = walk_.truth;
  At(lanes.narrow, Slot::kX) = walk_.narrow;
  lanes.walks = free_run_ && !pair.candidate.recorded.Has("out");
  At(lanes.candidate, Slot::kX) = walk_.candidate;
  json answer = Teach(pair, LayerModules(), lanes);
  const Tensor taught = At(lanes.teacher, Slot::kOut);
  if (!repeated_) {
    // A reference that does not repeat itself shows nothing.
    const Tensor x = Prefix(teacher);
    answer["repeats"] = run(*pair.reference.stage, x).equal(run(*pair.reference.stage, x));
    repeated_ = true;
  }
  const auto reference_out = pair.reference.Recorded("out");
  const auto candidate_out = pair.candidate.Recorded("out");
  last_ = {};
  if (pair.reference.recorded.Has("in") && !reference_out && !pair.candidate.recorded.Has("in")) {
    // What left it was recorded after the final norm, if at all.
    last_ = {run(*pair.reference.stage, teacher), run(*pair.candidate.stage, teacher),
             run(*pair.reference.stage, teacher.to(at::kDouble))};
  }
  if (reference_out || candidate_out) {
    Measure measure;
    const Tensor exact = run(*pair.reference.stage, teacher.to(at::kDouble));
    const Tensor own = run(*pair.candidate.stage, teacher);
    measure.Add(candidate_out.value_or(own), candidate_out ? taught : *reference_out, exact);
    answer["whole"] = measure.ToJson();
    answer["whole"]["shape"] = ShapeOf(exact);
    if (candidate_out) {
      // Is it what our model of its library computes?
      Measure explained;
      explained.Add(*candidate_out, own, run(*pair.candidate.stage, teacher.to(at::kDouble)));
      answer["explained"] = explained.ToJson();
    }
  }
  if (reference_out) {
    // What was recorded has to be what its own config and weights compute.
    const Tensor x = pair.reference.Recorded("in").value_or(walk_.reference);
    const Stage& stage = *pair.reference.stage;
    Measure certified;
    certified.Add(*reference_out, run(stage, x), run(stage, x.to(at::kDouble)));
    answer["recorded_reference"] = certified.ToJson();
  }
  const Clock clock(seconds_, "free");
  if (reference_out) {
    walk_.reference = *reference_out;
  } else {
    walk_.reference = is_own ? taught : run(*pair.reference.stage, walk_.reference);
  }
  if (candidate_out) {
    walk_.candidate = *candidate_out;
  } else if (free_run_) {
    answer["own_flips"] = WalkCandidate(*pair.candidate.stage, lanes);
  }
  walk_.truth = At(lanes.truth, Slot::kOut);
  walk_.narrow = At(lanes.narrow, Slot::kOut);
  if (!free_run_ && !candidate_out) return answer;
  Measure free;
  free.AddErrors(Tokens(Prefix(walk_.candidate)), Tokens(Prefix(walk_.reference)),
                 Tokens(walk_.truth));
  free.AddDifference(Tokens(walk_.candidate), Tokens(walk_.reference));
  answer["free"] = free.ToJson();
  return answer;
}

// The candidate has gone on from its own state; once a token chose other experts than the
// reference, it also goes on from the state that the reference's routes have led to. Returns such
// tokens.
int64_t Session::WalkCandidate(const Stage& candidate, Lanes& lanes) {
  const Tensor before = std::exchange(walk_.candidate, At(lanes.candidate, Slot::kOut));
  const Tensor routing = lanes.own ? At(lanes.teacher, Slot::kRouting) : Tensor();
  const Tensor& chosen = At(lanes.candidate, Slot::kRouting);
  int64_t flips = 0;
  if (routing.defined() && chosen.defined()) {
    flips = (chosen != 0).ne(routing != 0).any(-1).sum().item<int64_t>();
  }
  if (flips > 0 && !walk_.replayed.defined()) walk_.replayed = before;
  if (walk_.replayed.defined()) {
    Activations replayed{};
    At(replayed, Slot::kX) = walk_.replayed;
    replayed = Chain(candidate, LayerModules(), std::move(replayed), routing);
    walk_.replayed = At(replayed, Slot::kOut);
  }
  return flips;
}

const Tensor* Session::State(const std::string& name) const {
  const auto it = states_.find(name);
  return it == states_.end() || !it->second.defined() ? nullptr : &it->second;
}

}  // namespace weighbridge::engine
