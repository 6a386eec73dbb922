// Reports never cost the checkpoint that they are about, nor `toy` anything but a checkpoint.
#include <gtest/gtest.h>

#include "program.h"

namespace weighbridge::testing {
namespace {

const std::string kModel = std::string(WEIGHBRIDGE_SOURCE_DIR) + "/tests/testdata/hf/llama_tied";

// A copy of a small model under `m`, in a folder of its own, which the shell enters.
std::string InCopy(const std::string& script) {
  return "cd " + FreshFolder() + " && cp -r " + kModel + " m && chmod -R u+w m && " + script;
}

TEST(Outputs, NeverOverwriteTheCheckpointUnderJudgement) {
  for (const char* target :
       {"m/model.safetensors", "m/config.json", "./m/../m/model.safetensors", "link", "hard"}) {
    for (const char* option : {"--json", "--html", "--junit", "--card"}) {
      const ProgramRun run = Shell(
          InCopy("ln -s m/model.safetensors link && ln m/config.json hard && md5sum m/* > s "
                 "&& $W roundtrip m -q " +
                 std::string(option) + " " + target + "; s=$?; md5sum -c --quiet s && exit $s"));
      EXPECT_EQ(run.status, 2) << option << " " << target << run.err;
      EXPECT_NE(run.err.find("would overwrite"), std::string::npos) << run.err;
    }
  }
}

TEST(Outputs, NeverOverwriteAnInputOfAnyCommand) {
  for (const char* command : {
           "diff m/model.safetensors m/model.safetensors --json m/model.safetensors",
           "roundtrip m --config other.json --json other.json",
           "roundtrip m --family f.toml --card f.toml",
           "roundtrip bad.safetensors --json bad.safetensors",
           "report r.json --json r.json",
           "toy out --like m --num-hidden-layers 1 --json m/config.json",
       }) {
    const ProgramRun run = Shell(
        InCopy("cp m/config.json other.json; echo hello > bad.safetensors; echo '# x' > "
               "f.toml; $W roundtrip m -q --json r.json 2> /dev/null; md5sum m/* *.* > s; $W " +
               std::string(command) + "; s=$?; md5sum -c --quiet s && exit $s"));
    EXPECT_EQ(run.status, 2) << command << run.err;
    EXPECT_NE(run.err.find("would overwrite"), std::string::npos) << command << run.err;
  }
}

TEST(Outputs, TwoOfThemAreNeverOneFile) {
  const ProgramRun run = Shell(InCopy("$W roundtrip m --json a --html ./a; s=$?; ls; exit $s"));
  EXPECT_EQ(run.status, 2);
  EXPECT_EQ(run.out, "m\n");
}

TEST(Outputs, MayLieInTheModelsFolderUnderTheirOwnName) {
  const ProgramRun run = Shell(
      InCopy("$W roundtrip m -q --json m/report.json && $W roundtrip m -q --json m/report.json"));
  EXPECT_EQ(run.status, 0) << run.err;
}

TEST(Toy, OverwritesACheckpointAndNothingElse) {
  const ProgramRun home =
      Shell(InCopy("mkdir h && echo dear > h/letter && ln -s h l && $W toy h --family llama "
                   "--overwrite; a=$?; $W toy l --family llama --overwrite; cat h/letter; exit "
                   "$a$?"));
  EXPECT_EQ(home.out, "dear\n");
  EXPECT_NE(home.err.find("is no checkpoint, it holds: letter"), std::string::npos) << home.err;
  const ProgramRun mixed = Shell(
      InCopy("echo dear > m/letter; $W toy m --family llama --overwrite; s=$?; cat m/letter; exit "
             "$s"));
  EXPECT_EQ(mixed.status, 2);
  EXPECT_EQ(mixed.out, "dear\n");
  EXPECT_NE(mixed.err.find("letter"), std::string::npos) << mixed.err;
  const ProgramRun model = Shell(InCopy("$W toy m --family llama --overwrite"));
  EXPECT_EQ(model.status, 0) << model.err;
}

}  // namespace
}  // namespace weighbridge::testing
