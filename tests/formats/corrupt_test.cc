// Every file and folder of tools/make_corrupt.py is refused with the error that the script states.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "base/json.h"
#include "formats/checkpoint.h"
#include "support/temp_dir.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

std::optional<Error> ErrorOf(const std::string& read, const fs::path& path) {
  if (read == "json") {
    auto json = ReadJsonFile(path);
    return json ? std::nullopt : std::optional(json.error());
  }
  auto checkpoint = OpenCheckpoint(path);
  return checkpoint ? std::nullopt : std::optional(checkpoint.error());
}

class CorruptCorpus : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string command = fmt::format("python3 '{}/tools/make_corrupt.py' '{}'",
                                            WEIGHBRIDGE_SOURCE_DIR, corpus_.path().string());
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
  }
  testing::TempDir corpus_;
};

TEST_F(CorruptCorpus, EachCaseIsRefusedWithItsIdTextAndExitStatus) {
  const auto expected = ReadJsonFile(corpus_ / "expected.json");
  ASSERT_TRUE(expected) << expected.error().what;
  ASSERT_GE(expected->size(), 60u);
  for (const auto& [name, want] : expected->items()) {
    SCOPED_TRACE(name);
    const auto error = ErrorOf(want["read"], corpus_ / want["path"].get<std::string>());
    if (!error) {
      ADD_FAILURE() << "was accepted";
      continue;
    }
    EXPECT_EQ(error->id, want["id"]) << error->what;
    EXPECT_NE(error->what.find(want["text"].get<std::string>()), std::string::npos) << error->what;
    EXPECT_EQ(error->kind == ErrorKind::kCorrupt ? 1 : 2, want["exit"]);
    EXPECT_NE(error->at.find(corpus_.path().string()), std::string::npos) << error->at;
  }
}

TEST_F(CorruptCorpus, TheGoodFileBesideThemIsRead) {
  const auto good = OpenCheckpoint(corpus_ / "good.safetensors");
  ASSERT_TRUE(good) << good.error().what;
  EXPECT_EQ((*good)->tensors().size(), 3u);
}

}  // namespace
}  // namespace weighbridge
