#include "report/output_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

class OutputFile : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) /
              ("output_file_" + std::to_string(::getpid()) +
               ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  size_t FilesInFolder() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), {}));
  }

  fs::path folder_;
};

void Hello(const Sink& sink) { sink("hello\n"); }

TEST_F(OutputFile, AppearsUnderItsNameWithNothingBesideIt) {
  const fs::path path = folder_ / "report.json";
  ASSERT_TRUE(WriteOutputFile(path, Hello));
  EXPECT_EQ(*ReadTextFile(path), "hello\n");
  EXPECT_EQ(FilesInFolder(), 1u);
}

TEST_F(OutputFile, ReplacesAnOldFileOnlyWhenTheNewOneIsWhole) {
  const fs::path path = folder_ / "report.json";
  std::ofstream(path) << "old";
  ASSERT_TRUE(WriteOutputFile(path, [&](const Sink& sink) {
    sink("new");
    EXPECT_EQ(*ReadTextFile(path), "old");
  }));
  EXPECT_EQ(*ReadTextFile(path), "new");
}

TEST_F(OutputFile, WritesThroughALink) {
  const fs::path path = folder_ / "real.json";
  std::ofstream(path) << "old";
  fs::create_symlink("real.json", folder_ / "link.json");
  ASSERT_TRUE(WriteOutputFile(folder_ / "link.json", Hello));
  EXPECT_EQ(*ReadTextFile(path), "hello\n");
  EXPECT_TRUE(fs::is_symlink(folder_ / "link.json"));
}

TEST_F(OutputFile, SaysThatAFolderIsNotThereOrIsTheTarget) {
  const Status missing = WriteOutputFile(folder_ / "no" / "report.json", Hello);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().kind, ErrorKind::kNotFound);
  const Status folder = WriteOutputFile(folder_, Hello);
  ASSERT_FALSE(folder);
  EXPECT_EQ(folder.error().kind, ErrorKind::kUsage);
  EXPECT_EQ(FilesInFolder(), 0u);
}

TEST_F(OutputFile, SaysThatTheDeviceIsFull) {
  const Status full = WriteOutputFile("/dev/full", [](const Sink& sink) {
    for (int i = 0; i < 100'000; ++i) sink("0123456789");
  });
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().id, "disk-full");
}

TEST_F(OutputFile, WritesToADeviceWithoutReplacingIt) {
  ASSERT_TRUE(WriteOutputFile("/dev/null", Hello));
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
}

}  // namespace
}  // namespace weighbridge
