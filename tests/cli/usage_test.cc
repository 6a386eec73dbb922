// The command line's promises: exit statuses, streams, help, near names.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/program.h"

namespace weighbridge {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;
using testing::Program;
using testing::ProgramRun;
using testing::Shell;
using ::testing::StartsWith;

void ExpectUsageError(const ProgramRun& run, const std::string& what, const std::string& hint) {
  EXPECT_EQ(run.status, 2);
  EXPECT_EQ(run.out, "");
  EXPECT_THAT(run.err, StartsWith("error: " + what));
  EXPECT_THAT(run.err, HasSubstr("\n  hint: "));
  EXPECT_THAT(run.err, HasSubstr(hint));
}

TEST(CommandLine, WithoutArgumentsPrintsHelpAndEndsWithTwo) {
  const ProgramRun run = Program({});
  EXPECT_EQ(run.status, 2);
  EXPECT_EQ(run.out, "");
  EXPECT_THAT(run.err, HasSubstr("Usage: weighbridge COMMAND [options]"));
}

TEST(CommandLine, ShortHelpIsOneScreenWithExamplesAndExitStatuses) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"-h"}, {"env", "-h"}, {"report", "-h"}, {"completion", "-h"}}) {
    const ProgramRun run = Program(arguments);
    EXPECT_EQ(run.status, 0);
    EXPECT_EQ(run.err, "");
    EXPECT_LE(std::count(run.out.begin(), run.out.end(), '\n'), 48);
    EXPECT_THAT(run.out, HasSubstr("Usage: weighbridge"));
    EXPECT_THAT(run.out, HasSubstr("Exit status: 0 parity holds"));
  }
  EXPECT_THAT(Program({"report", "-h"}).out, HasSubstr("Examples:\n  weighbridge report"));
}

TEST(CommandLine, LongHelpNamesEveryOptionWithItsDefaultAndTheEnvironment) {
  const ProgramRun run = Program({"report", "--help"});
  EXPECT_EQ(run.status, 0);
  EXPECT_THAT(run.out, HasSubstr("--top N"));
  EXPECT_THAT(run.out, HasSubstr("[default: 10]"));
  EXPECT_THAT(run.out, HasSubstr("--color auto|always|never"));
  EXPECT_THAT(run.out, HasSubstr("HF_HUB_CACHE"));
  EXPECT_THAT(run.out, Not(HasSubstr("--trust-remote-code")));
  EXPECT_THAT(Program({"report", "-h"}).out, Not(HasSubstr("HF_HUB_CACHE")));
}

TEST(CommandLine, SuggestsNearNames) {
  ExpectUsageError(Program({"evn"}), "unknown command 'evn'", "did you mean 'env'?");
  ExpectUsageError(Program({"--versoin"}), "unknown option '--versoin'",
                   "did you mean '--version'?");
  ExpectUsageError(Program({"report", "x.json", "--jsn", "y"}), "unknown option '--jsn'",
                   "did you mean '--json'?");
  ExpectUsageError(Program({"report", "x.json", "--color", "alway"}),
                   "--color cannot be 'alway', expected one of: auto, always, never",
                   "did you mean 'always'?");
  ExpectUsageError(Program({"completion", "fihs"}), "SHELL cannot be 'fihs'",
                   "did you mean 'fish'?");
}

TEST(CommandLine, EveryUsageErrorIsTwo) {
  ExpectUsageError(Program({"report"}), "FILE is required", "see `weighbridge report --help`");
  ExpectUsageError(Program({"report", "x", "--top", "many"}), "", "--help");
  ExpectUsageError(Program({"report", "x", "--top", "-3"}), "", "--help");
  ExpectUsageError(Program({"report", "x", "--top"}), "", "--help");
  ExpectUsageError(Program({"env", "surplus"}), "unexpected argument 'surplus'", "env --help");
  ExpectUsageError(Program({"env", "--color", "always"}), "unknown option '--color'",
                   "` has this option");
  ExpectUsageError(Program({"xyzzy"}), "unknown command 'xyzzy'", "see `weighbridge --help`");
  ExpectUsageError(Program({"--", "env"}), "", "--help");
}

TEST(CommandLine, AcceptsUnderscoresAndTheSpellingsOfPythonScripts) {
  EXPECT_EQ(Program({"env", "--trust_remote_code"}).status, 0);
  EXPECT_EQ(Program({"env", "--trust-remote-code"}).status, 0);
}

TEST(CommandLine, NeverSendsControlCharactersOfAnArgument) {
  EXPECT_THAT(Program({"e\x1b[2Jnv"}).err, HasSubstr("unknown command 'e\\x1b[2Jnv'"));
}

TEST(CommandLine, VersionNamesTheProgramAndItsCommit) {
  const ProgramRun run = Program({"--version"});
  EXPECT_EQ(run.status, 0);
  EXPECT_THAT(run.out, MatchesRegex("weighbridge [0-9]+\\.[0-9]+\\.[0-9]+( \\([^)]+\\))?\n"));
}

TEST(CommandLine, SaysThatStdoutIsFull) {
  for (const char* command : {"env", "--help", "--version", "completion bash"}) {
    const ProgramRun run = Shell(std::string("$W ") + command + " > /dev/full");
    EXPECT_EQ(run.status, 2) << command;
    EXPECT_EQ(run.err.substr(0, run.err.find('\n')),
              "error: cannot write to standard output: No space left on device");
    EXPECT_EQ(run.err.find("error:", 1), std::string::npos) << run.err;
  }
}

TEST(CommandLine, IsQuietWhenTheReaderLeaves) {
  const ProgramRun run = Shell("set -o pipefail; $W completion bash | head -c 1 > /dev/null");
  EXPECT_EQ(run.status, 0);
  EXPECT_EQ(run.err, "");
  const ProgramRun closed = Shell("$W env > >(true); exit $?");
  EXPECT_EQ(closed.status, 0);
  EXPECT_EQ(closed.err, "");
}

TEST(CommandLine, EndsWith130WhenInterrupted) {
  // A report that is a pipe nobody writes to keeps the program waiting... it is refused at once, so
  // wait in the write to a pipe that nobody reads.
  const ProgramRun run = Shell(
      "mkfifo pipe$$; exec 9<>pipe$$; rm pipe$$;"
      "( while :; do $W completion bash || exit; done ) >&9 & "
      "sleep 0.5; child=$(ps -o pid= --ppid $! | tail -n 1); kill -INT $child; wait $!; exit $?");
  EXPECT_EQ(run.status, 130) << run.err;
}

TEST(Env, NamesTheBuildTheMachineAndWhatIsAbsent) {
  const ProgramRun run = Shell("HF_HUB_CACHE=/some/cache WEIGHBRIDGE_FAMILIES=/my/families $W env");
  EXPECT_EQ(run.status, 0);
  EXPECT_THAT(run.out, StartsWith("weighbridge "));
  for (const char* part :
       {"compiler:", "CPU features:", "cores:", "HF cache:       /some/cache",
        "families:       /my/families", "simdjson", "yaml-cpp", "not installed:"}) {
    EXPECT_THAT(run.out, HasSubstr(part));
  }
}

TEST(Env, PrintsTheSameAsJson) {
  const ProgramRun run = Shell("HF_HOME=/h env -u HF_HUB_CACHE $W env --json");
  const nlohmann::json json = nlohmann::json::parse(run.out);
  EXPECT_EQ(json["paths"]["hf_hub_cache"], "/h/hub");
  EXPECT_TRUE(json["paths"]["families_override"].is_null() ||
              json["paths"]["families_override"].is_string());
  EXPECT_GT(json["machine"]["cores"], 0);
  EXPECT_GT(json["machine"]["memory_bytes"], 0);
  EXPECT_TRUE(json["libraries"].contains("fmt"));
  EXPECT_FALSE(json["absent"].empty());
}

TEST(CommandLine, TakesPathsThatCannotBeLookedAtAsErrorsOfTheUser) {
  const std::string model = std::string(WEIGHBRIDGE_SOURCE_DIR) + "/tests/testdata/hf/llama_tied";
  const std::string scene = "cd " + testing::FreshFolder() + " && ln -s loop loop && cp -r " +
                            model +
                            " m && chmod -R u+w m && rm m/config.json && ln -s config.json "
                            "m/config.json; long=$(printf 'x%.0s' $(seq 300)); ";
  for (const char* command :
       {"roundtrip m", "roundtrip loop", "roundtrip m --config loop", "roundtrip m --config $long",
        "roundtrip $long", "roundtrip m --family loop", "toy o --like m --num-hidden-layers 1",
        "toy o --like loop --num-hidden-layers 1", "toy o --config loop",
        "toy $long --family llama", "toy loop/o --family llama", "diff loop $long", "inspect loop",
        "report loop $long", "roundtrip m --json loop/x", "roundtrip m --json $long",
        "families lint loop"}) {
    const ProgramRun run = Shell(scene + "$W " + command);
    EXPECT_EQ(run.status, 2) << command << run.err;
    EXPECT_EQ(run.err.find("internal error"), std::string::npos) << command << run.err;
    EXPECT_NE(run.err.find("error: "), std::string::npos) << command;
  }
}

TEST(CommandLine, WorksWithFewerThreadsThanItWasAskedFor) {
  const std::string model = std::string(WEIGHBRIDGE_SOURCE_DIR) + "/tests/testdata/hf/llama_tied";
  const ProgramRun run = Shell("ulimit -v 400000; $W roundtrip " + model + " --threads 1024 -q");
  EXPECT_EQ(run.status, 0) << run.err;
}

TEST(Toy, LeavesNothingWhenItIsInterrupted) {
  for (const char* signal : {"INT", "TERM"}) {
    const ProgramRun run = Shell(
        // With job control, else the shell has SIGINT ignored by what runs in the background.
        "set -m; cd " + testing::FreshFolder() +
        " && { $W toy out --family llama --set hidden_size=4096 --set intermediate_size=16384 "
        "--set vocab_size=32000 --num-hidden-layers 12 --threads 2 & } ; p=$!; "
        "for i in $(seq 200); do ls | grep -q partial && break; sleep 0.02; done; ls | wc -l; "
        "sleep 0.2; kill -" +
        std::string(signal) + " $p; wait $p; s=$?; ls -A; exit $s");
    EXPECT_EQ(run.status, signal == std::string("INT") ? 130 : 143) << run.err;
    EXPECT_EQ(run.out, "1\n") << "the partial folder is there, then nothing is";
    EXPECT_NE(run.err.find("interrupted"), std::string::npos) << run.err;
  }
}

TEST(Toy, RefusesSeedsThatAreNoNumbers) {
  for (const char* seed : {"-1", "99999999999999999999", "1.5", "x", "0x10"}) {
    const ProgramRun run =
        Shell("cd " + testing::FreshFolder() + " && $W toy out --family llama --seed=" + seed +
              "; s=$?; ls; exit $s");
    EXPECT_EQ(run.status, 2) << seed;
    EXPECT_EQ(run.out, "") << seed;
  }
  EXPECT_EQ(Shell("cd " + testing::FreshFolder() +
                  " && $W toy out --family llama -q "
                  "--seed 18446744073709551615")
                .status,
            0);
}

TEST(Roundtrip, TakesTheFamilyThatItIsTold) {
  const std::string source = WEIGHBRIDGE_SOURCE_DIR;
  const std::string model = source + "/tests/testdata/hf/llama_tied";
  const std::string scene = "cd " + testing::FreshFolder() + " && sed 's/LlamaForCausalLM/Mine/' " +
                            source +
                            "/families/llama.toml > mine.toml && sed -i "
                            "'s/^family = .*/family = \"mine\"/' mine.toml; ";
  EXPECT_EQ(Shell(scene + "$W roundtrip " + model + " --family llama -q").status, 0);
  const ProgramRun file = Shell(scene + "$W roundtrip " + model + " --family mine.toml");
  EXPECT_EQ(file.status, 0) << file.err;
  EXPECT_NE(file.out.find("family mine is used"), std::string::npos) << file.out;
  const ProgramRun other = Shell(scene + "$W roundtrip " + model + " --family qwen3");
  EXPECT_EQ(other.status, 1) << other.err;
  const ProgramRun unknown = Shell(scene + "$W roundtrip " + model + " --family lama");
  EXPECT_EQ(unknown.status, 2);
  EXPECT_NE(unknown.err.find("did you mean 'llama'?"), std::string::npos) << unknown.err;
}

TEST(CommandLine, NamesWhatIsMissingAndWhatIsTooSmallInFewWords) {
  EXPECT_THAT(Program({"roundtrip"}).err, HasSubstr("error: MODEL is required"));
  const ProgramRun run = Program({"roundtrip", "m", "--top=-1"});
  EXPECT_EQ(run.status, 2);
  EXPECT_THAT(run.err, HasSubstr("-1 is too small"));
  EXPECT_LT(run.err.size(), 200u);
}

TEST(CommandLine, SaysEachDefaultOnce) {
  for (const char* command : {"roundtrip", "diff", "inspect", "toy"}) {
    const ProgramRun run = Program({command, "--help"});
    EXPECT_THAT(run.out, Not(HasSubstr("all processors [default"))) << command;
  }
}

TEST(Roundtrip, SaysWhenAFaultWasFoundBeforeAnythingWasCompared) {
  const std::string model = std::string(WEIGHBRIDGE_SOURCE_DIR) + "/tests/testdata/hf/llama_tied";
  const ProgramRun run =
      Shell("cd " + testing::FreshFolder() +
            " && sed 's/\"num_attention_heads\":"
            " *[0-9]*/\"num_attention_heads\": 0/' " +
            model + "/config.json > c.json && $W roundtrip " + model + " --config c.json");
  EXPECT_EQ(run.status, 1) << run.err;
  EXPECT_THAT(run.out, HasSubstr("cause: head-geometry"));
  EXPECT_THAT(run.out, HasSubstr("No tensor was compared, a fault was found first"));
}

TEST(Roundtrip, NamesItsConfigAndFamilyFilesAmongTheInputs) {
  const std::string source = WEIGHBRIDGE_SOURCE_DIR;
  const ProgramRun run =
      Shell("$W roundtrip " + source + "/tests/testdata/hf/llama_tied --family " + source +
            "/families/llama.toml --json -");
  const auto report = nlohmann::json::parse(run.out);
  std::string paths;
  for (const auto& input : report["reproduce"]["inputs"]) paths += input["path"].get<std::string>();
  EXPECT_THAT(paths, HasSubstr("config.json"));
  EXPECT_THAT(paths, HasSubstr("llama.toml"));
}

}  // namespace
}  // namespace weighbridge
