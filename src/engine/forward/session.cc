#include "engine/forward/session.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

namespace weighbridge::engine {
namespace {

using at::Tensor;
using nlohmann::json;

constexpr int64_t kTokensPerBlock = 32;  // of logits, which are wide

Tensor& At(Activations& states, Slot slot) { return states[static_cast<size_t>(slot)]; }

std::vector<Tensor> Inputs(Activations& states, const ModuleInfo& module, at::ScalarType dtype) {
  std::vector<Tensor> in;
  for (const Slot slot : module.in) {
    const Tensor& x = At(states, slot);
    in.push_back(x.defined() && x.is_floating_point() ? x.to(dtype) : x);
  }
  return in;
}

// A side without the module hands on what comes in.
std::vector<Tensor> RunOr(const Stage& stage, const ModuleInfo& module,
                          std::span<const Tensor> in) {
  if (stage.Has(module.id)) return stage.Run(module.id, in);
  return {in.begin(),
          in.begin() + static_cast<std::ptrdiff_t>(std::min(in.size(), module.out.size()))};
}

void Store(Activations& states, const ModuleInfo& module, std::vector<Tensor> out) {
  for (size_t i = 0; i < out.size() && i < module.out.size(); ++i) {
    At(states, module.out[i]) = std::move(out[i]);
  }
}

// Whether a module that neither side has may hand its inputs on: its outputs may be another's.
bool IsFilled(Activations& states, const ModuleInfo& module) {
  return std::any_of(module.out.begin(), module.out.end(),
                     [&](Slot slot) { return At(states, slot).defined(); });
}

// One side's own way through a stage.
Activations Chain(const Stage& stage, std::span<const ModuleInfo> modules, Activations states) {
  for (const ModuleInfo& module : modules) {
    if (!stage.Has(module.id) && IsFilled(states, module)) continue;
    const at::ScalarType dtype = At(states, module.in[0]).is_floating_point()
                                     ? At(states, module.in[0]).scalar_type()
                                     : at::kFloat;
    const std::vector<Tensor> in = Inputs(states, module, dtype);
    Store(states, module, RunOr(stage, module, in));
  }
  return states;
}

// Tokens whose choice of experts differs, apart from those where the truth's scores are as good as
// tied: their error is no error of a module.
struct Routes {
  Tensor counted;  // [tokens], true: compare the weights
  json figures;
};

Routes CompareRoutes(std::span<const Tensor> candidate, std::span<const Tensor> reference,
                     std::span<const Tensor> truth) {
  const auto chosen = [](const Tensor& routing) { return routing.flatten(0, 1) != 0; };
  const Tensor right = chosen(truth[0]);
  const Tensor flipped =
      chosen(candidate[0]).ne(right).logical_or(chosen(reference[0]).ne(right)).any(-1);
  const Tensor scores = truth[1].flatten(0, 1);
  const Tensor apart = (reference[1].flatten(0, 1).to(at::kDouble) - scores).abs();
  const double noise = at::nan_to_num(apart, 0.0, 0.0, 0.0).max().item<double>();
  const int64_t k = std::max<int64_t>(1, right.sum(-1).max().item<int64_t>());
  Tensor tied = at::zeros_like(flipped);
  if (k < scores.size(-1)) {
    const Tensor best = std::get<0>(scores.topk(k + 1, -1));
    const Tensor gap = best.select(-1, k - 1) - best.select(-1, k);
    tied =
        gap <= 16 * std::max(noise, 1e-7 * scores.abs().nan_to_num(0, 0, 0).mean().item<double>());
  }
  const Tensor near = flipped.logical_and(tied);
  return {near.logical_not(),
          {{"tokens", flipped.numel()},
           {"flipped", flipped.sum().item<int64_t>()},
           {"near_ties", near.sum().item<int64_t>()}}};
}

std::vector<int64_t> ShapeOf(const Tensor& x) { return x.sizes().vec(); }

}  // namespace

struct Session::Side {
  Side(const json& description, std::span<const WbEngineTensor> tensors, const std::string& name) {
    for (const WbEngineTensor& tensor : tensors) {
      weights.Add(tensor, name + ".");
      recorded.Add(tensor, name + ".recorded.");
    }
    sequence_first = description.value("sequence_first", false);
    const json& spec = description.at("spec");
    stage = description.at("model") == "hf" ? MakeHfStage(spec, weights)
                                            : MakeMegatronStage(spec, weights);
  }
  std::optional<Tensor> Recorded(const std::string& part) const {
    if (!recorded.Has(part)) return std::nullopt;
    const Tensor values = recorded.Get(part, at::kFloat);
    return sequence_first && part != "logits" ? values.transpose(0, 1) : values;
  }

  Weights weights, recorded;
  bool sequence_first = false;  // of the recorded hidden states
  std::unique_ptr<Stage> stage;
};

struct Session::Pair {
  Side reference, candidate;
};

Session::Session(const json& request) {
  const int threads = request.value("threads", 0);
  if (threads > 0) at::set_num_threads(threads);
  const auto rows = request.at("ids").get<std::vector<std::vector<int64_t>>>();
  std::vector<Tensor> tensors;
  for (const std::vector<int64_t>& row : rows) {
    tensors.push_back(at::tensor(row, at::TensorOptions().dtype(at::kLong)));
  }
  ids_ = at::stack(tensors);
}

json Session::Call(const json& request, std::span<const WbEngineTensor> tensors) {
  const c10::InferenceMode guard;
  const Pair pair{{request.at("reference"), tensors, "reference"},
                  {request.at("candidate"), tensors, "candidate"}};
  const std::string stage = request.at("stage");
  json answer = stage == "embedding" ? Embed(pair)
                : stage == "layer"   ? Layer(pair)
                                     : Output(pair, request.value("keep", false));
  states_["reference.hidden"] = walk_.reference;
  states_["candidate.hidden"] = walk_.candidate;
  return answer;
}

// Runs the reference's chain in `states`; each module's outputs are measured on its inputs.
json Session::Teach(const Pair& pair, std::span<const ModuleInfo> modules, Activations& states) {
  json answer;
  answer["modules"] = json::array();
  const Stage &reference = *pair.reference.stage, &candidate = *pair.candidate.stage;
  for (const ModuleInfo& module : modules) {
    const bool of_reference = reference.Has(module.id), of_candidate = candidate.Has(module.id);
    if (!of_reference && !of_candidate && IsFilled(states, module)) continue;
    const std::vector<Tensor> in = Inputs(states, module, at::kFloat);
    std::vector<Tensor> out = RunOr(reference, module, in);
    if (of_reference || of_candidate) {
      const std::vector<Tensor> exact =
          RunOr(reference, module, Inputs(states, module, at::kDouble));
      const std::vector<Tensor> other = RunOr(candidate, module, in);
      const bool routes = module.id == ModuleId::kRouter && out.size() == 2 && other.size() == 2;
      if (other.size() != out.size()) {
        throw Unsupported(std::string("models whose ") + module.name + " gives other tensors");
      }
      Measure measure;
      if (routes) {
        Routes compared = CompareRoutes(other, out, exact);
        const auto rows = [&](const Tensor& x) {
          return x.flatten(0, 1).index({compared.counted});
        };
        measure.Add(rows(other[0]), rows(out[0]), rows(exact[0]));
        answer["routing"] = std::move(compared.figures);
      } else {
        for (size_t i = 0; i < out.size(); ++i)
          measure.Add(other[i], out[i], exact[i].to(at::kDouble));
      }
      json row = measure.ToJson();
      row["name"] = module.name;
      row["shape"] = ShapeOf(out[0]);
      if (of_reference != of_candidate) row["only"] = of_reference ? "reference" : "candidate";
      answer["modules"].push_back(std::move(row));
    }
    Store(states, module, std::move(out));
  }
  return answer;
}

json Session::Embed(const Pair& pair) {
  Activations states{};
  At(states, Slot::kIds) = ids_;
  json answer = Teach(pair, EmbeddingModules(), states);
  walk_.reference = pair.reference.Recorded("out").value_or(At(states, Slot::kOut));
  Activations own = Chain(*pair.candidate.stage, EmbeddingModules(), states);
  walk_.candidate = pair.candidate.Recorded("out").value_or(At(own, Slot::kOut));
  walk_.truth = At(states, Slot::kOut).to(at::kDouble);
  return answer;
}

json Session::Layer(const Pair& pair) {
  const auto run = [&](const Stage& stage, const Tensor& x) {
    Activations own{};
    At(own, Slot::kX) = x;
    own = Chain(stage, LayerModules(), std::move(own));
    return At(own, Slot::kOut);
  };
  // What was recorded of either side is the teacher; the candidate's, where both are.
  Tensor teacher = walk_.reference;
  for (const Side* side : {&pair.reference, &pair.candidate}) {
    if (const auto in = side->Recorded("in")) teacher = *in;
  }
  Activations states{};
  At(states, Slot::kX) = teacher;
  json answer = Teach(pair, LayerModules(), states);
  const Tensor taught = At(states, Slot::kOut);
  const auto reference_out = pair.reference.Recorded("out");
  const auto candidate_out = pair.candidate.Recorded("out");
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
  walk_.reference = reference_out ? *reference_out : run(*pair.reference.stage, walk_.reference);
  walk_.candidate = candidate_out ? *candidate_out : run(*pair.candidate.stage, walk_.candidate);
  walk_.truth = run(*pair.reference.stage, walk_.truth);
  Measure free;
  free.Add(walk_.candidate, walk_.reference, walk_.truth);
  answer["free"] = free.ToJson();
  return answer;
}

namespace {

// The next tokens of both, position by position.
class Tokens {
 public:
  void Add(const Tensor& candidate, const Tensor& reference, const Tensor& truth) {
    const Tensor c = candidate.to(at::kDouble), r = reference.to(at::kDouble);
    const Tensor top = r.argmax(-1), other = c.argmax(-1);
    // Twice the error of each side, as two logits are compared.
    const Tensor noise = 4 * (r - truth).abs().amax(-1);
    const auto picked = [&](const Tensor& index) {
      return r.gather(-1, index.unsqueeze(-1)).squeeze(-1);
    };
    const Tensor margin = picked(top) - picked(other);
    const Tensor differs = top != other;
    const Tensor beyond = differs.logical_and(margin > noise);
    const Tensor log_r = at::log_softmax(r, -1), log_c = at::log_softmax(c, -1);
    const Tensor kl = (log_r.exp() * (log_r - log_c)).sum(-1);
    if (first_ < 0 && differs.any().item<bool>()) {
      first_ = positions_ + differs.nonzero()[0][0].item<int64_t>();
    }
    if (beyond.any().item<bool>() && worst_.is_null()) {
      const int64_t at = beyond.nonzero()[0][0].item<int64_t>();
      worst_ = {{"position", positions_ + at},
                {"reference", top[at].item<int64_t>()},
                {"candidate", other[at].item<int64_t>()},
                {"margin", margin[at].item<double>()},
                {"noise", noise[at].item<double>()}};
    }
    positions_ += top.numel();
    differ_ += differs.sum().item<int64_t>();
    beyond_ += beyond.sum().item<int64_t>();
    kl_ += kl.sum().item<double>();
    kl_max_ = std::max(kl_max_, kl.max().item<double>());
  }

  json ToJson() const {
    return {{"positions", positions_},
            {"differ", differ_},
            {"beyond_noise", beyond_},
            {"first_difference", first_ < 0 ? json() : json(first_)},
            {"first_beyond", worst_},
            {"kl_mean", kl_ / std::max<double>(1, static_cast<double>(positions_))},
            {"kl_max", kl_max_}};
  }

 private:
  int64_t positions_ = 0, differ_ = 0, beyond_ = 0, first_ = -1;
  double kl_ = 0, kl_max_ = 0;
  json worst_;
};

}  // namespace

// The recorded logits beside what both models make of the recorded state before them.
std::optional<json> Session::RecordedLogits(const Pair& pair, const Tensor& final) const {
  const Stage &reference = *pair.reference.stage, &candidate = *pair.candidate.stage;
  const ModuleInfo& norm = OutputModules()[0];
  const ModuleInfo& head = OutputModules()[1];
  const auto run = [](const Stage& stage, const ModuleInfo& module, const Tensor& x) {
    return RunOr(stage, module, std::span(&x, 1))[0];
  };
  Measure measure;
  if (const auto logits = pair.candidate.Recorded("logits")) {
    const Tensor& x = walk_.candidate;
    measure.Add(*logits, run(reference, head, run(reference, norm, x)),
                run(reference, head, run(reference, norm, x.to(at::kDouble))));
  } else if (const auto of_reference = pair.reference.Recorded("logits")) {
    measure.Add(run(candidate, head, final), *of_reference,
                run(reference, head, final.to(at::kDouble)));
  } else {
    return std::nullopt;
  }
  json figures = measure.ToJson();
  figures["shape"] = {ids_.size(0), ids_.size(1), -1};
  return figures;
}

json Session::Output(const Pair& pair, bool keep) {
  const Stage &reference = *pair.reference.stage, &candidate = *pair.candidate.stage;
  const ModuleInfo& norm = OutputModules()[0];
  const ModuleInfo& head = OutputModules()[1];
  Activations states{};
  At(states, Slot::kX) = walk_.reference;
  json answer = Teach(pair, OutputModules().first(1), states);
  const auto normed = [&](const Side& side, const Stage& stage, const Tensor& x) {
    const auto recorded = side.Recorded("final");
    return recorded ? *recorded : RunOr(stage, norm, std::span(&x, 1))[0];
  };
  const Walk final = {normed(pair.reference, reference, walk_.reference),
                      normed(pair.candidate, candidate, walk_.candidate),
                      RunOr(reference, norm, std::span(&walk_.truth, 1))[0]};
  const Tensor& teacher = At(states, Slot::kFinal);
  const int64_t tokens = ids_.numel(), hidden = teacher.size(-1);
  const auto rows = [&](const Tensor& x, int64_t begin, int64_t count) {
    return x.reshape({tokens, hidden}).narrow(0, begin, count).unsqueeze(0);
  };
  const auto logits = [&](const Side& side, const Stage& stage, const Tensor& x, int64_t begin) {
    const auto recorded = side.Recorded("logits");
    if (!recorded) return RunOr(stage, head, std::span(&x, 1))[0];
    return recorded->reshape({tokens, -1}).narrow(0, begin, x.size(1)).unsqueeze(0);
  };
  Measure taught, free;
  Tokens next;
  std::vector<Tensor> kept_reference, kept_candidate;
  int64_t vocabulary = 0;
  for (int64_t begin = 0; begin < tokens; begin += kTokensPerBlock) {
    const int64_t count = std::min(kTokensPerBlock, tokens - begin);
    const Tensor x = rows(teacher, begin, count);
    const Tensor exact = x.to(at::kDouble);
    taught.Add(RunOr(candidate, head, std::span(&x, 1))[0],
               RunOr(reference, head, std::span(&x, 1))[0],
               RunOr(reference, head, std::span(&exact, 1))[0]);
    const Tensor r = logits(pair.reference, reference, rows(final.reference, begin, count), begin);
    const Tensor c = logits(pair.candidate, candidate, rows(final.candidate, begin, count), begin);
    const Tensor of_truth = rows(final.truth, begin, count);
    const Tensor t = RunOr(reference, head, std::span(&of_truth, 1))[0];
    free.Add(c, r, t);
    next.Add(c[0], r[0], t[0]);
    vocabulary = r.size(-1);
    if (keep) {
      kept_reference.push_back(r[0]);
      kept_candidate.push_back(c[0]);
    }
  }
  if (auto whole = RecordedLogits(pair, final.reference)) answer["whole"] = std::move(*whole);
  json row = taught.ToJson();
  row["name"] = head.name;
  row["shape"] = {ids_.size(0), ids_.size(1), vocabulary};
  answer["modules"].push_back(std::move(row));
  answer["free"] = free.ToJson();
  answer["tokens"] = next.ToJson();
  if (keep) {
    const std::vector<int64_t> shape = {ids_.size(0), ids_.size(1), vocabulary};
    states_["reference.final"] = final.reference;
    states_["candidate.final"] = final.candidate;
    states_["reference.logits"] = at::cat(kept_reference).reshape(shape);
    states_["candidate.logits"] = at::cat(kept_candidate).reshape(shape);
  }
  return answer;
}

const Tensor* Session::State(const std::string& name) const {
  const auto it = states_.find(name);
  return it == states_.end() || !it->second.defined() ? nullptr : &it->second;
}

}  // namespace weighbridge::engine
