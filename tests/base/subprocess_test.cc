// Other programs: what goes in and comes out, and how they end.
#include "base/subprocess.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "base/file.h"

namespace weighbridge {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

Result<SubprocessResult> Shell(const std::string& script, std::string input = "",
                               double timeout_s = 20) {
  Subprocess what;
  what.argv = {"sh", "-c", script};
  what.input = std::move(input);
  what.timeout_s = timeout_s;
  return RunSubprocess(what);
}

TEST(Subprocess, GivesBothOutputsAndTheStatus) {
  const auto result = Shell("echo out; echo err >&2; exit 3");
  ASSERT_TRUE(result);
  EXPECT_EQ(result->out, "out\n");
  EXPECT_EQ(result->err, "err\n");
  EXPECT_EQ(result->status, 3);
}

TEST(Subprocess, TakesMoreInputThanAPipeHolds) {
  const std::string input(3 << 20, 'x');
  const auto result = Shell("cat", input);
  ASSERT_TRUE(result);
  EXPECT_EQ(result->out, input);
}

TEST(Subprocess, SurvivesAProgramThatReadsNothing) {
  const auto result = Shell("exit 0", std::string(3 << 20, 'x'));
  ASSERT_TRUE(result);
  EXPECT_EQ(result->status, 0);
}

TEST(Subprocess, PassesArgumentsWithoutAShell) {
  Subprocess what;
  what.argv = {"printf", "%s", "$HOME; `id` \"'"};
  const auto result = RunSubprocess(what);
  ASSERT_TRUE(result);
  EXPECT_EQ(result->out, "$HOME; `id` \"'");
}

TEST(Subprocess, SetsItsOwnEnvironmentBesideTheCallers) {
  Subprocess what;
  what.argv = {"sh", "-c", "echo $WB_TEST $PATH"};
  what.environment = {{"WB_TEST", "set"}};
  const auto result = RunSubprocess(what);
  ASSERT_TRUE(result);
  EXPECT_THAT(result->out, StartsWith("set /"));
}

TEST(Subprocess, KillsWhatOutlivesItsTime) {
  const auto start = std::chrono::steady_clock::now();
  // The shell's child keeps the outputs open: the whole group has to go.
  const auto result = Shell("sleep 60 & sleep 60", "", 0.2);
  ASSERT_TRUE(result);
  EXPECT_TRUE(result->timed_out);
  EXPECT_EQ(result->status, 128 + 9);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST(Subprocess, RefusesMoreOutputThanIsAllowedAndEndsTheProgram) {
  Subprocess what;
  what.argv = {"yes"};
  what.most_output = 1000;
  const auto result = RunSubprocess(what);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().id, "program-output");
}

TEST(Subprocess, SaysThatAProgramIsNotThere) {
  Subprocess what;
  what.argv = {"/nowhere/python3"};
  const auto result = RunSubprocess(what);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().kind, ErrorKind::kNotFound);
  EXPECT_THAT(result.error().at, HasSubstr("/nowhere/python3"));
}

TEST(Companions, RunBesideThisProgramAndAreWaitedFor) {
  const std::string file = testing::TempDir() + "/companion-was-here";
  std::remove(file.c_str());
  {
    Companions companions;
    Subprocess what;
    what.argv = {"sh", "-c", "sleep 0.1; echo $WHO > " + file};
    what.environment = {{"WHO", "rank 1"}};
    ASSERT_TRUE(companions.Start(what));
  }
  const auto text = ReadTextFile(file, 100);
  ASSERT_TRUE(text);
  EXPECT_EQ(*text, "rank 1\n");
}

TEST(Companions, AProgramThatIsNotThereIsAnError) {
  Companions companions;
  Subprocess what;
  what.argv = {"there-is-no-such-program"};
  const Status started = companions.Start(what);
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().id, "program-missing");
}

}  // namespace
}  // namespace weighbridge
