#include "formats/safetensors/reader.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "formats/safetensors/writer.h"
#include "support/temp_dir.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;
using testing::WriteBytes;

// Writes one F32 tensor of 4 elements per name.
void WriteModel(const fs::path& folder, const std::vector<std::string>& names, uint64_t max_shard) {
  fs::create_directories(folder);
  std::vector<TensorInfo> tensors;
  for (const auto& name : names) tensors.push_back({name, DType::kF32, {4}});
  auto writer =
      SafetensorsWriter::Create(folder, *PlanSafetensors(tensors, {.max_shard_bytes = max_shard}));
  ASSERT_TRUE(writer);
  for (size_t i = 0; i < names.size(); ++i) {
    const std::vector<std::byte> bytes(16, static_cast<std::byte>(i + 1));
    ASSERT_TRUE(writer->Write(i, 0, bytes));
  }
  ASSERT_TRUE(writer->Finish());
}

std::vector<std::string> NoteIds(const Checkpoint& checkpoint) {
  std::vector<std::string> ids;
  for (const auto& note : checkpoint.notes()) ids.push_back(note.id);
  return ids;
}

class SafetensorsReader : public ::testing::Test {
 protected:
  std::unique_ptr<Checkpoint> Open(const fs::path& path) {
    auto checkpoint = OpenCheckpoint(path);
    if (checkpoint) return std::move(*checkpoint);
    ADD_FAILURE() << checkpoint.error().what << " at " << checkpoint.error().at;
    return nullptr;
  }
  TempDir dir_;
};

TEST_F(SafetensorsReader, ReadsTensorsOfAllShardsSortedByName) {
  WriteModel(dir_.path(), {"z", "a", "m"}, 16);
  const auto checkpoint = Open(dir_.path());
  ASSERT_TRUE(checkpoint);
  ASSERT_EQ(checkpoint->files().size(), 3u);
  ASSERT_EQ(checkpoint->tensors().size(), 3u);
  EXPECT_EQ(checkpoint->tensors()[0].name, "a");
  EXPECT_EQ(checkpoint->Data(*checkpoint->Find("z"))[0], std::byte{1});
  EXPECT_EQ(checkpoint->Data(*checkpoint->Find("m"))[15], std::byte{3});
  EXPECT_EQ(checkpoint->Find("b"), nullptr);
  EXPECT_TRUE(checkpoint->notes().empty());
  EXPECT_EQ(checkpoint->files()[0].header_xxh3.size(), 32u);
}

TEST_F(SafetensorsReader, ReadsAFolderThroughItsIndexFile) {
  WriteModel(dir_.path(), {"a", "b"}, 16);
  const auto checkpoint = Open(dir_ / "model.safetensors.index.json");
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ(checkpoint->tensors().size(), 2u);
}

TEST_F(SafetensorsReader, ReadsOneShardByItsName) {
  WriteModel(dir_.path(), {"a", "b"}, 16);
  const auto checkpoint = Open(dir_ / "model-00002-of-00002.safetensors");
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ(checkpoint->tensors().size(), 1u);
}

TEST_F(SafetensorsReader, TakesTheOnlyFileOfAFolderWhateverItsName) {
  WriteModel(dir_.path(), {"a"}, 100);
  fs::rename(dir_ / "model.safetensors", dir_ / "consolidated.safetensors");
  ASSERT_TRUE(Open(dir_.path()));
}

TEST_F(SafetensorsReader, NamesStaleShardsAsExtraFiles) {
  WriteModel(dir_.path(), {"a", "b"}, 16);
  WriteBytes(dir_ / "model-00003-of-00003.safetensors", "stale");
  WriteBytes(dir_ / "consolidated.safetensors", "other");
  const auto checkpoint = Open(dir_.path());
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ(checkpoint->extra_files(),
            (std::vector<fs::path>{dir_ / "consolidated.safetensors",
                                   dir_ / "model-00003-of-00003.safetensors"}));
  EXPECT_EQ(NoteIds(*checkpoint), std::vector<std::string>{"extra-files"});
}

TEST_F(SafetensorsReader, ReadsACompleteSetWithoutAnIndexAndSaysSo) {
  WriteModel(dir_.path(), {"a", "b"}, 16);
  fs::remove(dir_ / "model.safetensors.index.json");
  const auto checkpoint = Open(dir_.path());
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ(checkpoint->tensors().size(), 2u);
  EXPECT_EQ(NoteIds(*checkpoint), std::vector<std::string>{"index-missing"});
}

TEST_F(SafetensorsReader, NotesATotalSizeThatIsWrongAndAcceptsAFloat) {
  WriteModel(dir_.path(), {"a", "b"}, 16);
  const fs::path index = dir_ / "model.safetensors.index.json";
  std::string text = testing::ReadBytes(index);
  text.replace(text.find("32"), 2, "33");
  WriteBytes(index, text);
  EXPECT_EQ(NoteIds(*Open(dir_.path())), std::vector<std::string>{"index-total-size"});
  text.replace(text.find("33"), 2, "32.0");
  WriteBytes(index, text);
  EXPECT_TRUE(Open(dir_.path())->notes().empty());
}

TEST_F(SafetensorsReader, ReadsTensorsThatAreNotAligned) {
  std::string json = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  while (json.size() % 8 != 3) json.push_back(' ');
  std::string file(8, '\0');
  file[0] = static_cast<char>(json.size());
  WriteBytes(dir_ / "x.safetensors", file + json + "abcd");
  const auto checkpoint = Open(dir_ / "x.safetensors");
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ(checkpoint->Data(checkpoint->tensors()[0])[3], std::byte{'d'});
}

TEST_F(SafetensorsReader, RecognisesAFileWithoutItsEnding) {
  WriteModel(dir_.path(), {"a"}, 100);
  fs::rename(dir_ / "model.safetensors", dir_ / "0123456789abcdef");
  ASSERT_TRUE(Open(dir_ / "0123456789abcdef"));
}

TEST_F(SafetensorsReader, RefusesAPathThatIsNotThereOrNotAModel) {
  EXPECT_EQ(OpenCheckpoint(dir_ / "none").error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(OpenCheckpoint(dir_.path()).error().id, "no-weights");
  WriteBytes(dir_ / "notes.txt", "hello, this is no model at all");
  EXPECT_EQ(OpenCheckpoint(dir_ / "notes.txt").error().kind, ErrorKind::kUnsupported);
  fs::create_directory(dir_ / "x.safetensors");
  EXPECT_FALSE(OpenCheckpoint(dir_.path()));
}

// A model as the Hugging Face client stores it: links into blobs.
class HubCache : public SafetensorsReader {
 protected:
  void SetUp() override {
    ::setenv("HF_HUB_CACHE", dir_.path().c_str(), 1);
    WriteModel(repo_ / "written", {"a", "b"}, 16);
    fs::create_directories(repo_ / "blobs");
    fs::create_directories(snapshot_);
    int number = 0;
    for (const auto& entry : fs::directory_iterator(repo_ / "written")) {
      const std::string blob = fmt::format("blob{}", number++);
      fs::rename(entry.path(), repo_ / "blobs" / blob);
      fs::create_symlink("../../blobs/" + blob, snapshot_ / entry.path().filename());
    }
    WriteBytes(repo_ / "refs/main", kCommit);
    WriteBytes(repo_ / "refs/pr/1", kCommit);
  }
  void TearDown() override { ::unsetenv("HF_HUB_CACHE"); }

  static constexpr char kCommit[] = "0123456789abcdef0123456789abcdef01234567";
  const fs::path repo_ = dir_ / "models--org--name";
  const fs::path snapshot_ = repo_ / "snapshots" / kCommit;
};

TEST_F(HubCache, FindsAModelByNameBranchAndCommit) {
  for (const char* model : {"org/name", "org/name@main", "org/name@pr/1", "org/name@0123456",
                            "org/name@0123456789abcdef0123456789abcdef01234567"}) {
    const auto path = ResolveModelPath(model);
    ASSERT_TRUE(path) << model << ": " << path.error().what;
    EXPECT_EQ(*path, snapshot_) << model;
  }
  EXPECT_EQ(Open(snapshot_)->tensors().size(), 2u);
}

TEST_F(HubCache, ShowsTheCommandThatDownloadsAnAbsentModel) {
  const auto absent = ResolveModelPath("org/other");
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().kind, ErrorKind::kNotFound);
  EXPECT_NE(absent.error().hint.find("hf download org/other"), std::string::npos);
  const auto near = ResolveModelPath("Org/Name");
  ASSERT_FALSE(near);
  EXPECT_NE(near.error().hint.find("the cache has org/name"), std::string::npos)
      << near.error().hint;
  const auto revision = ResolveModelPath("org/name@v2");
  ASSERT_FALSE(revision);
  EXPECT_NE(revision.error().hint.find("--revision v2"), std::string::npos);
}

TEST_F(HubCache, NeverLeavesTheCache) {
  WriteBytes(repo_ / "refs/evil", "../../..");
  for (const char* model : {"../org", "org/../..", "org/name@../main", "org/name@evil", "org/name@",
                            "@main", "a/b/c", "org/name@/etc"}) {
    EXPECT_FALSE(ResolveModelPath(model)) << model;
  }
}

TEST_F(HubCache, SaysHowToCompleteASnapshotThatLacksAShard) {
  fs::remove(snapshot_ / "model-00002-of-00002.safetensors");
  const auto checkpoint = OpenCheckpoint(snapshot_);
  ASSERT_FALSE(checkpoint);
  EXPECT_EQ(checkpoint.error().id, "shard-missing");
  EXPECT_NE(checkpoint.error().hint.find("hf download org/name"), std::string::npos);
}

TEST_F(HubCache, TakesALinkWhoseBlobIsGoneAsAMissingShard) {
  fs::remove(snapshot_ / "model-00001-of-00002.safetensors");
  fs::create_symlink("../../blobs/gone", snapshot_ / "model-00001-of-00002.safetensors");
  EXPECT_EQ(OpenCheckpoint(snapshot_).error().id, "shard-missing");
}

TEST_F(HubCache, FollowsTheClientsOrderOfEnvironmentVariables) {
  ::unsetenv("HF_HUB_CACHE");
  ::setenv("HF_HOME", (dir_ / "home").c_str(), 1);
  fs::create_directories(dir_ / "home/hub");
  fs::rename(repo_, dir_ / "home/hub/models--org--name");
  EXPECT_TRUE(ResolveModelPath("org/name"));
  ::setenv("HF_HUB_CACHE", (dir_ / "elsewhere").c_str(), 1);
  EXPECT_FALSE(ResolveModelPath("org/name"));
  ::unsetenv("HF_HOME");
}

TEST_F(HubCache, TakesASingleFileWhoseBlobIsGoneAsMissing) {
  for (const char* name : {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                           "model.safetensors.index.json"}) {
    fs::remove(snapshot_ / name);
  }
  fs::create_symlink("../../blobs/gone", snapshot_ / "model.safetensors");
  const auto checkpoint = OpenCheckpoint(snapshot_);
  ASSERT_FALSE(checkpoint);
  EXPECT_EQ(checkpoint.error().kind, ErrorKind::kCorrupt);
  EXPECT_EQ(checkpoint.error().id, "shard-missing");
  EXPECT_NE(checkpoint.error().hint.find("hf download org/name"), std::string::npos);
}

TEST_F(SafetensorsReader, KeepsOneOfTwoEqualCopiesAndSaysSo) {
  WriteModel(dir_ / "one", {"a", "b"}, 32);
  WriteModel(dir_ / "two", {"a", "c"}, 32);
  fs::rename(dir_ / "one/model.safetensors", dir_ / "model-00001-of-00002.safetensors");
  fs::rename(dir_ / "two/model.safetensors", dir_ / "model-00002-of-00002.safetensors");
  fs::remove_all(dir_ / "one");
  fs::remove_all(dir_ / "two");
  auto checkpoint = Open(dir_.path());
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ(checkpoint->tensors().size(), 3u);
  EXPECT_EQ(NoteIds(*checkpoint), (std::vector<std::string>{"duplicate-equal", "index-missing"}));
  // With an index its shard is the one that is kept.
  WriteBytes(dir_ / "model.safetensors.index.json",
             R"({"weight_map": {"a": "model-00002-of-00002.safetensors",
                                "b": "model-00001-of-00002.safetensors",
                                "c": "model-00002-of-00002.safetensors"}})");
  checkpoint = Open(dir_.path());
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ(checkpoint->Find("a")->file, 1u);
}

}  // namespace
}  // namespace weighbridge
