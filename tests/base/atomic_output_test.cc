#include "base/atomic_output.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "support/temp_dir.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using testing::ReadBytes;
using testing::TempDir;
using testing::WriteBytes;

Status Consent(const fs::path&) { return {}; }

std::vector<std::string> Names(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(AtomicFile, AppearsUnderItsNameOnlyAfterCommit) {
  TempDir dir;
  auto file = AtomicFile::Create(dir / "out");
  ASSERT_TRUE(file) << file.error().what;
  ASSERT_TRUE(file->Append("hello "));
  ASSERT_TRUE(file->Append("world"));
  EXPECT_FALSE(fs::exists(dir / "out"));
  const auto published = file->Commit();
  ASSERT_TRUE(published) << published.error().what;
  EXPECT_EQ(published->kind, PublishKind::kCreated);
  EXPECT_EQ(ReadBytes(dir / "out"), "hello world");
  EXPECT_EQ(Names(dir.path()), std::vector<std::string>{"out"});
}

TEST(AtomicFile, RemovesItsPartialWhenItIsGivenUp) {
  TempDir dir;
  {
    auto file = AtomicFile::Create(dir / "out");
    ASSERT_TRUE(file->Append("half"));
    EXPECT_EQ(Names(dir.path()).size(), 1u);
  }
  EXPECT_TRUE(Names(dir.path()).empty());
}

TEST(AtomicFile, RefusesAnExistingTargetUnlessToldToOverwrite) {
  TempDir dir;
  WriteBytes(dir / "out", "old");
  const auto refused = AtomicFile::Create(dir / "out");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kUsage);
  EXPECT_EQ(refused.error().id, "output-exists");
  EXPECT_NE(refused.error().hint.find("--overwrite"), std::string::npos);
  auto file = AtomicFile::Create(dir / "out", {.overwrite = true});
  ASSERT_TRUE(file->Append("new"));
  EXPECT_EQ(ReadBytes(dir / "out"), "old");
  ASSERT_TRUE(file->Commit());
  EXPECT_EQ(ReadBytes(dir / "out"), "new");
}

TEST(AtomicFile, DoesNotReplaceATargetThatAppearedMeanwhile) {
  TempDir dir;
  auto file = AtomicFile::Create(dir / "out");
  ASSERT_TRUE(file->Append("mine"));
  WriteBytes(dir / "out", "theirs");
  const auto published = file->Commit();
  ASSERT_FALSE(published);
  EXPECT_EQ(published.error().id, "output-exists");
  EXPECT_EQ(ReadBytes(dir / "out"), "theirs");
}

TEST(AtomicFile, WritesThroughALinkAndKeepsIt) {
  TempDir dir;
  WriteBytes(dir / "real", "old");
  fs::create_symlink("real", dir / "link");
  auto file = AtomicFile::Create(dir / "link", {.overwrite = true});
  ASSERT_TRUE(file) << file.error().what;
  ASSERT_TRUE(file->Append("new"));
  ASSERT_TRUE(file->Commit());
  EXPECT_TRUE(fs::is_symlink(dir / "link"));
  EXPECT_EQ(ReadBytes(dir / "real"), "new");
}

TEST(AtomicFile, SaysWhichFolderIsAbsent) {
  TempDir dir;
  const auto file = AtomicFile::Create(dir / "no/such/out");
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(file.error().at, (dir / "no/such").string());
}

TEST(AtomicDirectory, RefusesWhatDoesNotFitOnTheFileSystemBeforeWriting) {
  TempDir dir;
  const auto refused = AtomicDirectory::Create(dir / "out", {.expected_bytes = uint64_t{1} << 62});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kIo);
  EXPECT_EQ(refused.error().id, "disk-full");
  EXPECT_TRUE(Names(dir.path()).empty());
}

TEST(AtomicDirectory, AppearsWhole) {
  TempDir dir;
  auto out = AtomicDirectory::Create(dir / "out/");  // a trailing slash means the same folder
  ASSERT_TRUE(out) << out.error().what;
  ASSERT_TRUE(out->WriteFile("config.json", "{}"));
  fs::create_directory(out->path() / "sub");
  ASSERT_TRUE(out->WriteFile("sub/x", "y"));
  EXPECT_FALSE(fs::exists(dir / "out"));
  ASSERT_TRUE(out->Commit());
  EXPECT_EQ(ReadBytes(dir / "out/config.json"), "{}");
  EXPECT_EQ(ReadBytes(dir / "out/sub/x"), "y");
  EXPECT_EQ(Names(dir.path()), std::vector<std::string>{"out"});
}

TEST(AtomicDirectory, ReplacesTheWholeOldFolderAndLeavesNothingBehind) {
  TempDir dir;
  WriteBytes(dir / "out/stale-shard", "old");
  auto out = AtomicDirectory::Create(dir / "out", {.overwrite = true, .may_replace = Consent});
  ASSERT_TRUE(out);
  ASSERT_TRUE(out->WriteFile("new", "new"));
  EXPECT_TRUE(fs::exists(dir / "out/stale-shard"));
  const auto published = out->Commit();
  ASSERT_TRUE(published) << published.error().what;
  EXPECT_NE(published->kind, PublishKind::kCreated);
  EXPECT_EQ(Names(dir / "out"), std::vector<std::string>{"new"});
  EXPECT_EQ(Names(dir.path()), std::vector<std::string>{"out"});
}

TEST(AtomicDirectory, TakesAnEmptyFolderAndRefusesOneThatIsNotEmpty) {
  TempDir dir;
  fs::create_directory(dir / "empty");
  WriteBytes(dir / "full/x", "x");
  auto out = AtomicDirectory::Create(dir / "empty");
  ASSERT_TRUE(out) << out.error().what;
  ASSERT_TRUE(out->WriteFile("a", "a"));
  ASSERT_TRUE(out->Commit());
  EXPECT_EQ(ReadBytes(dir / "empty/a"), "a");
  EXPECT_FALSE(AtomicDirectory::Create(dir / "full"));
  EXPECT_FALSE(AtomicDirectory::Create(dir / "full/x", {.overwrite = true}));
  EXPECT_FALSE(AtomicFile::Create(dir / "full", {.overwrite = true}));
}

TEST(AtomicDirectory, LeavesTheTargetAloneWhenItIsGivenUp) {
  TempDir dir;
  WriteBytes(dir / "out/old", "old");
  {
    auto out = AtomicDirectory::Create(dir / "out", {.overwrite = true, .may_replace = Consent});
    ASSERT_TRUE(out->WriteFile("new", "new"));
  }
  EXPECT_EQ(Names(dir.path()), std::vector<std::string>{"out"});
  EXPECT_EQ(ReadBytes(dir / "out/old"), "old");
}

TEST(AtomicDirectory, ReplacesNoFolderThatHoldsAnythingWithoutConsent) {
  TempDir dir;
  WriteBytes(dir / "out/letter", "dear");
  const auto silent = AtomicDirectory::Create(dir / "out", {.overwrite = true});
  ASSERT_FALSE(silent);
  EXPECT_EQ(silent.error().kind, ErrorKind::kUsage);
  EXPECT_EQ(ReadBytes(dir / "out/letter"), "dear");
}

TEST(AtomicDirectory, AsksAgainBeforeOldAndNewChangePlaces) {
  TempDir dir;
  fs::create_directory(dir / "out");
  const auto only_empty = [](const fs::path& folder) -> Status {
    if (fs::is_empty(folder)) return {};
    return Fail(ErrorKind::kUsage, "test", "not empty");
  };
  auto out = AtomicDirectory::Create(dir / "out", {.overwrite = true, .may_replace = only_empty});
  ASSERT_TRUE(out) << out.error().what;
  ASSERT_TRUE(out->WriteFile("new", "new"));
  WriteBytes(dir / "out/letter", "dear");
  EXPECT_FALSE(out->Commit());
  EXPECT_EQ(ReadBytes(dir / "out/letter"), "dear");
}

}  // namespace
}  // namespace weighbridge
