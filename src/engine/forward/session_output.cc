// The last stage of a session: the final norm, and the logits, block by block of the vocabulary:
// neither the matrix in float32 nor the truth of all logits is ever there as a whole.
#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/forward/next_tokens.h"
#include "engine/forward/session.h"
#include "engine/forward/sides.h"

namespace weighbridge::engine {
namespace {

using at::Tensor;
using nlohmann::json;

constexpr int64_t kTokensPerChunk = 512, kRowsPerBlock = 8192;

Tensor Flat(const Tensor& x) { return x.flatten(0, 1); }

std::vector<int64_t> ShapeOf(const Tensor& x) { return x.sizes().vec(); }

// Logits [tokens, rows] of states [tokens, hidden].
Tensor LogitsOf(const Stage& stage, const Tensor& x, int64_t begin, int64_t count) {
  return stage.Logits(x.unsqueeze(0), begin, count)[0];
}

// [[id, logit], ...], the best first.
json BestTokens(const Tensor& logits, int64_t count) {
  const auto [values, tokens] = logits.topk(std::min(count, logits.numel()));
  json best = json::array();
  for (int64_t i = 0; i < tokens.numel(); ++i) {
    best.push_back({tokens[i].item<int64_t>(), values[i].item<double>()});
  }
  return best;
}

template <typename Visit>
void VisitVocabulary(const Stage& stage, const Visit& visit) {
  const int64_t rows = stage.vocabulary();
  for (int64_t begin = 0; begin < rows; begin += kRowsPerBlock) {
    visit(begin, std::min(kRowsPerBlock, rows - begin));
  }
}

}  // namespace

// The states before the output matrix, [tokens, hidden]; truth and narrow over the prefix.
struct Session::Finals {
  Tensor teacher, reference, candidate, replayed, truth, narrow;
};

Tensor Session::PrefixRows(const Tensor& flat) const {
  return Flat(Prefix(flat.unflatten(0, ids_.sizes())));
}

// What was recorded after the final norm: of the candidate beside what the reference makes of the
// recorded state before it; of the reference, whose state before it none records, what both sides
// make of the state before the last layer.
void Session::JudgeRecordedFinal(const Pair& pair, json& answer) const {
  const auto norm = [](const Stage& stage, const Tensor& x) {
    return RunOr(stage, OutputModules()[0], std::span(&x, 1))[0];
  };
  const Stage &reference = *pair.reference.stage, &candidate = *pair.candidate.stage;
  const auto judge = [&](const char* what, const Tensor& of_candidate, const Tensor& of_reference,
                         const Tensor& truth) {
    Measure measure;
    measure.Add(of_candidate, of_reference, truth);
    answer[what] = measure.ToJson();
    answer[what]["shape"] = ShapeOf(truth);
  };
  const auto in = pair.candidate.Recorded("in"), final = pair.candidate.Recorded("final");
  if (in && final)
    judge("final", *final, norm(reference, *in), norm(reference, in->to(at::kDouble)));
  const auto of_reference = pair.reference.Recorded("final");
  if (!of_reference || !last_.exact.defined()) return;
  const Tensor truth = norm(reference, last_.exact);
  judge("last", norm(reference, last_.candidate), *of_reference, truth);
  judge("final", norm(candidate, last_.reference), *of_reference, truth);
  judge("recorded_reference", *of_reference, norm(reference, last_.reference), truth);
}

// Recorded logits beside what both models make of the recorded state before them.
void Session::JudgeRecordedLogits(const Pair& pair, const Finals& finals, json& answer) const {
  const Stage &reference = *pair.reference.stage, &candidate = *pair.candidate.stage;
  const auto of_candidate = pair.candidate.Recorded("logits");
  const auto of_reference = pair.reference.Recorded("logits");
  if (!of_candidate && !of_reference) return;
  const auto normed = [&](const Tensor& x) {
    return RunOr(reference, OutputModules()[0], std::span(&x, 1))[0];
  };
  Tensor x, exact;
  if (!of_candidate) {
    if (pair.reference.Recorded("final")) x = finals.reference;
  } else if (const auto final = pair.candidate.Recorded("final")) {
    x = Flat(*final);
  } else if (const auto in = pair.candidate.Recorded("in")) {
    x = Flat(normed(*in));
    exact = Flat(normed(in->to(at::kDouble)));
  }
  const auto recorded = of_candidate ? Flat(*of_candidate) : Flat(*of_reference);
  // Without a state before them they come from the embedding: what all layers add to the error
  // counts, as it does in the reference's own walk.
  const bool from_walk = !x.defined();
  const Tensor ours = from_walk ? PrefixRows(finals.reference) : x;
  const Tensor theirs = from_walk ? PrefixRows(finals.candidate) : x;
  const Tensor right = from_walk ? finals.truth : exact.defined() ? exact : x;
  const Tensor rows = from_walk ? PrefixRows(recorded) : recorded;
  Measure measure, certified;
  VisitVocabulary(reference, [&](int64_t begin, int64_t count) {
    const Tensor truth = LogitsOf(reference, right.to(at::kDouble), begin, count);
    const Tensor own = LogitsOf(reference, ours, begin, count);
    const Tensor part = rows.narrow(1, begin, count);
    if (of_candidate) {
      measure.Add(part, own, truth);
    } else {
      measure.Add(LogitsOf(candidate, theirs, begin, count), part, truth);
      certified.Add(part, own, truth);
    }
  });
  answer["whole"] = measure.ToJson();
  answer["whole"]["of_walk"] = from_walk;
  answer["whole"]["shape"] = {ids_.size(0), ids_.size(1), -1};
  if (of_candidate) return;
  json figures = certified.ToJson();
  const bool worse = !answer.contains("recorded_reference") ||
                     !(figures["ratio"] <= answer["recorded_reference"]["ratio"]);
  if (worse) answer["recorded_reference"] = std::move(figures);
}

// The output matrix on the teacher's states: measured like any module, but by blocks.
class Session::OutputLayer {
 public:
  OutputLayer(const Session& session, const Pair& pair, const Finals& finals,
              std::map<std::string, double>& seconds)
      : session_(session),
        seconds_(seconds),
        reference_(*pair.reference.stage),
        candidate_(*pair.candidate.stage),
        finals_(finals),
        narrow_measure_(session.narrow_.value_or(at::kFloat)) {
    sample_ = session.sample_.defined()
                  ? session.sample_
                  : at::arange(session.ids_.numel(), at::TensorOptions().dtype(at::kLong));
    prefix_ =
        session.PrefixRows(at::arange(session.ids_.numel(), at::TensorOptions().dtype(at::kLong)));
  }

  // Tokens [begin, begin + count), and where to put the logits of each walk on its own states;
  // nullptr: they are recorded.
  struct Chunk {
    int64_t begin = 0, count = 0;
    Tensor *reference = nullptr, *candidate = nullptr, *replayed = nullptr;
  };

  void Visit(const Chunk& chunk) {
    const Tensor local = InChunk(sample_, chunk);
    const auto rows = [&](const Tensor& x) { return x.narrow(0, chunk.begin, chunk.count); };
    const bool own = finals_.reference.is_same(finals_.teacher);
    const Tensor teacher = rows(finals_.teacher);
    std::vector<Tensor> of_candidate = {teacher, rows(finals_.candidate)};
    if (finals_.replayed.defined()) of_candidate.push_back(rows(finals_.replayed));
    const Tensor candidate_rows = at::cat(of_candidate);
    const Tensor of_reference = own ? teacher : at::cat({teacher, rows(finals_.reference)});
    std::vector<Tensor> exact = {teacher.index_select(0, local.to(teacher.device()))};
    const bool first = chunk.begin == 0;
    if (first) exact.push_back(finals_.truth);
    if (first && session_.narrow_) exact.push_back(finals_.narrow);
    for (Tensor& x : exact) x = x.to(at::kDouble);
    const Tensor exact_rows = at::cat(exact);
    TokenDistance distance;
    VisitVocabulary(reference_, [&](int64_t begin, int64_t count) {
      const Tensor r = Timed("output", reference_, of_reference, begin, count);
      const Tensor c = Timed("output", candidate_, candidate_rows, begin, count);
      const Tensor truth = Timed("truth", reference_, exact_rows, begin, count);
      const Clock clock(seconds_, "measures");
      const Tensor r_taught = r.narrow(0, 0, chunk.count), c_taught = c.narrow(0, 0, chunk.count);
      const Tensor at = local.to(r.device());
      taught_.AddErrors(c_taught.index_select(0, at), r_taught.index_select(0, at),
                        truth.narrow(0, 0, local.numel()));
      taught_.AddDifference(c_taught, r_taught, &distance);
      const Tensor r_own = own ? r_taught : r.narrow(0, chunk.count, chunk.count);
      if (chunk.reference != nullptr) chunk.reference->narrow(1, begin, count).copy_(r_own);
      if (chunk.candidate != nullptr) {
        chunk.candidate->narrow(1, begin, count).copy_(c.narrow(0, chunk.count, chunk.count));
      }
      if (finals_.replayed.defined()) {
        const Tensor replayed = c.narrow(0, 2 * chunk.count, chunk.count);
        replayed_.AddDifference(replayed, r_own);
        chunk.replayed->narrow(1, begin, count).copy_(replayed);
      }
      if (!first) return;
      TakeNoise(chunk, r_own, truth.narrow(0, local.numel(), finals_.truth.size(0)));
      if (session_.narrow_) {
        const int64_t before = local.numel() + finals_.truth.size(0);
        narrow_measure_.Add(Timed("narrow", candidate_, finals_.narrow, begin, count),
                            Timed("narrow", reference_, finals_.narrow, begin, count),
                            truth.narrow(0, before, truth.size(0) - before));
      }
    });
    Tensor taken = at::zeros({chunk.count}, at::TensorOptions().dtype(at::kBool));
    taken.index_fill_(0, local, true);
    clear_ = clear_ && local.numel() > 0 && Session::Cleared(taught_, distance, taken);
  }

  json ToJson() {
    const bool all = sample_.numel() == session_.ids_.numel();
    json figures = (all || clear_ ? taught_ : Whole()).ToJson();
    if (session_.narrow_) figures["narrow"] = narrow_measure_.ToJson();
    return figures;
  }

  const Measure& replayed() const { return replayed_; }

  // How far a margin between two logits may be off on both sides: twice the largest error of each.
  double noise() const { return 4 * noise_; }

 private:
  Tensor Timed(const char* pass, const Stage& stage, const Tensor& x, int64_t begin,
               int64_t count) {
    const Clock clock(seconds_, pass);
    return LogitsOf(stage, x, begin, count);
  }

  // Which of the tokens are in the chunk, counted from its first.
  static Tensor InChunk(const Tensor& tokens, const Chunk& chunk) {
    const Tensor is_in = tokens.ge(chunk.begin).logical_and(tokens.lt(chunk.begin + chunk.count));
    return tokens.index({is_in}) - chunk.begin;
  }

  // The error of the reference's own logits, where the truth has walked.
  void TakeNoise(const Chunk& chunk, const Tensor& logits, const Tensor& truth) {
    const Tensor is_in = prefix_.lt(chunk.count);
    const Tensor rows = prefix_.index({is_in}).to(logits.device());
    const Tensor exact = truth.index({is_in.to(truth.device())});
    if (rows.numel() == 0) return;
    const Tensor off = (logits.index_select(0, rows).to(at::kDouble) - exact).abs();
    noise_ = std::max(noise_, off.max().item<double>());
  }

  // The truth of all tokens: where a sample does not clear the matrix.
  Measure Whole() const {
    Measure measure;
    const Tensor exact = finals_.teacher.to(at::kDouble);
    VisitVocabulary(reference_, [&](int64_t begin, int64_t count) {
      measure.Add(LogitsOf(candidate_, finals_.teacher, begin, count),
                  LogitsOf(reference_, finals_.teacher, begin, count),
                  LogitsOf(reference_, exact, begin, count));
    });
    return measure;
  }

  const Session& session_;
  std::map<std::string, double>& seconds_;
  const Stage &reference_, &candidate_;
  const Finals& finals_;
  Tensor sample_, prefix_;  // tokens of which the truth is taken, and in which it has walked
  Measure taught_, narrow_measure_, replayed_;
  bool clear_ = true;
  double noise_ = 0;
};

json Session::Output(const Pair& pair, bool keep, int64_t top) {
  const Stage &reference = *pair.reference.stage, &candidate = *pair.candidate.stage;
  const ModuleInfo& norm = OutputModules()[0];
  // The layer before it may not have been recorded, and so not have led there.
  if (auto in = pair.candidate.Recorded("in")) walk_.candidate = *std::move(in);
  Lanes lanes;
  At(lanes.teacher, Slot::kX) = walk_.reference;
  At(lanes.truth, Slot::kX) = walk_.truth;
  At(lanes.narrow, Slot::kX) = walk_.narrow;
  json answer = Teach(pair, OutputModules().first(1), lanes);
  Finals finals;
  finals.teacher = Flat(At(lanes.teacher, Slot::kFinal));
  finals.truth = Flat(At(lanes.truth, Slot::kFinal));
  if (narrow_) finals.narrow = Flat(At(lanes.narrow, Slot::kFinal));
  const auto recorded_final = pair.reference.Recorded("final");
  finals.reference = recorded_final ? Flat(*recorded_final) : finals.teacher;
  finals.candidate = Flat(RunOr(candidate, norm, std::span(&walk_.candidate, 1))[0]);
  if (const auto final = pair.candidate.Recorded("final")) finals.candidate = Flat(*final);
  if (walk_.replayed.defined()) {
    finals.replayed = Flat(RunOr(candidate, norm, std::span(&walk_.replayed, 1))[0]);
  }

  const int64_t tokens = ids_.numel(), vocabulary = reference.vocabulary();
  OutputLayer layer(*this, pair, finals, seconds_);
  Measure free;
  NextTokens next;
  std::vector<Tensor> kept_reference, kept_candidate;
  const auto r_recorded = pair.reference.Recorded("logits");
  const auto c_recorded = pair.candidate.Recorded("logits");
  for (int64_t begin = 0; begin < tokens; begin += kTokensPerChunk) {
    const int64_t count = std::min(kTokensPerChunk, tokens - begin);
    const auto logits = [&](const std::optional<Tensor>& recorded) {
      if (recorded) return Flat(*recorded).narrow(0, begin, count);
      return at::empty({count, vocabulary}, finals.teacher.options());
    };
    Tensor r = logits(r_recorded), c = logits(c_recorded);
    Tensor replayed = finals.replayed.defined() ? logits(std::nullopt) : Tensor();
    layer.Visit({begin, count, r_recorded ? nullptr : &r, c_recorded ? nullptr : &c, &replayed});
    if (free_run_ || c_recorded) {
      const Clock clock(seconds_, "measures");
      free.AddDifference(c, r);
      // A lawful flip of routes moves the logits: what counts is what the same routes give.
      next.Add(replayed.defined() ? replayed : c, r, layer.noise());
    }
    for (int64_t last = ids_.size(1) - 1; last < begin + count; last += ids_.size(1)) {
      if (last < begin) continue;
      answer["top"].push_back({{"reference", BestTokens(r[last - begin], top)},
                               {"candidate", BestTokens(c[last - begin], top)}});
    }
    if (keep) {
      kept_reference.push_back(r);
      kept_candidate.push_back(c);
    }
  }
  JudgeRecordedFinal(pair, answer);
  JudgeRecordedLogits(pair, finals, answer);
  json row = layer.ToJson();
  row["name"] = OutputModules()[1].name;
  row["shape"] = {ids_.size(0), ids_.size(1), vocabulary};
  answer["modules"].push_back(std::move(row));
  if (free_run_ || c_recorded) {
    answer["free"] = free.ToJson();
    if (finals.replayed.defined()) answer["replayed"] = layer.replayed().ToJson();
    answer["free"]["reference_max"] = layer.noise() / 4;
    answer["tokens"] = next.ToJson();
  }
  if (keep) {
    const auto shaped = [&](const Tensor& x) { return x.unflatten(0, ids_.sizes()); };
    states_["reference.final"] = shaped(finals.reference);
    states_["candidate.final"] = shaped(finals.candidate);
    states_["reference.logits"] = shaped(at::cat(kept_reference));
    states_["candidate.logits"] = shaped(at::cat(kept_candidate));
  }
  return answer;
}

}  // namespace weighbridge::engine
