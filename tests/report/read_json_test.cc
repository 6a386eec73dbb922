#include "report/read_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "report/html.h"
#include "report/json.h"
#include "report/sample.h"

namespace weighbridge {
namespace {

using testing::FailingReport;
using ::testing::HasSubstr;
using testing::MismatchRow;
using testing::PassingReport;
using testing::UndecidedReport;

std::string Json(const Report& report) {
  return RenderToString([&](const Sink& sink) { WriteJson(report, sink); });
}

// What the reader says about a report with one thing changed.
template <typename Change>
std::string ErrorAfter(const Change& change) {
  nlohmann::json json = nlohmann::json::parse(Json(FailingReport()));
  change(json);
  const Result<Report> report = ParseReport(json.dump(), "r.json");
  if (report) return "";
  EXPECT_EQ(report.error().kind, ErrorKind::kInvalid);
  EXPECT_EQ(report.error().at, "r.json");
  return report.error().what;
}

TEST(ReadReport, GivesBackEveryReportByteForByte) {
  Report odd = FailingReport();
  odd.results.push_back(MismatchRow("odd", std::numeric_limits<double>::quiet_NaN()));
  odd.results.back().rank = RankId{1, 2, 3, 4, 5};
  odd.results.back().hf.push_back({"second", {}, DType::kF8E4M3});
  odd.inputs[0].content_xxh3 = "abcd";
  odd.tolerances = {{"atol", 0.5}, {"rtol", 0}};
  Conclude(odd);
  for (const Report& report : {PassingReport(), FailingReport(), UndecidedReport(), odd}) {
    const Result<Report> again = ParseReport(Json(report), "r.json");
    ASSERT_TRUE(again) << again.error().what;
    EXPECT_EQ(Json(*again), Json(report));
    EXPECT_EQ(ExitStatus(*again), ExitStatus(report));
  }
}

TEST(ReadReport, ReadsTheJsonInsideAPage) {
  const Report report = FailingReport();
  const std::string page = RenderToString([&](const Sink& sink) { WriteHtml(report, sink); });
  const Result<Report> again = ParseReport(page, "r.html");
  ASSERT_TRUE(again) << again.error().what;
  EXPECT_EQ(Json(*again), Json(report));
}

TEST(ReadReport, ReadsACappedPageAndKeepsItsCounts) {
  const Report report = PassingReport(500);
  const std::string page =
      RenderToString([&](const Sink& sink) { WriteHtml(report, sink, {.max_bytes = 100'000}); });
  const Result<Report> again = ParseReport(page, "r.html");
  ASSERT_TRUE(again) << again.error().what;
  EXPECT_GT(again->results_omitted, 0u);
  EXPECT_EQ(again->counts.total, 500);
  EXPECT_EQ(again->results.size() + again->results_omitted, 500u);
}

TEST(ReadReport, IgnoresFieldsThatItDoesNotKnow) {
  EXPECT_EQ(ErrorAfter([](nlohmann::json& j) {
              j["new"] = {1, 2};
              j["results"][0]["new"] = "x";
            }),
            "");
}

TEST(ReadReport, RefusesTextThatIsNoReport) {
  for (const char* text : {"", "{", "[]", "{}", "null", "\"x\"", "{\"schema\": 3}", "\xff\xfe",
                           "{\"schema\": \"weighbridge.report/2\"}", "<!doctype html>"}) {
    EXPECT_FALSE(ParseReport(text, "r.json")) << text;
  }
  EXPECT_FALSE(ParseReport(std::string(1'000'000, '['), "deep"));
  EXPECT_FALSE(ParseReport(
      "{\"schema\":" + std::string(1'000'000, '[') + std::string(1'000'000, ']') + "}", "deep"));
}

TEST(ReadReport, RefusesEveryTruncation) {
  const std::string text = Json(FailingReport());
  for (size_t n = 0; n + 2 < text.size(); ++n) {
    EXPECT_FALSE(ParseReport(std::string_view(text).substr(0, n), "r.json")) << n;
  }
}

TEST(ReadReport, RefusesFieldsOfTheWrongType) {
  using J = nlohmann::json;
  EXPECT_THAT(ErrorAfter([](J& j) { j["command"] = 1; }), HasSubstr("'command' is not a string"));
  EXPECT_THAT(ErrorAfter([](J& j) { j["results"] = J::object(); }),
              HasSubstr("'results' is not a list"));
  EXPECT_THAT(ErrorAfter([](J& j) { j["results"][0] = 3; }), HasSubstr("an object with"));
  EXPECT_THAT(ErrorAfter([](J& j) { j["results"][0]["status"] = "fine"; }),
              HasSubstr("'status' has the unknown value 'fine'"));
  EXPECT_THAT(ErrorAfter([](J& j) { j["counts"]["passed"] = -1; }),
              HasSubstr("'passed' is not a count"));
  EXPECT_THAT(ErrorAfter([](J& j) { j["counts"]["total"] = UINT64_MAX; }),
              HasSubstr("'total' is not a count"));
  EXPECT_THAT(ErrorAfter([](J& j) { j["results"][0]["hf"][0]["shape"] = {-1}; }),
              HasSubstr("'shape'"));
  EXPECT_THAT(ErrorAfter([](J& j) { j["results"][0]["hf"][0]["dtype"] = "f3"; }),
              HasSubstr("'dtype'"));
  EXPECT_THAT(ErrorAfter([](J& j) { j["results"][0]["max_diff"] = "big"; }),
              HasSubstr("'max_diff' is not a number"));
  EXPECT_THAT(ErrorAfter([](J& j) { j["reproduce"]["argv"] = {1}; }), HasSubstr("'argv'"));
  EXPECT_THAT(ErrorAfter([](J& j) { j.erase("reproduce"); }), HasSubstr("'reproduce'"));
  EXPECT_THAT(ErrorAfter([](J& j) { j["details"] = 3; }), HasSubstr("'details'"));
  EXPECT_THAT(ErrorAfter([](J& j) { j["tolerances"] = 3; }), HasSubstr("'tolerances'"));
  EXPECT_THAT(ErrorAfter([](J& j) { j["tolerances"]["atol"] = "x"; }), HasSubstr("'tolerances'"));
}

TEST(ReadReport, RefusesReportsThatContradictThemselves) {
  using J = nlohmann::json;
  EXPECT_THAT(ErrorAfter([](J& j) { j["counts"]["total"] = 8; }), HasSubstr("do not add up"));
  EXPECT_THAT(ErrorAfter([](J& j) {
                j["counts"]["passed"] = INT64_MAX;
                j["counts"]["skipped"] = INT64_MAX;
              }),
              HasSubstr("do not add up"));
  EXPECT_THAT(ErrorAfter([](J& j) { j["verdict"] = "pass"; }), HasSubstr("'pass'"));
  EXPECT_THAT(ErrorAfter([](J& j) { j["causes"] = J::array(); }), HasSubstr("causes are there"));
  EXPECT_THAT(ErrorAfter([](J& j) { j["results"].erase(0); }), HasSubstr("do not fit the results"));
  EXPECT_THAT(ErrorAfter([](J& j) {
                j["verdict"] = "pass";
                j["causes"] = J::array();
                j["results"] = J::array();
                j["counts"] = {{"total", 0}, {"passed", 0}, {"failed", 0}, {"skipped", 0}};
              }),
              HasSubstr("none that passed"));
}

TEST(ReadReport, SaysThatAFileIsNotThere) {
  const Result<Report> report = ReadReportFile("/nonexistent/report.json");
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().kind, ErrorKind::kNotFound);
}

}  // namespace
}  // namespace weighbridge
