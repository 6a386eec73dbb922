#include "engine/compare_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "engine/compare.h"
#include "engine/compare_rows.h"
#include "engine/growth.h"

namespace weighbridge {
namespace {

using nlohmann::json;

// Relative to the size of the state, so that a state that grows is no growth of the difference.
double RelativeError(const json& figures, const char* error) {
  return NumberIn(figures, error) / NumberIn(figures, "rms");
}

// Growth counts the embedding as 0, then the layers, then the logits.
std::string PlaceOf(size_t entry, size_t entries) {
  if (entry == 0) return "the embedding";
  if (entry + 1 == entries) return "the logits";
  return fmt::format("layer {}", entry - 1);
}

std::string GrowthText(const Growth& growth, size_t entries) {
  switch (growth.kind) {
    case GrowthKind::kFlat:
      return "flat: much the same after every layer";
    case GrowthKind::kStep:
      return fmt::format("a step: x {:.2g} at {}, and it stays", growth.factor,
                         PlaceOf(growth.at, entries));
    case GrowthKind::kCompounding:
      return fmt::format("compounding: x {:.2g} from first to last, a little with every layer",
                         growth.factor);
    case GrowthKind::kSpikes:
      return fmt::format("spikes: x {:.2g} at {}, and less again later", growth.factor,
                         PlaceOf(growth.at, entries));
  }
  return "";
}

void DescribeGrowth(const CompareFindings& findings, Report& report) {
  std::vector<std::string> shown;
  std::vector<double> relative;
  for (const json& figures : findings.growth) {
    shown.push_back(fmt::format("{:.2g}", NumberIn(figures, "max_diff")));
    relative.push_back(RelativeError(figures, "candidate_error"));
  }
  if (shown.empty()) return;
  report.details.emplace_back("difference after each layer, both on their own",
                              fmt::format("{}", fmt::join(shown, " ")));
  report.details.emplace_back("growth of the error",
                              GrowthText(ReadGrowth(relative), relative.size()));
}

// -- the limits that users know --

struct Limit {
  const char* dtype;
  double max_diff, cosine;
};
constexpr Limit kLimits[] = {
    {"float32", 1e-4, 0.999999}, {"fp16", 1e-3, 0.99999}, {"bf16", 1e-2, 0.9999}};

std::string LimitText(const json& figures, const Limit& limit) {
  const double diff = NumberIn(figures, "max_diff"), cosine = NumberIn(figures, "cosine");
  const bool inside = diff <= limit.max_diff && cosine >= limit.cosine;
  const std::string text =
      fmt::format("{} ({:g}, {:g}): ", limit.dtype, limit.max_diff, limit.cosine);
  if (inside) return text + "inside";
  // The cosine of the reference and its own truth, from the angle between them.
  const double angle = RelativeError(figures, "reference_error");
  const double own = NumberIn(figures, "reference_max"), own_cosine = 1 - angle * angle / 2;
  if (own <= limit.max_diff && !(own_cosine < limit.cosine)) {
    return text + fmt::format("outside the limit, where the reference is inside ({:.2g})", own);
  }
  return text + fmt::format("outside the limit, as the reference is itself ({:.2g})", own);
}

void DescribeLimits(const CompareFindings& findings, Report& report) {
  if (findings.growth.empty()) return;
  // Where tokens took other experts, by the same ones on both sides: the reference's own error is
  // that of its routes too.
  json logits = findings.growth.back();
  if (!findings.replayed.is_null()) {
    for (const char* figure : {"max_diff", "cosine"}) logits[figure] = findings.replayed.at(figure);
  }
  std::vector<std::string> lines;
  for (const Limit& limit : kLimits) lines.push_back(LimitText(logits, limit));
  report.details.emplace_back("logits beside fixed limits (max diff, cosine)",
                              fmt::format("{:.2g}, {:.9g}; {}", NumberIn(logits, "max_diff"),
                                          NumberIn(logits, "cosine"), fmt::join(lines, "; ")));
  if (!LimitText(logits, kLimits[0]).ends_with("inside")) {
    report.notes.push_back({"fixed-limits", "logits, " + LimitText(logits, kLimits[0])});
  }
}

// -- modules --

void DescribeTolerance(Report& report) {
  const auto largest = [&](double Noise::*figure) {
    return std::max_element(report.results.begin(), report.results.end(),
                            [&](const ResultRow& a, const ResultRow& b) {
                              return (*a.noise).*figure < (*b.noise).*figure;
                            });
  };
  const auto ratio = largest(&Noise::ratio), most = largest(&Noise::max_ratio);
  if (ratio == report.results.end()) return;
  report.details.emplace_back(
      "smallest tolerance that would pass",
      fmt::format("ratio {:.4g} ({}), of the largest error {:.4g} ({})", ratio->noise->ratio,
                  ratio->megatron.name, most->noise->max_ratio, most->megatron.name));
}

// Rows stand in the order of computation.
void NoteDivergence(Report& report) {
  const auto first = std::find_if(report.results.begin(), report.results.end(),
                                  [](const ResultRow& row) { return !Passed(row.status); });
  if (first == report.results.end()) return;
  std::vector<std::string> causes;
  for (const Cause& cause : report.causes) causes.push_back(cause.id);
  report.notes.push_back(
      {"first-divergence", fmt::format("{}: {}; causes: {}", first->megatron.name, first->why,
                                       fmt::join(causes, ", "))});
}

// -- tokens --

std::string TokensText(const json& best) {
  std::vector<std::string> tokens;
  for (const json& token : best) {
    tokens.push_back(
        fmt::format("{} ({:.4g})", token.at(0).get<int64_t>(),
                    token.at(1).is_number() ? token.at(1).get<double>() : std::nan("")));
  }
  return fmt::format("{}", fmt::join(tokens, ", "));
}

void DescribeTop(const CompareFindings& findings, Report& report) {
  for (size_t row = 0; row < findings.top.size(); ++row) {
    for (const char* side : {"reference", "candidate"}) {
      const json& best = findings.top[row].at(side);
      if (best.empty()) continue;
      report.details.emplace_back(fmt::format("next tokens of row {}, {}", row, side),
                                  TokensText(best));
    }
  }
}

void NoteWorst(Report& report) {
  const auto by_ratio = [](const ResultRow& a, const ResultRow& b) {
    return a.noise->ratio < b.noise->ratio;
  };
  const auto worst = std::max_element(report.results.begin(), report.results.end(), by_ratio);
  if (worst == report.results.end()) return;
  report.notes.push_back(
      {"precision-noise", fmt::format("the largest error is {:.3g} x the reference's own, at {}",
                                      worst->noise->ratio, worst->megatron.name)});
}

void NoteTokens(const CompareFindings& findings, Report& report) {
  const json& tokens = findings.tokens;
  if (tokens.is_null() || findings.growth.empty()) return;
  const auto count = [&](const char* key) { return tokens.value(key, int64_t{0}); };
  const json& logits = findings.growth.back();
  const int64_t no_numbers =
      logits.value("nan_count", int64_t{0}) + logits.value("inf_count", int64_t{0});
  report.notes.push_back(
      {"next-tokens",
       fmt::format(
           "{} of {} next tokens are equal{}; logits differ by at most {:.3g} (cosine "
           "{:.9g}), KL divergence {:.3g} on average, at most {:.3g}{}",
           count("positions") - count("differ"), count("positions"),
           count("differ") > 0 ? fmt::format(", {} of the others within the reference's noise",
                                             count("differ") - count("beyond_noise"))
                               : "",
           NumberIn(logits, "max_diff"), NumberIn(logits, "cosine"), NumberIn(tokens, "kl_mean"),
           NumberIn(tokens, "kl_max"),
           no_numbers > 0 ? fmt::format("; {} of the candidate's logits are no numbers", no_numbers)
                          : "")});
}

void NoteRoutes(const CompareFindings& findings, Report& report) {
  if (findings.routed > 0 && findings.flipped > 0) {
    report.notes.push_back(
        {"route-flip", fmt::format("{} of {} tokens choose other experts, {} of them where the "
                                   "scores are as good as tied",
                                   findings.flipped, findings.routed, findings.near_ties)});
  }
  if (findings.replayed.is_null()) return;
  report.notes.push_back(
      {"route-flip",
       fmt::format(
           "each side on its own, {} of {} tokens choose other experts; with the "
           "reference's routes replayed the logits differ by at most {:.3g} (cosine {:.9g})",
           findings.own_flips, findings.routed, NumberIn(findings.replayed, "max_diff"),
           NumberIn(findings.replayed, "cosine"))});
}

// What was not computed shows no fault.
void TellIdleExperts(const CompareFindings& findings, Report& report) {
  constexpr size_t kMostShown = 8;  // layers
  if (findings.idle.empty()) return;
  int64_t all = 0;
  std::vector<std::string> layers;
  for (const CompareFindings::Idle& one : findings.idle) {
    all += one.idle;
    if (layers.size() < kMostShown) {
      layers.push_back(fmt::format("{} of {} in {}", one.idle, one.all, one.layer));
    }
  }
  const size_t more = findings.idle.size() - layers.size();
  report.unproven.push_back(fmt::format(
      "{} expert{} got no token: {}{}; more tokens reach more", all, all == 1 ? "" : "s",
      fmt::join(layers, ", "), more == 0 ? "" : fmt::format(", and in {} more layers", more)));
}

void DescribeTime(const CompareFindings& findings, Report& report) {
  std::vector<std::string> passes;
  for (const auto& [pass, seconds] : findings.seconds) {
    passes.push_back(fmt::format("{} {:.3f}", pass, seconds));
  }
  report.details.emplace_back("seconds", fmt::format("{}", fmt::join(passes, ", ")));
}

}  // namespace

void DescribeFindings(const CompareFindings& findings, Report& report) {
  DescribeGrowth(findings, report);
  DescribeTime(findings, report);
  DescribeLimits(findings, report);
  DescribeTolerance(report);
  DescribeTop(findings, report);
  NoteDivergence(report);
  report.tolerances = {{"ratio", kMostRatio}, {"max_ratio", kMostMaxRatio}};
  NoteWorst(report);
  NoteTokens(findings, report);
  NoteRoutes(findings, report);
  TellIdleExperts(findings, report);
}

}  // namespace weighbridge
