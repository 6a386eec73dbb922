#include "formats/torch_file/bin_checkpoint.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <thread>

#include "formats/safetensors/writer.h"
#include "formats/torch_support.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using testing::ReadBytes;
using testing::ReadExpected;
using testing::TempDir;
using testing::TorchData;
using testing::WriteBytes;

std::unique_ptr<Checkpoint> Open(const fs::path& path) {
  auto checkpoint = OpenCheckpoint(path);
  if (checkpoint) return std::move(*checkpoint);
  ADD_FAILURE() << checkpoint.error().what << " at " << checkpoint.error().at;
  return nullptr;
}

Error ErrorOf(const fs::path& path) {
  auto checkpoint = OpenCheckpoint(path);
  if (!checkpoint) return checkpoint.error();
  ADD_FAILURE() << path << " was accepted";
  return {};
}

std::vector<std::string> NoteIds(const Checkpoint& checkpoint) {
  std::vector<std::string> ids;
  for (const auto& note : checkpoint.notes()) ids.push_back(note.id);
  return ids;
}

// dtype, shape and bytes of every tensor are those that torch loaded.
void ExpectTensors(const Checkpoint& checkpoint, const nlohmann::json& expected) {
  ASSERT_EQ(checkpoint.tensors().size(), expected.size());
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    SCOPED_TRACE(tensor.name);
    const auto& want = expected[tensor.name];
    EXPECT_EQ(testing::TorchName(tensor.dtype), want["dtype"]);
    EXPECT_EQ(tensor.shape, want["shape"].get<Shape>());
    const auto data = checkpoint.Data(tensor);
    EXPECT_EQ(data.size(), tensor.nbytes);
    EXPECT_EQ(testing::Hex({reinterpret_cast<const char*>(data.data()), data.size()}), want["hex"]);
    checkpoint.DropBehind(tensor);
  }
}

class BinCheckpointTest : public ::testing::Test {
 protected:
  void CopyShards() {
    for (const auto* name : {"pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin",
                             "pytorch_model.bin.index.json"}) {
      fs::copy_file(TorchData("sharded") / name, dir_ / name);
    }
  }
  void CopyAs(const std::string& fixture, const std::string& name) {
    fs::copy_file(TorchData(fixture), dir_ / name);
  }
  void WriteIndex(const std::string& text) {
    WriteBytes(dir_ / "pytorch_model.bin.index.json", text);
  }
  TempDir dir_;
};

TEST_F(BinCheckpointTest, ReadsAFolderWithPytorchModelBin) {
  CopyAs("state_dict.bin", "pytorch_model.bin");
  const auto checkpoint = Open(dir_.path());
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ(checkpoint->format(), "pytorch");
  EXPECT_EQ(checkpoint->path(), dir_.path());
  ExpectTensors(*checkpoint, ReadExpected(TorchData("state_dict.bin.json")));
  EXPECT_TRUE(checkpoint->notes().empty());
  ASSERT_EQ(checkpoint->files().size(), 1u);
  EXPECT_EQ(checkpoint->files()[0].header_xxh3.size(), 32u);
}

TEST_F(BinCheckpointTest, ReadsShardsThroughTheirIndex) {
  CopyShards();
  for (const fs::path& path : {dir_.path(), dir_ / "pytorch_model.bin.index.json"}) {
    const auto checkpoint = Open(path);
    ASSERT_TRUE(checkpoint);
    EXPECT_EQ(checkpoint->files().size(), 2u);
    ExpectTensors(*checkpoint, ReadExpected(TorchData("sharded/expected.json")));
    EXPECT_TRUE(checkpoint->notes().empty());
  }
}

TEST_F(BinCheckpointTest, ReadsOneShardByItsName) {
  CopyShards();
  const auto checkpoint = Open(dir_ / "pytorch_model-00002-of-00002.bin");
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ(checkpoint->tensors().size(), 1u);
}

TEST_F(BinCheckpointTest, PrefersSafetensorsInTheSameFolder) {
  CopyAs("state_dict.bin", "pytorch_model.bin");
  auto writer = SafetensorsWriter::Create(dir_.path(), *PlanSafetensors({{"x", DType::kF32, {1}}}));
  ASSERT_TRUE(writer);
  ASSERT_TRUE(writer->Write(0, 0, std::vector<std::byte>(4)));
  ASSERT_TRUE(writer->Finish());
  const auto checkpoint = Open(dir_.path());
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ(checkpoint->format(), "safetensors");
  EXPECT_EQ(Open(dir_ / "pytorch_model.bin")->format(), "pytorch");
}

TEST_F(BinCheckpointTest, ReadsAZipUnderAnyName) {
  CopyAs("small.pt", "weights");
  EXPECT_EQ(Open(dir_ / "weights")->tensors().size(), 2u);
}

TEST_F(BinCheckpointTest, TakesTheWeightsOutOfATrainersCheckpointAndSaysSo) {
  for (const auto* key : {"state_dict", "model"}) {
    const std::string name = fmt::format("nested_{}.pt", key);
    const auto checkpoint = Open(TorchData(name));
    ASSERT_TRUE(checkpoint);
    ExpectTensors(*checkpoint, ReadExpected(TorchData(name + ".json")));
    ASSERT_EQ(NoteIds(*checkpoint), std::vector<std::string>{"nested-state-dict"});
    EXPECT_NE(checkpoint->notes()[0].message.find(fmt::format("'{}'", key)), std::string::npos);
  }
}

TEST_F(BinCheckpointTest, CopiesTensorsThatAreNotContiguousAndSaysSo) {
  const auto checkpoint = Open(TorchData("views.pt"));
  ASSERT_TRUE(checkpoint);
  ExpectTensors(*checkpoint, ReadExpected(TorchData("views.pt.json")));
  ASSERT_EQ(NoteIds(*checkpoint), std::vector<std::string>{"not-contiguous"});
  EXPECT_NE(checkpoint->notes()[0].message.find("6 tensors"), std::string::npos)
      << checkpoint->notes()[0].message;
}

TEST_F(BinCheckpointTest, CopiesOnceWhenThreadsAskAtTheSameTime) {
  const auto checkpoint = Open(TorchData("views.pt"));
  ASSERT_TRUE(checkpoint);
  const TensorInfo& tensor = *checkpoint->Find("transposed");
  std::vector<const std::byte*> seen(8);
  std::vector<std::thread> threads;
  for (auto& place : seen) {
    threads.emplace_back([&] { place = checkpoint->Data(tensor).data(); });
  }
  for (auto& thread : threads) thread.join();
  for (const auto* place : seen) EXPECT_EQ(place, seen[0]);
}

TEST_F(BinCheckpointTest, TwoNamesOfOneStorageAreTwoTensorsWithTheSameBytes) {
  const auto checkpoint = Open(TorchData("views.pt"));
  ASSERT_TRUE(checkpoint);
  const auto a = checkpoint->Data(*checkpoint->Find("tied.a"));
  const auto b = checkpoint->Data(*checkpoint->Find("tied.b"));
  EXPECT_EQ(a.data(), b.data());
  EXPECT_EQ(a.size(), 64u);
}

TEST_F(BinCheckpointTest, RefusesARootThatIsNoFlatDictOfTensors) {
  EXPECT_EQ(ErrorOf(TorchData("not_a_state_dict.pt")).id, "unsupported-format");
  const Error flat = ErrorOf(TorchData("not_flat.pt"));
  EXPECT_EQ(flat.kind, ErrorKind::kUnsupported);
  EXPECT_NE(flat.what.find("'step' is a value, not a tensor"), std::string::npos) << flat.what;
}

TEST_F(BinCheckpointTest, NamesTheTensorThatCannotBeRead) {
  const Error error = ErrorOf(TorchData("refused/sparse.pt"));
  EXPECT_EQ(error.id, "unsupported-tensor");
  EXPECT_TRUE(error.what.starts_with("'t': ")) << error.what;
}

TEST_F(BinCheckpointTest, RefusesAFolderWithAnIndexAndASingleFileBesideIt) {
  CopyShards();
  CopyAs("state_dict.bin", "pytorch_model.bin");
  const Error error = ErrorOf(dir_.path());
  EXPECT_EQ(error.kind, ErrorKind::kUsage);
  EXPECT_EQ(error.id, "ambiguous-model");
}

TEST_F(BinCheckpointTest, NamesShardsThatBelongToNothing) {
  CopyShards();
  CopyAs("small.pt", "pytorch_model-00003-of-00003.bin");
  CopyAs("no_crc.pt", "training_args.bin");
  const auto checkpoint = Open(dir_.path());
  ASSERT_TRUE(checkpoint);
  ASSERT_EQ(checkpoint->extra_files().size(), 1u);
  EXPECT_EQ(checkpoint->extra_files()[0].filename(), "pytorch_model-00003-of-00003.bin");
  EXPECT_EQ(NoteIds(*checkpoint), std::vector<std::string>{"extra-files"});
}

TEST_F(BinCheckpointTest, RefusesAnIndexThatItsShardsContradict) {
  CopyShards();
  const std::string first = "\"pytorch_model-00001-of-00002.bin\"",
                    second = "\"pytorch_model-00002-of-00002.bin\"";
  const auto index = [](const std::string& map) { return "{\"weight_map\": {" + map + "}}"; };
  const std::string sound = "\"embed.weight\": " + first + ", \"norm.weight\": " + first;
  WriteIndex(index(sound));
  EXPECT_TRUE(Open(dir_.path()));
  WriteIndex(index(sound + ", \"head.weight\": " + second + ", \"ghost\": " + first));
  EXPECT_EQ(ErrorOf(dir_.path()).id, "index-ghost");
  WriteIndex(index(sound + ", \"head.weight\": " + first));
  EXPECT_EQ(ErrorOf(dir_.path()).id, "index-ghost");
  WriteIndex(index("\"embed.weight\": " + first));
  EXPECT_EQ(ErrorOf(dir_.path()).id, "index-incomplete");
  WriteIndex(index(sound + ", \"head.weight\": \"pytorch_model-00009-of-00009.bin\""));
  EXPECT_EQ(ErrorOf(dir_.path()).id, "shard-missing");
  WriteIndex(index("\"a\": \"model.safetensors\""));
  EXPECT_EQ(ErrorOf(dir_.path()).id, "unsupported-format");
  WriteIndex(index("\"a\": \"../pytorch_model.bin\""));
  EXPECT_EQ(ErrorOf(dir_.path()).id, "header-corrupt");
}

TEST_F(BinCheckpointTest, NotesATotalSizeThatIsWrong) {
  CopyShards();
  std::string text = ReadBytes(dir_ / "pytorch_model.bin.index.json");
  const auto at = text.find("\"total_size\": 96");
  ASSERT_NE(at, text.npos) << text;
  WriteIndex(text.replace(at, 16, "\"total_size\": 97"));
  EXPECT_EQ(NoteIds(*Open(dir_.path())), std::vector<std::string>{"index-total-size"});
}

TEST_F(BinCheckpointTest, RefusesATensorThatIsInTwoShards) {
  CopyAs("small.pt", "pytorch_model-00001-of-00002.bin");
  CopyAs("no_crc.pt", "pytorch_model-00002-of-00002.bin");
  WriteIndex(
      "{\"weight_map\": {\"a\": \"pytorch_model-00001-of-00002.bin\", "
      "\"b\": \"pytorch_model-00002-of-00002.bin\"}}");
  const Error error = ErrorOf(dir_.path());
  EXPECT_EQ(error.id, "duplicate-name");
  EXPECT_NE(error.what.find("'a' is in two shards"), std::string::npos) << error.what;
}

TEST_F(BinCheckpointTest, SaysWhatAFolderOfOtherTorchFilesLacks) {
  CopyAs("small.pt", "optimizer.pt");
  const Error error = ErrorOf(dir_.path());
  EXPECT_EQ(error.id, "unsupported-format");
  EXPECT_NE(error.what.find("no pytorch_model.bin"), std::string::npos);
}

}  // namespace
}  // namespace weighbridge
