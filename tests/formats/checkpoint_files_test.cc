#include "formats/checkpoint_files.h"

#include <gtest/gtest.h>

#include "support/temp_dir.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;
using testing::WriteBytes;

TEST(CheckpointFiles, KnowsWeightsConfigsAndTokenizersByName) {
  for (const char* name : {"model-00001-of-00002.safetensors", "model.safetensors.index.json",
                           "config.json", "tokenizer.json", "__0_0.distcp"}) {
    EXPECT_TRUE(IsCheckpointFileName(name)) << name;
  }
  for (const char* name : {"report.json", ".bashrc", "thesis.tex", "notes.txt"}) {
    EXPECT_FALSE(IsCheckpointFileName(name)) << name;
  }
}

TEST(CheckReplaceable, AllowsACheckpointAndRefusesAnythingMore) {
  TempDir dir;
  WriteBytes(dir / "m/config.json", "{}");
  EXPECT_FALSE(CheckReplaceable(dir / "m")) << "no weights";
  WriteBytes(dir / "m/model.safetensors", "");
  EXPECT_TRUE(CheckReplaceable(dir / "m"));
  WriteBytes(dir / "m/thesis.tex", "");
  const auto refused = CheckReplaceable(dir / "m");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kUsage);
  EXPECT_NE(refused.error().what.find("thesis.tex"), std::string::npos) << refused.error().what;
  fs::remove(dir / "m/thesis.tex");
  fs::create_directory(dir / "m/checkpoint-500");
  EXPECT_FALSE(CheckReplaceable(dir / "m"));
}

}  // namespace
}  // namespace weighbridge
