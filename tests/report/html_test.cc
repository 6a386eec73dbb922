#include "report/html.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "report/json.h"
#include "report/sample.h"

namespace weighbridge {
namespace {

using testing::FailingReport;
using ::testing::HasSubstr;
using testing::MatchingRow;
using ::testing::Not;
using testing::PassingReport;
using testing::UndecidedReport;

constexpr char kScript[] = "<script type=\"application/json\" id=\"weighbridge-report\">";

std::string Page(const Report& report, const HtmlOptions& options = {}) {
  return RenderToString([&](const Sink& sink) { WriteHtml(report, sink, options); });
}

nlohmann::json Embedded(const std::string& page) {
  const size_t begin = page.find(kScript) + sizeof(kScript) - 1;
  return nlohmann::json::parse(page.substr(begin, page.find("</script>", begin) - begin));
}

size_t CountOf(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

TEST(HtmlReport, PutsVerdictAndReproduceBlockBeforeTheTable) {
  const std::string page = Page(FailingReport());
  const size_t verdict = page.find("\u2717 FAILED");
  const size_t reproduce = page.find("weighbridge roundtrip &#39;my model&#39; --tp 2");
  const size_t cause = page.find("<h3>qkv-concatenated");
  const size_t table = page.find("<table id=\"tensors\">");
  EXPECT_LT(verdict, reproduce);
  EXPECT_LT(reproduce, cause);
  EXPECT_LT(cause, table);
  ASSERT_NE(table, std::string::npos);
}

TEST(HtmlReport, NeedsNoNetwork) {
  const std::string page = Page(FailingReport());
  for (const char* forbidden : {"http://", "https://", " src=", "@import", "url(", "<link"}) {
    EXPECT_THAT(page, Not(HasSubstr(forbidden)));
  }
}

TEST(HtmlReport, ShowsRowsWorstFirstWithoutScript) {
  const std::string page = Page(FailingReport());
  const size_t table = page.find("<tbody>");
  const size_t gone = page.find(">gone<", table);
  const size_t large = page.find(">large<", table);
  const size_t small = page.find(">small<", table);
  const size_t match = page.find(">model.layers.0.w<", table);
  EXPECT_LT(gone, large);
  EXPECT_LT(large, small);
  EXPECT_LT(small, match);
  EXPECT_THAT(page, HasSubstr("expected 0.5 (0x3f00), actual 0.25 (0x3e80)"));
}

TEST(HtmlReport, KeepsMarkupInNamesHarmless) {
  const std::string evil = "</script><script>alert('x')</script><!--\"&";
  Report report = FailingReport();
  report.results[0].hf[0].name = evil;
  report.causes[0].message = evil;
  report.argv.push_back(evil);
  const std::string page = Page(report);
  EXPECT_THAT(page, Not(HasSubstr("alert('x')</script>")));
  // The page's own two script elements and nothing else.
  EXPECT_EQ(CountOf(page, "</script>"), 2u);
  EXPECT_EQ(CountOf(page, "<!--"), 0u);
  const nlohmann::json json = Embedded(page);
  EXPECT_EQ(json["results"][0]["hf"][0]["name"], evil);
}

TEST(HtmlReport, EmbedsTheWholeJson) {
  const Report report = FailingReport();
  const std::string json = RenderToString([&](const Sink& sink) { WriteJson(report, sink); });
  EXPECT_EQ(Embedded(Page(report)), nlohmann::json::parse(json));
}

TEST(HtmlReport, StaysBelowItsLimitAndSaysWhatIsLeftOut) {
  Report report = PassingReport(100'000);
  report.results.push_back(testing::MissingRow("the only bad one"));
  Conclude(report);
  const std::string page = Page(report);
  EXPECT_LT(page.size(), 2'000'000u);
  EXPECT_GT(page.size(), 1'500'000u);
  EXPECT_THAT(page, HasSubstr("the only bad one"));
  EXPECT_THAT(page, HasSubstr("left out to keep it small"));
  const nlohmann::json json = Embedded(page);
  EXPECT_EQ(json["results"].size() + json["results_omitted"].get<size_t>(), 100'001u);
  EXPECT_EQ(CountOf(page, "<tr class="), json["results"].size());
}

TEST(HtmlReport, StaysBelowItsLimitWithHugeNames) {
  Report report = PassingReport(1);
  for (int i = 0; i < 3000; ++i) report.results.push_back(MatchingRow(std::string(3000, '<')));
  Conclude(report);
  EXPECT_LT(Page(report).size(), 2'000'000u);
}

TEST(HtmlReport, GivesTheSameBytesForTheSameReport) {
  EXPECT_EQ(Page(FailingReport()), Page(FailingReport()));
}

TEST(HtmlReport, SaysWhyNoJudgementWasReached) {
  const std::string page = Page(UndecidedReport());
  EXPECT_THAT(page, HasSubstr("UNDECIDED"));
  EXPECT_THAT(page, HasSubstr("nothing was compared"));
  EXPECT_THAT(page, HasSubstr("There are no results."));
}

}  // namespace
}  // namespace weighbridge
