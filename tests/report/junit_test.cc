#include "report/junit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report/sample.h"

namespace weighbridge {
namespace {

using testing::FailingReport;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::PassingReport;
using testing::UndecidedReport;

std::string Xml(const std::vector<Report>& reports) {
  return RenderToString([&](const Sink& sink) { WriteJunit(reports, sink); });
}

TEST(JunitReport, WritesOneCasePerRow) {
  const std::string expected = R"xml(<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
  <testsuite name="weighbridge roundtrip L1" tests="1" failures="0" errors="0" skipped="0" time="0.500">
    <properties>
      <property name="verdict" value="pass"/>
      <property name="command" value="weighbridge roundtrip &#39;my model&#39; --tp 2"/>
      <property name="version" value="0.1.0 (abc)"/>
    </properties>
    <testcase classname="weighbridge.roundtrip" name="model.layers.0.w"/>
  </testsuite>
</testsuites>
)xml";
  EXPECT_EQ(Xml({PassingReport(1)}), expected);
}

TEST(JunitReport, WritesFailuresWithWhyAndSkipsWithTheirReason) {
  const std::string xml = Xml({FailingReport()});
  EXPECT_THAT(xml, HasSubstr("tests=\"7\" failures=\"3\" errors=\"0\" skipped=\"1\""));
  EXPECT_THAT(xml, HasSubstr("<failure type=\"missing\" message=\"no Megatron tensor holds it\">"));
  EXPECT_THAT(xml, HasSubstr("max diff 4, mean diff 0.125"));
  EXPECT_THAT(xml, HasSubstr("<skipped message=\"--allow-skip &#39;skip*&#39;\"/>"));
  EXPECT_THAT(xml, HasSubstr("<system-out>qkv-concatenated (proof: exact"));
}

TEST(JunitReport, FailsACaseWhenTheFaultShowsInNoRow) {
  Report report = PassingReport(1);
  report.causes.push_back({.id = "file-truncated", .message = "the file ends early"});
  Conclude(report);
  const std::string xml = Xml({report});
  EXPECT_THAT(xml, HasSubstr("tests=\"2\" failures=\"1\""));
  EXPECT_THAT(xml, HasSubstr("name=\"cause file-truncated\""));
}

TEST(JunitReport, IsAnErrorWhenUndecided) {
  const std::string xml = Xml({UndecidedReport()});
  EXPECT_THAT(xml, HasSubstr("tests=\"1\" failures=\"0\" errors=\"1\""));
  EXPECT_THAT(xml, HasSubstr("<error type=\"nothing-compared\" message=\"nothing was compared\">"));
}

TEST(JunitReport, WritesWhatXmlForbidsAsEscapes) {
  Report report = PassingReport(1);
  report.results[0].hf[0].name = "a\x01<&>\"'\x1b\xff\xef\xbf\xbf";
  const std::string xml = Xml({report});
  EXPECT_THAT(xml,
              HasSubstr("name=\"a\\x01&lt;&amp;&gt;&quot;&#39;\\x1b\xef\xbf\xbd\xef\xbf\xbd\""));
  EXPECT_THAT(xml, Not(HasSubstr("\x01")));
}

TEST(JunitReport, HoldsSeveralReports) {
  const std::string xml = Xml({PassingReport(1), UndecidedReport()});
  EXPECT_THAT(xml, HasSubstr("value=\"pass\""));
  EXPECT_THAT(xml, HasSubstr("value=\"undecided\""));
}

}  // namespace
}  // namespace weighbridge
