#include "base/partial_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/memory.h"
#include "base/source_files.h"
#include "support/temp_dir.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TempDir;
using testing::WriteBytes;

const JobKey kJob = {"source", "work"};

// A job that finished `name` and was killed: what it left, without its lock.
void LeaveBehind(const fs::path& target, const JobKey& job, const std::string& name) {
  auto partial = PartialFolder::Open(target, job, false);
  ASSERT_TRUE(partial) << partial.error().what;
  WriteBytes(partial->files() / name, "12345");
  WriteBytes(partial->files() / "half", "1");
  ASSERT_TRUE(partial->Record({name, 5, 77}));
}

int Entries(const fs::path& folder) {
  return static_cast<int>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(PartialFolder, ASecondStartOfTheSameJobFindsWhatIsFinished) {
  const TempDir dir;
  LeaveBehind(dir / "out", kJob, "a");
  auto second = PartialFolder::Open(dir / "out", kJob, false);
  ASSERT_TRUE(second);
  ASSERT_EQ(second->finished().size(), 1u);
  EXPECT_EQ(second->finished()[0].name, "a");
  EXPECT_EQ(second->finished()[0].crc, 77u);
  EXPECT_TRUE(fs::exists(second->files() / "a"));
  EXPECT_FALSE(fs::exists(second->files() / "half"));
}

TEST(PartialFolder, AFileOfAnotherSizeIsNotFinished) {
  const TempDir dir;
  LeaveBehind(dir / "out", kJob, "a");
  LeaveBehind(dir / "out", kJob, "b");
  for (const auto& entry : fs::recursive_directory_iterator(dir.path())) {
    if (entry.path().filename() == "a") fs::resize_file(entry.path(), 4);
  }
  const auto second = PartialFolder::Open(dir / "out", kJob, false);
  ASSERT_EQ(second->finished().size(), 1u);
  EXPECT_EQ(second->finished()[0].name, "b");
}

TEST(PartialFolder, AnotherJobsWorkIsRemovedAndSaid) {
  const TempDir dir;
  LeaveBehind(dir / "out", kJob, "a");
  {
    const auto other = PartialFolder::Open(dir / "out", JobKey{"changed", "work"}, false);
    EXPECT_TRUE(other->finished().empty());
    EXPECT_THAT(other->note(), HasSubstr("another state of the source"));
    EXPECT_EQ(Entries(dir.path()), 1);
  }
  EXPECT_EQ(Entries(dir.path()), 0) << "nothing was finished, nothing is kept";
}

TEST(PartialFolder, AnotherTargetsWorkIsLeftAlone) {
  const TempDir dir;
  LeaveBehind(dir / "out2", kJob, "a");
  const auto other = PartialFolder::Open(dir / "out", kJob, false);
  EXPECT_TRUE(other->finished().empty());
  EXPECT_EQ(Entries(dir.path()), 2);
}

TEST(PartialFolder, WhatALivingProcessHoldsIsLeftAlone) {
  const TempDir dir;
  auto first = PartialFolder::Open(dir / "out", kJob, false);
  WriteBytes(first->files() / "a", "12345");
  ASSERT_TRUE(first->Record({"a", 5, 77}));
  const auto second = PartialFolder::Open(dir / "out", kJob, false);
  ASSERT_TRUE(second);
  EXPECT_TRUE(second->finished().empty());
  EXPECT_TRUE(fs::exists(first->files() / "a"));
  ASSERT_TRUE(first->Share());
  const auto joined = PartialFolder::Join(first->path());
  ASSERT_TRUE(joined);
  const auto third = PartialFolder::Open(dir / "out", kJob, false);
  EXPECT_TRUE(third->finished().empty());
}

TEST(PartialFolder, NothingIsKeptWithoutAJobOrOnceItIsDiscarded) {
  const TempDir dir;
  { ASSERT_TRUE(PartialFolder::Open(dir / "out", std::nullopt, false)); }
  EXPECT_EQ(Entries(dir.path()), 0);
  {
    auto partial = PartialFolder::Open(dir / "out", kJob, false);
    WriteBytes(partial->files() / "a", "12345");
    ASSERT_TRUE(partial->Record({"a", 5, 77}));
    EXPECT_TRUE(partial->KeepsFinishedFiles());
    partial->Discard();
  }
  EXPECT_EQ(Entries(dir.path()), 0);
}

TEST(FinishedFileText, ComesBackAndNothingElseDoes) {
  const FinishedFile file{"__0_0.distcp", uint64_t{1} << 40, 4'000'000'000u};
  const auto back = ParseFinishedFile(FinishedFileText(file));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->name, file.name);
  EXPECT_EQ(back->nbytes, file.nbytes);
  EXPECT_EQ(back->crc, file.crc);
  for (const char* text :
       {"", "[]", "null", R"({"name":"a","bytes":1})", R"({"name":"../a","bytes":1,"crc32":1})",
        R"({"name":"","bytes":1,"crc32":1})", R"({"name":"a","bytes":-1,"crc32":1})",
        R"({"name":"a","bytes":1,"crc32":4294967296})"}) {
    EXPECT_FALSE(ParseFinishedFile(text)) << text;
  }
}

TEST(SourceFiles, TellAChangeOfSizeAndOfTime) {
  const TempDir dir;
  WriteBytes(dir / "a", "one");
  WriteBytes(dir / "b", "two");
  const auto before = SourceFiles::Look({dir / "a", dir / "b"});
  ASSERT_TRUE(before);
  EXPECT_EQ(before->Key(), SourceFiles::Look({dir / "b", dir / "a"})->Key());
  EXPECT_TRUE(before->CheckUnchanged());
  fs::last_write_time(dir / "b", fs::last_write_time(dir / "b") + std::chrono::seconds(1));
  EXPECT_NE(before->Key(), SourceFiles::Look({dir / "a", dir / "b"})->Key());
  const auto changed = before->CheckUnchanged();
  ASSERT_FALSE(changed);
  EXPECT_EQ(changed.error().id, "source-changed");
  EXPECT_THAT(changed.error().at, HasSubstr("/b"));
  EXPECT_FALSE(SourceFiles::Look({dir / "absent"}));
}

TEST(DivideMemory, BoundsBlocksByTheMemoryAndThreadsByTheSmallestBlock) {
  EXPECT_EQ(DivideMemory(64 << 20, 2, 2, 4 << 20).bytes, 4 << 20);
  EXPECT_EQ(DivideMemory(64 << 20, 64, 2, 4 << 20).bytes, 512 << 10);
  EXPECT_EQ(DivideMemory(64 << 20, 64, 2, 4 << 20).threads, 64);
  EXPECT_EQ(DivideMemory(1 << 20, 64, 2, 4 << 20).threads, 8);
  EXPECT_EQ(DivideMemory(1 << 20, 64, 2, 4 << 20).bytes, 64 << 10);
  EXPECT_EQ(DivideMemory(1, 4, 2, 4 << 20).threads, 1);
}

}  // namespace
}  // namespace weighbridge
