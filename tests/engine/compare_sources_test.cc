// Reports on rows of several lengths as one.
#include "engine/compare_sources.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace weighbridge {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

ResultRow Row(const std::string& name, double ratio, RowStatus status = RowStatus::kMatch) {
  ResultRow row;
  row.megatron.name = name;
  row.noise = Noise{ratio, 1, ratio, ratio};
  row.status = status;
  return row;
}

LabelledReport Part(std::string label, std::vector<ResultRow> rows) {
  LabelledReport part{std::move(label), {}};
  part.report.command = "compare";
  part.report.level = "L2";
  part.report.results = std::move(rows);
  part.report.bytes = 10;
  return part;
}

TEST(ReportsOfSeveralLengths, KeepTheWorstRowOfEachModule) {
  std::vector<LabelledReport> parts;
  parts.push_back(Part("a", {Row("norm", 1.5), Row("mlp", 1), Row("qkv", 0.5)}));
  parts.push_back(Part("b", {Row("norm", 1), Row("mlp", 1.25), Row("qkv", 0.1)}));
  // A failed row is worse than a passed one with a larger error by RMS.
  parts.push_back(
      Part("c", {Row("norm", 1), Row("mlp", 1), Row("qkv", 0.2, RowStatus::kMismatch)}));
  const Report report = JoinByWorst(std::move(parts));
  ASSERT_EQ(report.results.size(), 3u);
  EXPECT_EQ(report.results[0].noise->ratio, 1.5);
  EXPECT_EQ(report.results[1].noise->ratio, 1.25);
  EXPECT_EQ(report.results[2].status, RowStatus::kMismatch);
  EXPECT_EQ(report.level, "L2");
  EXPECT_EQ(report.bytes, 30u);
}

TEST(ReportsOfSeveralLengths, KeepTheRowsOfEachDTypeApart) {
  std::vector<LabelledReport> parts;
  for (const double ratio : {1.0, 1.5}) {
    ResultRow narrow = Row("norm", ratio / 2);
    narrow.megatron.dtype = DType::kBF16;
    parts.push_back(Part("a", {Row("norm", ratio), std::move(narrow)}));
  }
  const Report report = JoinByWorst(std::move(parts));
  ASSERT_EQ(report.results.size(), 2u);
  EXPECT_EQ(report.results[0].noise->ratio, 1.5);
  EXPECT_EQ(report.results[1].noise->ratio, 0.75);
}

TEST(ReportsOfSeveralLengths, SayOnceWhatAllSayAndLabelTheRest) {
  std::vector<LabelledReport> parts;
  for (const char* label : {"rows of 2 tokens", "rows of 5 tokens"}) {
    LabelledReport& part = parts.emplace_back(Part(label, {Row("norm", 1)}));
    part.report.details = {{"family", "llama"}, {"tokens", std::string("1 x ") + label[8]}};
    part.report.notes = {{"same", "said by both"}};
    part.report.unproven = {"no training step"};
    part.report.causes = {{"norm-eps", Proof::kExact, Origin::kConfig, {label}, "m", "e", "h"}};
  }
  parts[1].report.notes.push_back({"own", "said by one"});
  const Report report = JoinByWorst(std::move(parts));
  EXPECT_THAT(report.details,
              ElementsAre(Pair("family", "llama"), Pair("tokens, rows of 2 tokens", "1 x 2"),
                          Pair("tokens, rows of 5 tokens", "1 x 5")));
  ASSERT_EQ(report.notes.size(), 2u);
  EXPECT_EQ(report.notes[0].message, "said by both");
  EXPECT_EQ(report.notes[1].message, "rows of 5 tokens: said by one");
  EXPECT_THAT(report.unproven, ElementsAre("no training step"));
  ASSERT_EQ(report.causes.size(), 1u);
  EXPECT_THAT(report.causes[0].where, ElementsAre("rows of 2 tokens", "rows of 5 tokens"));
}

}  // namespace
}  // namespace weighbridge
