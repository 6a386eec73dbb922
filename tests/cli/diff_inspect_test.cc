// The built program, on files that the tests write.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace weighbridge {
namespace {

using ::testing::HasSubstr;

struct Outcome {
  int status = -1;
  std::string text;  // stdout, then stderr
};

Outcome RunProgram(const std::string& arguments) {
  const std::string command = std::string(WEIGHBRIDGE_PROGRAM) + " " + arguments + " 2>&1";
  Outcome outcome;
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return outcome;
  std::array<char, 4096> buffer;
  while (size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
    outcome.text.append(buffer.data(), n);
  }
  outcome.status = WEXITSTATUS(::pclose(pipe));
  return outcome;
}

class DiffAndInspect : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    folder_ = std::filesystem::path(::testing::TempDir()) / ("weighbridge_" + name);
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // A file with one F32 tensor "w" of shape [4, 64].
  std::string Write(const std::string& name, float element_70) {
    std::array<float, 256> values;
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) * 0.5f;
    values[70] = element_70;
    std::string header = R"({"w":{"dtype":"F32","shape":[4,64],"data_offsets":[0,1024]}})";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    const uint64_t size = header.size();
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &size, 8);
    bytes += header;
    bytes.append(reinterpret_cast<const char*>(values.data()), sizeof(values));
    const auto path = folder_ / name;
    std::ofstream(path, std::ios::binary) << bytes;
    return path.string();
  }

  std::filesystem::path folder_;
};

TEST_F(DiffAndInspect, EqualFilesPass) {
  const Outcome o =
      RunProgram("diff " + Write("a.safetensors", 1) + " " + Write("b.safetensors", 1));
  EXPECT_EQ(o.status, 0) << o.text;
}

TEST_F(DiffAndInspect, OneChangedByteFailsWithItsPlaceAndBothValues) {
  const Outcome o =
      RunProgram("diff " + Write("a.safetensors", 0.5f) + " " + Write("b.safetensors", 0.25f));
  EXPECT_EQ(o.status, 1) << o.text;
  EXPECT_THAT(o.text, HasSubstr("bit-flip"));
  EXPECT_THAT(o.text, HasSubstr("[1, 6]"));
  EXPECT_THAT(o.text, HasSubstr("0x3e800000"));
}

TEST_F(DiffAndInspect, ToleranceAndSkippingAreHonoured) {
  const std::string pair = Write("a.safetensors", 0.5f) + " " + Write("b.safetensors", 0.25f);
  EXPECT_EQ(RunProgram("diff --atol 0.25 " + pair).status, 0);
  EXPECT_EQ(RunProgram("diff " + pair + " --allow-skip 'w*'").status, 2);
}

TEST_F(DiffAndInspect, MissingPathIsUndecidedAndBrokenFileIsBad) {
  const std::string good = Write("a.safetensors", 1);
  EXPECT_EQ(RunProgram("diff " + good + " " + (folder_ / "none").string()).status, 2);
  EXPECT_EQ(RunProgram("inspect " + (folder_ / "none").string()).status, 2);
  const auto cut = folder_ / "cut.safetensors";
  std::filesystem::copy_file(good, cut);
  std::filesystem::resize_file(cut, 600);
  EXPECT_EQ(RunProgram("diff " + good + " " + cut.string()).status, 1);
  const Outcome o = RunProgram("inspect " + cut.string());
  EXPECT_EQ(o.status, 1);
  EXPECT_THAT(o.text, HasSubstr("error: "));
}

TEST_F(DiffAndInspect, InspectPrintsTensorsStatisticsValuesAndConfig) {
  const std::string file = Write("model.safetensors", 1000);
  std::ofstream(folder_ / "config.json") << R"({"model_type":"llama","hidden_size":64})";
  const Outcome text = RunProgram("inspect " + folder_.string() + " --stats");
  EXPECT_EQ(text.status, 0) << text.text;
  EXPECT_THAT(text.text, HasSubstr("[4, 64]"));
  EXPECT_THAT(text.text, HasSubstr("1 tensors, 256 elements, 1.02 kB"));
  EXPECT_THAT(text.text, HasSubstr("llama"));
  const Outcome json = RunProgram("inspect " + file + " --stats --values 2 --json");
  const auto document = nlohmann::json::parse(json.text, nullptr, false);
  ASSERT_FALSE(document.is_discarded()) << json.text;
  EXPECT_EQ(document["totals"]["elements"], 256);
  EXPECT_EQ(document["tensors"][0]["stats"]["absmax"], 1000.0);
  EXPECT_EQ(document["tensors"][0]["values"][1], "0.5 (0x3f000000)");
  EXPECT_EQ(document["config"]["hidden_size"], 64);
}

TEST_F(DiffAndInspect, InspectOfAPatternThatMatchesNothingIsAnError) {
  const Outcome o = RunProgram("inspect --tensor nothing " + Write("a.safetensors", 1));
  EXPECT_EQ(o.status, 2);
  EXPECT_THAT(o.text, HasSubstr("no tensor matches 'nothing'"));
}

TEST_F(DiffAndInspect, RefusesAToleranceThatEveryDifferenceWouldPass) {
  const std::string pair = Write("a.safetensors", 0.5f) + " " + Write("b.safetensors", 0.25f);
  for (const char* value : {"nan", "inf", "-inf", "-1", "infinity", "NAN", "x"}) {
    EXPECT_EQ(RunProgram("diff " + pair + " --atol=" + value).status, 2) << value;
    EXPECT_EQ(RunProgram("diff " + pair + " --rtol=" + value).status, 2) << value;
  }
  EXPECT_EQ(RunProgram("diff " + pair + " --rtol=1e-9").status, 1);
}

TEST_F(DiffAndInspect, InspectShowsTheConfigInBothVocabularies) {
  const std::string model = std::string(WEIGHBRIDGE_SOURCE_DIR) + "/tests/testdata/hf/qwen2";
  const Outcome text = RunProgram("inspect " + model);
  EXPECT_THAT(text.text, HasSubstr("num_key_value_heads"));
  EXPECT_THAT(text.text, HasSubstr("num_query_groups"));
  const auto document = nlohmann::json::parse(RunProgram("inspect " + model + " --json").text);
  EXPECT_EQ(document["megatron_config"]["num_query_groups"],
            document["config"]["num_key_value_heads"]);
}

}  // namespace
}  // namespace weighbridge
