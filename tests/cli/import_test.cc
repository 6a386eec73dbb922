// import, verify and export with the run_config.yaml between them, by running the program.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "cli/program.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::Program;
using testing::ProgramRun;

std::string ModelFolder(const std::string& name) {
  return fs::path(WEIGHBRIDGE_SOURCE_DIR) / "tests/testdata/hf" / name;
}

// A fresh import of `name`; its run_config.yaml.
fs::path Imported(const std::string& name, const std::string& from, const fs::path& target) {
  const ProgramRun run = Program({"import", from.empty() ? ModelFolder(name) : from, target});
  EXPECT_EQ(run.status, 0) << run.err;
  return target / "iter_0000000/run_config.yaml";
}

void Replace(const fs::path& file, const std::string& from, const std::string& to) {
  std::string text = testing::ReadFile(file);
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  testing::WriteFile(file, text.replace(at, from.size(), to));
}

TEST(Import, ItsRunConfigIsWhatVerifyReports) {
  const fs::path target = fs::path(testing::FreshFolder()) / "import_verify";
  Imported("qwen3_moe", "", target);
  const ProgramRun run = Program({"verify", ModelFolder("qwen3_moe"), target, "--json", "-"});
  EXPECT_EQ(run.status, 0) << run.out << run.err;
  EXPECT_THAT(run.out, HasSubstr("megatron.bridge.models.gpt_provider.GPTModelProvider"));
  EXPECT_THAT(run.out, HasSubstr("TP 1 x PP 1 x EP 1 x ETP 1"));
}

TEST(Verify, ARunConfigOfAnotherSizeFails) {
  const fs::path target = fs::path(testing::FreshFolder()) / "other_size";
  Replace(Imported("llama_tied", "", target), "num_layers: 2", "num_layers: 4");
  const ProgramRun run = Program({"verify", ModelFolder("llama_tied"), target, "--json", "-"});
  EXPECT_EQ(run.status, 1);
  EXPECT_THAT(run.out, HasSubstr("size-mismatch"));
  EXPECT_THAT(run.out, HasSubstr("num_layers is 4"));
}

TEST(Verify, ABrokenRunConfigFailsAndTheWeightsAreJudgedAllTheSame) {
  const fs::path target = fs::path(testing::FreshFolder()) / "broken";
  testing::WriteFile(Imported("llama_tied", "", target), "model: [1, 2\n");
  const ProgramRun run = Program({"verify", ModelFolder("llama_tied"), target, "--json", "-"});
  EXPECT_EQ(run.status, 1);
  EXPECT_THAT(run.out, HasSubstr("header-corrupt"));
  EXPECT_THAT(run.out, HasSubstr("\"passed\":14,\"failed\":0"));
}

TEST(Export, FindsItsSourceInTheRunConfig) {
  const fs::path folder = fs::path(testing::FreshFolder()) / "find_source";
  const fs::path target = folder / "mcore", hf = folder / "hf";
  Imported("llama_tied", "", target);
  const ProgramRun run = Program({"export", target, hf});
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_THAT(run.out + run.err, HasSubstr("which run_config.yaml names as the source"));
  EXPECT_EQ(testing::ReadFile(hf / "model.safetensors"),
            testing::ReadFile(ModelFolder("llama_tied") + "/model.safetensors"));
  EXPECT_TRUE(fs::exists(hf / "tokenizer.json"));
}

TEST(Export, ASourceThatIsGoneIsNotNeeded) {
  const fs::path folder = fs::path(testing::FreshFolder()) / "source_gone";
  fs::create_directories(folder);
  fs::copy(ModelFolder("llama_tied"), folder / "original");
  Imported("", folder / "original", folder / "mcore");
  fs::remove_all(folder / "original");
  const ProgramRun run = Program({"export", folder / "mcore", folder / "hf"});
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_THAT(run.err, HasSubstr("derived from run_config.yaml as family llama"));
  EXPECT_EQ(testing::ReadFile(folder / "hf/model.safetensors"),
            testing::ReadFile(ModelFolder("llama_tied") + "/model.safetensors"));
  fs::remove(folder / "mcore/iter_0000000/run_config.yaml");
  const ProgramRun without = Program({"export", folder / "mcore", folder / "other"});
  EXPECT_EQ(without.status, 2);
  EXPECT_THAT(without.err, HasSubstr("say which model it is"));
}

}  // namespace
}  // namespace weighbridge
