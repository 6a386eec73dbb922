// Completion scripts, tried in the shells themselves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/program.h"

namespace weighbridge {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::Program;
using testing::ProgramRun;
using testing::Shell;

bool Installed(const std::string& shell) { return Shell("command -v " + shell).status == 0; }

// What bash offers for the words of `line`, the last one being completed, one per line, sorted.
std::string Bash(const std::string& line) {
  const ProgramRun run = Shell("source <($W completion bash); cd " + testing::FreshFolder() +
                               "; touch 'a file' b.json; "
                               "read -ra COMP_WORDS <<< '" +
                               line + "'; [[ '" + line +
                               "' == *' ' ]] && COMP_WORDS+=('');"
                               "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _weighbridge; printf "
                               "'%s\\n' \"${COMPREPLY[@]}\" | sort");
  EXPECT_EQ(run.err, "");
  return run.out;
}

TEST(BashCompletion, IsRegisteredForTheProgram) {
  EXPECT_EQ(Shell("source <($W completion bash); complete -p weighbridge").out,
            "complete -F _weighbridge weighbridge\n");
}

TEST(BashCompletion, OffersCommandsOptionsChoicesAndFiles) {
  EXPECT_THAT(Bash("weighbridge "), HasSubstr("completion\n"));
  EXPECT_THAT(Bash("weighbridge "), HasSubstr("report\n"));
  EXPECT_EQ(Bash("weighbridge en"), "env\n");
  EXPECT_EQ(Bash("weighbridge report --ju"), "--junit\n");
  EXPECT_EQ(Bash("weighbridge report --color "), "always\nauto\nnever\n");
  EXPECT_EQ(Bash("weighbridge report x --color n"), "never\n");
  EXPECT_EQ(Bash("weighbridge report --color = al"), "always\n");
  EXPECT_EQ(Bash("weighbridge report --json b"), "b.json\n");
  EXPECT_EQ(Bash("weighbridge report a"), "a file\n");
  EXPECT_EQ(Bash("weighbridge completion "), "bash\nfish\nzsh\n");
  EXPECT_EQ(Bash("weighbridge report --top "), "\n");
}

TEST(BashCompletion, HidesWhatHelpHides) {
  EXPECT_THAT(Bash("weighbridge env --"), Not(HasSubstr("trust-remote-code")));
  EXPECT_THAT(Bash("weighbridge roundtrip --"), Not(HasSubstr("--hf-model-id")));
}

TEST(ZshCompletion, IsValidAndRegistersTheFunction) {
  if (!Installed("zsh")) GTEST_SKIP() << "zsh is not installed";
  const ProgramRun run = Shell(
      "$W completion zsh > script; "
      "zsh -fc 'autoload -U compinit; compinit -u -d ./dump; source ./script; "
      "print -r -- $_comps[weighbridge]'; s=$?; rm -f script dump; exit $s");
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(run.out, "_weighbridge\n");
  EXPECT_EQ(run.err, "");
}

TEST(ZshCompletion, OffersCommandsOptionsAndChoices) {
  if (!Installed("zsh")) GTEST_SKIP() << "zsh is not installed";
  // The completion functions are replaced by ones that print what they are given.
  const std::string given =
      "_describe() { print -rl -- ${(P)${@[-1]}}; }; compadd() { shift; print -rl -- \"$@\"; }; "
      "_files() { print files; }; _message() { print message; }; compdef() { :; }; ";
  const auto zsh = [&](const std::string& words) {
    return Shell("zsh -fc '" + given + "source <($W completion zsh); words=(" + words +
                 "); CURRENT=${#words}; _weighbridge'");
  };
  EXPECT_THAT(zsh("weighbridge \"\"").out, HasSubstr("env:what is installed"));
  EXPECT_THAT(zsh("weighbridge report --").out, HasSubstr("--junit:write JUnit XML"));
  EXPECT_EQ(zsh("weighbridge report --color \"\"").out, "auto\nalways\nnever\n");
  EXPECT_EQ(zsh("weighbridge report \"\"").out, "files\n");
  EXPECT_EQ(zsh("weighbridge report --top \"\"").out, "message\n");
  EXPECT_EQ(zsh("weighbridge completion \"\"").out, "bash\nzsh\nfish\n");
}

TEST(FishCompletion, OffersCommandsOptionsAndChoices) {
  if (!Installed("fish")) GTEST_SKIP() << "fish is not installed";
  const auto fish = [](const std::string& line) {
    return Shell("fish --no-config -c '$W completion fish | source; complete -C \"" + line + "\"'")
        .out;
  };
  EXPECT_THAT(fish("weighbridge e"), HasSubstr("env\twhat is installed"));
  EXPECT_THAT(fish("weighbridge report --ju"), HasSubstr("--junit\t"));
  EXPECT_EQ(fish("weighbridge report --color al"), "always\tauto, always or never\n");
  EXPECT_THAT(fish("weighbridge completion "), HasSubstr("bash\n"));
  EXPECT_THAT(fish("weighbridge env "), Not(HasSubstr("report")));
}

}  // namespace
}  // namespace weighbridge
