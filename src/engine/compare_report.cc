#include "engine/compare_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <vector>

#include "engine/compare.h"
#include "engine/compare_rows.h"

namespace weighbridge {
namespace {

using nlohmann::json;

void DescribeGrowth(const CompareFindings& findings, Report& report) {
  std::vector<std::string> growth;
  for (const json& figures : findings.growth) {
    growth.push_back(fmt::format("{:.2g}", NumberIn(figures, "max_diff")));
  }
  report.details.emplace_back("difference after each layer, both on their own",
                              fmt::format("{}", fmt::join(growth, " ")));
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
  report.notes.push_back(
      {"next-tokens",
       fmt::format(
           "{} of {} next tokens are equal{}; logits differ by at most {:.3g} (cosine "
           "{:.9g}), KL divergence at most {:.3g}",
           count("positions") - count("differ"), count("positions"),
           count("differ") > 0 ? fmt::format(", {} of the others within the reference's noise",
                                             count("differ") - count("beyond_noise"))
                               : "",
           NumberIn(logits, "max_diff"), NumberIn(logits, "cosine"), NumberIn(tokens, "kl_max"))});
}

void NoteRoutes(const CompareFindings& findings, Report& report) {
  if (findings.routed == 0 || findings.flipped == 0) return;
  report.notes.push_back(
      {"route-flip", fmt::format("{} of {} tokens choose other experts, {} of them where the "
                                 "scores are as good as tied",
                                 findings.flipped, findings.routed, findings.near_ties)});
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
  if (!findings.growth.empty()) DescribeGrowth(findings, report);
  DescribeTime(findings, report);
  report.tolerances = {{"ratio", kMostRatio}, {"max_ratio", kMostMaxRatio}};
  NoteWorst(report);
  NoteTokens(findings, report);
  NoteRoutes(findings, report);
}

}  // namespace weighbridge
