#include "engine/recorded_cause.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/compare_rows.h"

namespace weighbridge {
namespace {

using nlohmann::json;
using Rows = std::vector<std::vector<int64_t>>;
using First = std::vector<std::optional<int64_t>>;

constexpr const char* kCore = "self_attention.core_attention";
constexpr const char* kRotary = "self_attention.rotary_pos_emb";
constexpr int kMostInVain = 2;  // layers: a search is a dozen passes in float64

// A number for each token, from its row and place.
template <typename Function>
json PerToken(const Rows& ids, Function&& number) {
  json rows = json::array();
  for (size_t row = 0; row < ids.size(); ++row) {
    std::vector<int64_t> numbers(ids[row].size());
    for (size_t i = 0; i < numbers.size(); ++i) {
      numbers[i] = number(row, static_cast<int64_t>(i));
    }
    rows.push_back(std::move(numbers));
  }
  return rows;
}

class Hypotheses {
 public:
  Hypotheses(const RecordedStage& stage, const First& first)
      : stage_(stage), spec_(stage.spec), ids_(stage.ids), first_(first) {}

  std::vector<Hypothesis> All() {
    if (Has(kCore)) {
      Masks();
      if (Begins()) Documents();
      Padding();
    }
    if (Has(kRotary)) Positions();
    Constants();
    return std::move(all_);
  }

 private:
  bool Has(const char* module) const { return stage_.modules.contains(module); }

  // Rows part from what is right somewhere after their first token.
  bool Begins() const {
    return std::any_of(first_.begin(), first_.end(),
                       [](const auto& first) { return first && *first > 0; });
  }

  int64_t Length() const { return static_cast<int64_t>(ids_.front().size()); }

  // Where the first row parts that does, after its first token.
  int64_t Beginning() const {
    int64_t least = Length();
    for (const auto& first : first_) {
      if (first && *first > 0) least = std::min(least, *first);
    }
    return least;
  }

  void Mask(json mask, std::string what) {
    all_.push_back({"attention-mask",
                    {kCore},
                    std::move(what),
                    {{"patch", {{"attention", {{"mask", std::move(mask)}}}}}}});
  }
  void Window(const json& width, std::string what) {
    // A patch of null would take the field away.
    const json wide = width.is_null() ? json(Length() + 1) : width;
    all_.push_back({"attention-mask",
                    {kCore},
                    std::move(what),
                    {{"patch", {{"attention", {{"window", wide}}}}}}});
  }
  void Position(json rope, std::string what) {
    all_.push_back(
        {"position-ids", {kRotary}, std::move(what), {{"patch", {{"rope", std::move(rope)}}}}});
  }

  void Masks() {
    const json window = spec_.at("attention").at("window");
    if (window.is_number_integer()) {
      const auto width = window.get<int64_t>();
      Window(nullptr, fmt::format("no window where the config has one of {}", width));
      Window(width + 1, fmt::format("a window of {} instead of {}", width + 1, width));
      if (width > 1)
        Window(width - 1, fmt::format("a window of {} instead of {}", width - 1, width));
    } else if (Begins()) {
      // Its first token that sees less is the one that has as many before it.
      Window(Beginning(), fmt::format("a window of {} where the config has none", Beginning()));
    }
    Mask({{"causal", false}}, "attention to all tokens, later ones too");
    Mask({{"inverted", true}}, "a mask of inverted polarity: what is to be seen is hidden");
  }

  // Where documents begin: where a row parts; after each token like the one before that; after so
  // many tokens each time.
  enum class Rule { kOnce, kSeparator, kPeriod };

  // Number of documents that began at or before a token.
  int64_t DocumentOf(size_t row, int64_t token, Rule rule) const {
    if (!first_[row] || *first_[row] == 0) return 0;
    const int64_t first = *first_[row];
    if (rule == Rule::kOnce) return token >= first ? 1 : 0;
    if (rule == Rule::kPeriod) return token / first;
    const int64_t separator = ids_[row][static_cast<size_t>(first - 1)];
    return std::count(ids_[row].begin(), ids_[row].begin() + token, separator);
  }
  int64_t BeginningOf(size_t row, int64_t token, Rule rule) const {
    const int64_t document = DocumentOf(row, token, rule);
    while (token > 0 && DocumentOf(row, token - 1, rule) == document) --token;
    return token;
  }

  std::string Text(Rule rule) const {
    if (rule == Rule::kOnce) return fmt::format("at token {}", Beginning());
    if (rule == Rule::kPeriod) return fmt::format("every {} tokens", Beginning());
    return fmt::format("after each token like the one before {}", Beginning());
  }

  void Documents() {
    for (const Rule rule : {Rule::kOnce, Rule::kSeparator, Rule::kPeriod}) {
      const json documents =
          PerToken(ids_, [&](size_t row, int64_t i) { return DocumentOf(row, i, rule); });
      Mask({{"documents", documents}},
           "documents that do not see each other, a new one " + Text(rule));
      if (!Has(kRotary)) continue;
      const json positions =
          PerToken(ids_, [&](size_t row, int64_t i) { return i - BeginningOf(row, i, rule); });
      Position({{"positions", positions}}, "positions that start again " + Text(rule));
    }
  }

  // Tokens alike at the begin or the end of a row may be padding.
  void Padding() {
    const auto run = [](auto begin, auto end) {
      int64_t length = 0;
      for (auto it = begin; it != end && *it == *begin; ++it) ++length;
      return length;
    };
    std::vector<int64_t> leading, trailing;
    for (const std::vector<int64_t>& row : ids_) {
      leading.push_back(run(row.begin(), row.end()));
      trailing.push_back(run(row.rbegin(), row.rend()));
    }
    const auto hide = [&](const std::vector<int64_t>& lengths, bool at_end, const char* what) {
      if (*std::max_element(lengths.begin(), lengths.end()) < 2) return;
      Mask({{"hidden", PerToken(ids_,
                                [&](size_t row, int64_t i) -> int64_t {
                                  if (lengths[row] < 2) return 0;
                                  return at_end ? i >= Length() - lengths[row] : i < lengths[row];
                                })}},
           what);
    };
    hide(leading, false, "the tokens alike at the begin of a row hidden, as padding is");
    hide(trailing, true, "the tokens alike at the end of a row hidden, as padding is");
  }

  void Positions() {
    for (const int64_t gap : {1, -1}) {
      if (!Begins()) break;
      const json positions = PerToken(ids_, [&](size_t row, int64_t i) {
        return i + (first_[row] && i >= *first_[row] ? gap : 0);
      });
      Position({{"positions", positions}},
               fmt::format("positions {} by one from token {} on",
                           gap > 0 ? "too large" : "too small", Beginning()));
    }
    Position({{"positions", PerToken(ids_, [](size_t, int64_t) { return 0; })}},
             "one position for all tokens");
    Position({{"positions", PerToken(ids_, [](size_t, int64_t i) { return 2 * i; })}},
             "positions that count by two");
    Position({{"positions", PerToken(ids_, [&](size_t, int64_t i) { return Length() - 1 - i; })}},
             "positions that count down");
    for (const int64_t offset : {1, -1}) {
      Position({{"query_offset", offset}}, fmt::format("positions of the queries {} by one",
                                                       offset > 0 ? "too large" : "too small"));
    }
  }

  // `modules`: those of which the stage has none are left out, and with all of them the constant.
  void Constant(const char* cause, std::vector<std::string> modules, const char* what,
                std::vector<std::string> pointers) {
    std::erase_if(modules, [&](const std::string& m) { return !stage_.modules.contains(m); });
    if (modules.empty()) return;
    all_.push_back({cause, std::move(modules), what, {{"scales", std::move(pointers)}}});
  }

  void Constants() {
    Constant("rope-base", {kRotary}, "the base of RoPE", {"/rope/base"});
    Constant("softmax-scale", {kCore}, "the softmax scale", {"/attention/scale"});
    // The same as a scale where the whole head is rotated.
    Constant("rope-scaling", {kRotary}, "RoPE's factor on q and k", {"/rope/attention_factor"});
    Constant("activation", {"mlp", "mlp.experts", "mlp.shared_experts"},
             "the slope inside the activation, f(g x) / g with g", {"/activation/gain"});
    Constant("router-formula", {"mlp.router"}, "the routed experts' multiplier",
             {"/router/scaling"});
    Constant("embedding-scale", {"output_layer"}, "the logits' multiplier", {"/logits_scale"});
    Epsilons();
  }

  // All at once, as a config has them, then one after the other.
  void Epsilons() {
    static constexpr std::pair<const char*, const char*> kModules[] = {
        {"input", "input_layernorm"},
        {"pre_mlp", "pre_mlp_layernorm"},
        {"qk", "self_attention.q_layernorm"},
        {"mixer", "mixer"},
        {"mixer", "self_attention.gated_delta_net"},
        {"post_attention", "self_attention.linear_proj.post_layernorm"},
        {"post_mlp", "mlp.linear_fc2.post_layernorm"},
        {"final", "decoder.final_layernorm"}};
    std::vector<std::string> modules, pointers;
    for (const auto& [which, module] : kModules) {
      if (!Has(module)) continue;
      modules.emplace_back(module);
      pointers.push_back(std::string("/norm/epsilon/") + which);
    }
    if (pointers.size() > 1) Constant("norm-eps", modules, "the epsilon of all norms", pointers);
    for (size_t i = 0; i < pointers.size(); ++i) {
      Constant("norm-eps", {modules[i]}, "the epsilon", {pointers[i]});
    }
  }

  const RecordedStage& stage_;
  const json& spec_;
  const Rows& ids_;
  const First& first_;
  std::vector<Hypothesis> all_;
};

json TriesOf(const std::vector<Hypothesis>& hypotheses) {
  json tries = json::array();
  for (const Hypothesis& one : hypotheses) tries.push_back(one.trial);
  return tries;
}

}  // namespace

std::vector<Hypothesis> HypothesesOf(const RecordedStage& stage, const First& first) {
  return Hypotheses(stage, first).All();
}

Status RecordedCauses::Explain(const RecordedStage& stage, const Ask& ask) {
  std::vector<Hypothesis> known;
  for (const Found& found : found_) {
    const std::vector<std::string>& modules = found.hypothesis.modules;
    const bool fits = std::any_of(modules.begin(), modules.end(), [&](const std::string& module) {
      return stage.modules.contains(module);
    });
    if (fits) known.push_back(found.hypothesis);
  }
  WB_TRY(const json own, ask(TriesOf(known)));
  if (MeetsFunctionRule(own.at("own")) || Take(stage, known, own)) return {};
  if (searched_in_vain_ >= kMostInVain) return {};
  First first;
  for (const json& token : own.at("first")) {
    first.push_back(token.is_null() ? std::nullopt : std::optional(token.get<int64_t>()));
  }
  const std::vector<Hypothesis> all = HypothesesOf(stage, first);
  WB_TRY(const json answer, ask(TriesOf(all)));
  if (!Take(stage, all, answer)) ++searched_in_vain_;
  return {};
}

// The first one that gives the stage to the noise floor; a later one where it gives much more.
bool RecordedCauses::Take(const RecordedStage& stage, const std::vector<Hypothesis>& tried,
                          const json& answer) {
  std::optional<size_t> best;
  double least = 0;
  const json& tries = answer.at("tries");
  for (size_t i = 0; i < tries.size(); ++i) {
    if (!tries[i].is_object()) continue;
    const Noise noise = NoiseOf(tries[i]);
    if (!MeetsFunctionRule(tries[i]) || (best && noise.ratio >= least / 2)) continue;
    best = i;
    least = noise.ratio;
  }
  if (!best) return false;
  const Hypothesis& held = tried[*best];
  auto found = std::find_if(found_.begin(), found_.end(), [&](const Found& known) {
    return known.hypothesis.what == held.what && known.hypothesis.trial == held.trial;
  });
  if (found == found_.end()) {
    const double factor = tries[*best].value("factor", 1.0);
    found =
        found_.insert(found_.end(), {held, least, NoiseOf(answer.at("own")).ratio, factor, {}, {}});
  }
  found->stages.push_back(stage.id);
  for (const std::string& module : held.modules) {
    found->where.push_back(stage.id.kind == StageKind::kLayer
                               ? fmt::format("decoder.layers.{}.{}", stage.id.layer, module)
                               : module);
  }
  return true;
}

bool RecordedCauses::Explained(StageId stage) const {
  return std::any_of(found_.begin(), found_.end(), [&](const Found& found) {
    return std::find(found.stages.begin(), found.stages.end(), stage) != found.stages.end();
  });
}

std::vector<Cause> RecordedCauses::Causes() const {
  std::vector<Cause> causes;
  for (const Found& found : found_) {
    Cause cause{found.hypothesis.cause, Proof::kExact, Origin::kRuntime, found.where, "", "", ""};
    cause.message = "the recorded run had " + found.hypothesis.what;
    if (found.hypothesis.trial.contains("scales")) {
      cause.message += fmt::format(" times {:.5g}", found.factor);
    }
    cause.evidence = fmt::format(
        "with that our model of Megatron gives what was recorded to {:.3g} x its own noise, as the "
        "config says to {:.3g} x",
        found.ratio, found.own_ratio);
    cause.hint = "config and weights are right: look at how the run was made";
    causes.push_back(std::move(cause));
  }
  return causes;
}

}  // namespace weighbridge
