#include "report/terminal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>
#include <vector>

#include "base/strings.h"
#include "report/sample.h"

namespace weighbridge {
namespace {

using testing::FailingReport;
using ::testing::HasSubstr;
using testing::MismatchRow;
using ::testing::Not;
using testing::PassingReport;
using testing::UndecidedReport;

std::string Text(const Report& report, const TerminalOptions& options = {}) {
  return RenderToString([&](const Sink& sink) { WriteTerminal(report, options, sink); });
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(TerminalReport, SaysInOneLineThatEveryTensorMatches) {
  EXPECT_EQ(Text(PassingReport(), {.columns = 0}),
            "All 3 tensors match: 3 passed, 0 failed, 0 skipped; 2.00 GB in 0.50 s (4 GB/s), peak "
            "anonymous memory 35.0 MB\n"
            "  not proven: no foreign Megatron byte was read\n"
            "  note match-widened: 2 tensors were widened without loss\n"
            "PASSED weighbridge roundtrip 'my model' --tp 2\n");
}

TEST(TerminalReport, ShowsFailedRowsWorstFirstThenTheCauseThenTheVerdict) {
  const std::string expected = R"text(Weight Name  Shape   DType  Matches Original  Max Diff
-----------  ------  -----  ----------------  --------
gone         [4, 2]  bf16   no (missing)      -
    no Megatron tensor holds it
large        [4, 2]  bf16   no                4
    3 values differ
    first at large[3, 1] = decoder.large (tp 1, pp 2)[1, 1]: expected 0.5
    (0x3f00), actual 0.25 (0x3e80)
small        [4, 2]  bf16   no                0.25
    3 values differ
    first at small[3, 1] = decoder.small (tp 1, pp 2)[1, 1]: expected 0.5
    (0x3f00), actual 0.25 (0x3e80)

cause: qkv-concatenated (proof: exact, origin: checkpoint)
  what: linear_qkv holds q, k, v stacked whole
  where: decoder.layers.*.self_attention.linear_qkv.weight
  evidence: 4 of 4 tensors equal that layout bit for bit
  hint: interleave per query group

3 of 7 tensors failed: 3 passed, 3 failed, 1 skipped; 2.00 GB in 0.50 s (4
  GB/s), peak anonymous memory 35.0 MB
  not proven: no foreign Megatron byte was read
  note match-widened: 2 tensors were widened without loss
FAILED weighbridge roundtrip 'my model' --tp 2
)text";
  EXPECT_EQ(Text(FailingReport()), expected);
  ;
}

TEST(TerminalReport, CapsFailedRowsAndNamesTheOptionThatShowsAll) {
  const std::string capped = Text(FailingReport(), {.top = 1});
  EXPECT_THAT(capped, HasSubstr("... 2 more failed, use --top 0\n"));
  EXPECT_THAT(capped, Not(HasSubstr("small  ")));
  EXPECT_THAT(Text(FailingReport(), {.top = 0}), Not(HasSubstr("more failed")));
}

TEST(TerminalReport, ShowsEveryRowWhenVerbose) {
  const std::string text = Text(PassingReport(), {.verbose = 1});
  EXPECT_THAT(text, HasSubstr("model.layers.2.w  [4, 2]  bf16   yes\n"));
  EXPECT_THAT(text, HasSubstr("grid: tp 2, pp 1\n"));
  EXPECT_THAT(Text(PassingReport(), {.verbose = 2}),
              HasSubstr("input: my model/model.safetensors"));
}

TEST(TerminalReport, KeepsWithinTheColumnsAndCutsNamesInTheMiddle) {
  Report report = FailingReport();
  report.results.push_back(MismatchRow(
      "model.language_model.layers.17.mlp.experts.121.down_proj.weight_with_a_long_tail", 9));
  report.results.back().megatron.name = "x";
  report.results.back().first = std::nullopt;
  Conclude(report);
  const std::string text = Text(report, {.columns = 80});
  for (const std::string& line : Lines(text)) EXPECT_LE(DisplayWidth(line), 80u) << line;
  EXPECT_THAT(text, HasSubstr("..."));
  EXPECT_THAT(text, HasSubstr("tail"));
  EXPECT_THAT(Text(report, {.columns = 0}), HasSubstr("down_proj.weight_with_a_long_tail"));
}

TEST(TerminalReport, UsesColourOnlyWhenAskedAndKeepsTheWords) {
  EXPECT_THAT(Text(FailingReport()), Not(HasSubstr("\x1b")));
  const std::string coloured = Text(FailingReport(), {.color = true});
  EXPECT_THAT(coloured, HasSubstr("\x1b[1;31mFAILED\x1b[0m"));
  EXPECT_THAT(coloured, HasSubstr("\x1b[1;31mno (missing)\x1b[0m"));
}

TEST(TerminalReport, NeverSendsControlCharactersOfAName) {
  Report report = FailingReport();
  report.results[3].hf[0].name = "evil\x1b[2J\nname\xff";
  report.causes[0].message = "evil\x1b]0;title\x07";
  const std::string text = Text(report);
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
  EXPECT_THAT(text, HasSubstr("evil\\x1b[2J\\nname\xef\xbf\xbd"));
}

TEST(TerminalReport, SaysWhyNoJudgementWasReached) {
  EXPECT_EQ(Text(UndecidedReport()),
            "No judgement was reached, nothing was compared: 0 passed, 0 failed, 0 skipped\n"
            "UNDECIDED weighbridge roundtrip m\n");
}

TEST(TerminalReport, PutsMetricsThatAreNotFiniteBeforeLargeOnes) {
  Report report = FailingReport();
  report.results.push_back(MismatchRow("nan", std::numeric_limits<double>::quiet_NaN()));
  const std::string text = Text(report);
  EXPECT_LT(text.find("\nnan "), text.find("\nlarge "));
  EXPECT_THAT(text, HasSubstr("not finite"));
}

}  // namespace
}  // namespace weighbridge
