#include "report/json.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "report/sample.h"

namespace weighbridge {
namespace {

using testing::FailingReport;
using testing::MatchingRow;
using testing::MismatchRow;
using testing::PassingReport;
using testing::UndecidedReport;

std::string Text(const Report& report, const JsonOptions& options = {}) {
  return RenderToString([&](const Sink& sink) { WriteJson(report, sink, options); });
}

nlohmann::json Parsed(const Report& report, const JsonOptions& options = {}) {
  return nlohmann::json::parse(Text(report, options));
}

TEST(ReportJson, WritesASmallReportByteForByte) {
  Report report = PassingReport(1);
  report.inputs[0].content_xxh3 = "aa55";
  const std::string expected = R"json({
"schema": "weighbridge.report/1",
"command": "roundtrip",
"level": "L1",
"verdict": "pass",
"counts": {"total":1,"passed":1,"failed":0,"skipped":0},
"causes": [],
"notes": [
{"id":"match-widened","message":"2 tensors were widened without loss"}
],
"results": [
{"hf":[{"name":"model.layers.0.w","shape":[4,2],"dtype":"bf16"}],"megatron":{"name":"decoder.model.layers.0.w","shape":[4,2],"dtype":"bf16"},"rank":null,"status":"match","transform":"identity","op":"none","bytes":16,"max_diff":0.0,"mean_diff":0.0,"cosine":1.0,"max_relative":0.0,"max_ulp":0,"mismatched":0,"nan_count":0,"inf_count":0,"first":null,"why":""}
],
"unproven": ["no foreign Megatron byte was read"],
"details": {"family":"llama","grid":"tp 2, pp 1"},
"tolerances": {},
"timing": {"wall_s":0.5,"bytes":2000000000,"gb_per_s":4.0},
"memory": {"peak_anonymous_bytes":35000000},
"reproduce": {"argv":["weighbridge","roundtrip","my model","--tp","2"],"version":"0.1.0 (abc)","inputs":[{"path":"my model/model.safetensors","bytes":2000000000,"header_xxh3":"00ff","content_xxh3":"aa55"}]}
}
)json";
  EXPECT_EQ(Text(report), expected);
}

TEST(ReportJson, WritesCausesAndTheFirstDifferenceInBothCoordinates) {
  const nlohmann::json json = Parsed(FailingReport());
  EXPECT_EQ(json["verdict"], "fail");
  EXPECT_EQ(json["causes"][0]["id"], "qkv-concatenated");
  EXPECT_EQ(json["causes"][0]["proof"], "exact");
  EXPECT_EQ(json["causes"][0]["origin"], "checkpoint");
  const nlohmann::json& first = json["results"][3]["first"];
  EXPECT_EQ(first["hf"], nlohmann::json({{"name", "small"}, {"index", {3, 1}}}));
  EXPECT_EQ(first["megatron"]["rank"]["pp"], 2);
  EXPECT_EQ(first["megatron"]["index"], nlohmann::json({1, 1}));
  EXPECT_EQ(first["expected"], "0.5 (0x3f00)");
  EXPECT_FALSE(json.contains("error"));
}

TEST(ReportJson, WritesNullForMetricsThatAreNotFinite) {
  Report report = PassingReport(1);
  report.results.push_back(MismatchRow("nan", std::numeric_limits<double>::quiet_NaN()));
  report.results.back().metrics.cosine = std::numeric_limits<double>::infinity();
  Conclude(report);
  const nlohmann::json row = Parsed(report)["results"][1];
  EXPECT_TRUE(row["max_diff"].is_null());
  EXPECT_TRUE(row["cosine"].is_null());
  EXPECT_EQ(row["mean_diff"], 0.125);
}

TEST(ReportJson, WritesNullForMetricsOfTensorsThatWereNotCompared) {
  const nlohmann::json json = Parsed(FailingReport());
  EXPECT_EQ(json["results"][5]["status"], "missing");
  EXPECT_TRUE(json["results"][5]["max_diff"].is_null());
  EXPECT_TRUE(json["results"][5]["cosine"].is_null());
  EXPECT_TRUE(json["results"][6]["mismatched"].is_null());
}

TEST(ReportJson, NamesTheErrorOnlyWhenUndecided) {
  const nlohmann::json json = Parsed(UndecidedReport());
  EXPECT_EQ(json["verdict"], "undecided");
  EXPECT_EQ(json["error"]["id"], "nothing-compared");
  EXPECT_EQ(json["error"]["what"], "nothing was compared");
}

TEST(ReportJson, ReplacesBytesThatAreNotUtf8) {
  Report report = PassingReport(1);
  report.results[0].hf[0].name = "bad\xff\xc3(\"quoted\"\n";
  EXPECT_EQ(Parsed(report)["results"][0]["hf"][0]["name"],
            "bad\xef\xbf\xbd\xef\xbf\xbd(\"quoted\"\n");
}

TEST(ReportJson, CapsRowsWorstFirstAndSaysHowManyAreLeftOut) {
  const nlohmann::json json = Parsed(FailingReport(), {.max_results = 2});
  ASSERT_EQ(json["results"].size(), 2u);
  EXPECT_EQ(json["results"][0]["status"], "missing");
  EXPECT_EQ(json["results"][1]["hf"][0]["name"], "large");
  EXPECT_EQ(json["results_omitted"], 5);
  EXPECT_EQ(json["counts"]["total"], 7);
}

TEST(ReportJson, StreamsRowsInPieces) {
  Report report = PassingReport(2000);
  size_t largest = 0;
  WriteJson(report, [&](std::string_view piece) { largest = std::max(largest, piece.size()); });
  EXPECT_LT(largest, 1000u);
}

}  // namespace
}  // namespace weighbridge
