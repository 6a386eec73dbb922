// `weighbridge report`, and through it everything that Emit promises about outputs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "report/json.h"
#include "report/sample.h"

namespace weighbridge {
namespace {

using ::testing::EndsWith;
using testing::FreshFolder;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Program;
using testing::ProgramRun;
using testing::ReadFile;
using testing::Shell;
using ::testing::StartsWith;

std::string Json(const Report& report) {
  return RenderToString([&](const Sink& sink) { WriteJson(report, sink); });
}

class ReportCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = FreshFolder();
    pass_ = Save("pass.json", testing::PassingReport());
    fail_ = Save("fail.json", testing::FailingReport());
    undecided_ = Save("undecided.json", testing::UndecidedReport());
  }
  std::string Save(const std::string& name, const Report& report) const {
    testing::WriteFile(folder_ + "/" + name, Json(report));
    return folder_ + "/" + name;
  }
  std::string In(const std::string& name) const { return folder_ + "/" + name; }

  std::string folder_, pass_, fail_, undecided_;
};

TEST_F(ReportCommand, EndsWithTheStatusOfTheReport) {
  EXPECT_EQ(Program({"report", pass_}).status, 0);
  EXPECT_EQ(Program({"report", fail_}).status, 1);
  EXPECT_EQ(Program({"report", undecided_}).status, 2);
}

TEST_F(ReportCommand, EndsWithTheStatusOfTheWorstReport) {
  EXPECT_EQ(Program({"report", pass_, pass_}).status, 0);
  EXPECT_EQ(Program({"report", pass_, fail_, pass_}).status, 1);
  EXPECT_EQ(Program({"report", undecided_, fail_}).status, 2);
  EXPECT_EQ(Program({"report", pass_, In("absent.json")}).status, 2);
}

TEST_F(ReportCommand, RendersForPeopleByDefault) {
  const ProgramRun run = Program({"report", fail_});
  EXPECT_THAT(run.out, HasSubstr("cause: qkv-concatenated (proof: exact, origin: checkpoint)"));
  EXPECT_THAT(run.out, EndsWith("FAILED weighbridge roundtrip 'my model' --tp 2\n"));
  EXPECT_EQ(run.err, "");
  EXPECT_THAT(Program({"report", pass_}).out, StartsWith("All 3 tensors match"));
  EXPECT_THAT(Program({"report", pass_, "-v"}).out, HasSubstr("model.layers.2.w"));
}

TEST_F(ReportCommand, PutsTheErrorOfAnUndecidedReportOnStderr) {
  const ProgramRun run = Program({"report", undecided_});
  EXPECT_THAT(run.err, StartsWith("error: nothing was compared\n"));
  EXPECT_THAT(run.out, EndsWith("UNDECIDED weighbridge roundtrip m\n"));
}

TEST_F(ReportCommand, QuietPrintsNothing) {
  const ProgramRun run = Program({"report", fail_, "-q", "--html", In("q.html")});
  EXPECT_EQ(run.status, 1);
  EXPECT_EQ(run.out, "");
  EXPECT_EQ(run.err, "");
  EXPECT_TRUE(std::filesystem::exists(In("q.html")));
}

TEST_F(ReportCommand, WritesEveryOutputInOneCall) {
  const ProgramRun run = Program({"report", fail_, "--json", In("o.json"), "--html", In("o.html"),
                                  "--junit", In("o.xml"), "--card", In("o.yaml")});
  EXPECT_EQ(run.status, 1);
  EXPECT_EQ(ReadFile(In("o.json")), ReadFile(fail_));
  EXPECT_THAT(ReadFile(In("o.html")), StartsWith("<!doctype html>"));
  EXPECT_THAT(ReadFile(In("o.xml")), StartsWith("<?xml"));
  EXPECT_THAT(ReadFile(In("o.yaml")), HasSubstr("items:"));
  EXPECT_THAT(run.err, HasSubstr("wrote " + In("o.html") + "\n"));
  EXPECT_THAT(run.out, EndsWith("FAILED weighbridge roundtrip 'my model' --tp 2\n"));
}

TEST_F(ReportCommand, ReadsAPageItWrote) {
  ASSERT_EQ(Program({"report", fail_, "--html", In("o.html")}).status, 1);
  const ProgramRun run = Program({"report", In("o.html"), "--json", "-"});
  EXPECT_EQ(run.status, 1);
  EXPECT_EQ(run.out, ReadFile(fail_));
}

TEST_F(ReportCommand, PutsOneDocumentOnStdoutInsteadOfTheText) {
  const ProgramRun json = Program({"report", pass_, "--json", "-"});
  EXPECT_EQ(json.status, 0);
  EXPECT_EQ(json.out, ReadFile(pass_));
  EXPECT_THAT(Program({"report", pass_, "--junit", "-"}).out, StartsWith("<?xml"));
  EXPECT_THAT(Program({"report", pass_, "--html", "-", "-q"}).out, StartsWith("<!doctype html>"));
}

TEST_F(ReportCommand, RefusesTwoDocumentsOnStdout) {
  const ProgramRun run = Program({"report", pass_, "--json", "-", "--html", "-"});
  EXPECT_EQ(run.status, 2);
  EXPECT_EQ(run.out, "");
  EXPECT_THAT(run.err, StartsWith("error: --json - and --html - both write to standard output\n"));
}

TEST_F(ReportCommand, RefusesAnOutputThatCannotBeWrittenBeforeItStarts) {
  const ProgramRun run = Program({"report", pass_, "--json", In("no/such/o.json")});
  EXPECT_EQ(run.status, 2);
  EXPECT_EQ(run.out, "");
  EXPECT_THAT(run.err, HasSubstr("cannot write into the output's folder"));
  EXPECT_THAT(run.err, HasSubstr("at: " + In("no/such")));
}

TEST_F(ReportCommand, SaysThatAnOutputsDeviceIsFull) {
  const ProgramRun run = Program({"report", pass_, "--json", "/dev/full"});
  EXPECT_EQ(run.status, 2);
  EXPECT_THAT(run.err, HasSubstr("cannot write the output: No space left on device"));
  const ProgramRun out = Shell("$W report " + pass_ + " > /dev/full");
  EXPECT_EQ(out.status, 2);
  EXPECT_THAT(out.err, HasSubstr("cannot write to standard output"));
}

TEST_F(ReportCommand, KeepsItsVerdictWhenTheReaderLeaves) {
  Report large = testing::PassingReport(20000);
  const std::string path = Save("large.json", large);
  const ProgramRun run = Shell("$W report -v " + path + " | head -n 1; exit ${PIPESTATUS[0]}");
  EXPECT_EQ(run.status, 0);
  EXPECT_EQ(run.err, "");
}

TEST_F(ReportCommand, WritesSeveralReportsAsJsonLinesAndAsOneJunitFile) {
  const ProgramRun json = Program({"report", pass_, fail_, "--json", "-"});
  EXPECT_EQ(json.out, ReadFile(pass_) + ReadFile(fail_));
  const ProgramRun xml = Program({"report", pass_, fail_, "--junit", "-"});
  EXPECT_EQ(xml.status, 1);
  EXPECT_THAT(xml.out, HasSubstr("value=\"pass\""));
  EXPECT_THAT(xml.out, HasSubstr("value=\"fail\""));
  EXPECT_EQ(Program({"report", pass_, fail_, "--html", "-"}).status, 2);
}

TEST_F(ReportCommand, ColoursOnlyWhenAsked) {
  EXPECT_THAT(Program({"report", fail_}).out, Not(HasSubstr("\x1b")));
  EXPECT_THAT(Program({"report", fail_, "--color", "always"}).out, HasSubstr("\x1b["));
  EXPECT_THAT(Program({"report", fail_, "--color=never"}).out, Not(HasSubstr("\x1b")));
}

TEST_F(ReportCommand, HonoursTheColumnsOfTheTerminal) {
  Report report = testing::FailingReport();
  report.results[3].hf[0].name = std::string(60, 'a') + "." + std::string(60, 'b');
  report.results[3].first = std::nullopt;
  const std::string path = Save("wide.json", report);
  EXPECT_THAT(Shell("COLUMNS=70 $W report " + path).out, HasSubstr("aaa...bbb"));
  EXPECT_THAT(Shell("$W report " + path).out, HasSubstr(report.results[3].hf[0].name));
}

TEST_F(ReportCommand, SaysWhatIsWrongWithAFile) {
  testing::WriteFile(In("bad.json"), "{}");
  const ProgramRun run = Program({"report", In("bad.json")});
  EXPECT_EQ(run.status, 2);
  EXPECT_THAT(run.err, StartsWith("error: not a report: expected the schema "
                                  "'weighbridge.report/1', found ''\n  at: " +
                                  In("bad.json")));
  EXPECT_THAT(run.err, HasSubstr("hint: give a file that --json or --html wrote"));
}

}  // namespace
}  // namespace weighbridge
