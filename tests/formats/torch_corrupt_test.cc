// Broken torch files: those of tools/make_torch_corpus.py, a real one cut at every byte, and with
// every bit flipped.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "formats/checkpoint.h"
#include "formats/torch_file/state_dict.h"
#include "formats/torch_support.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using testing::DescribeTensor;
using testing::ExactBytes;
using testing::ReadBytes;
using testing::TorchData;

class TorchCorpus : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    corpus_ = new testing::TempDir();
    const std::string command = fmt::format("python3 '{}/tools/make_torch_corpus.py' '{}'",
                                            WEIGHBRIDGE_SOURCE_DIR, corpus_->path().string());
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
  }
  static void TearDownTestSuite() {
    delete corpus_;
    corpus_ = nullptr;
  }
  static testing::TempDir* corpus_;
};
testing::TempDir* TorchCorpus::corpus_ = nullptr;

TEST_F(TorchCorpus, EachBrokenFileIsRefusedWithItsIdTextAndKind) {
  const auto expected = testing::ReadExpected(*corpus_ / "expected.json");
  ASSERT_GE(expected.size(), 100u);
  for (const auto& [name, want] : expected.items()) {
    SCOPED_TRACE(name);
    const auto checkpoint = OpenCheckpoint(*corpus_ / (name + ".pt"));
    if (checkpoint) {
      ADD_FAILURE() << "was accepted";
      continue;
    }
    const Error& error = checkpoint.error();
    EXPECT_EQ(error.id, want["id"]) << error.what;
    EXPECT_NE(error.what.find(want["text"].get<std::string>()), std::string::npos) << error.what;
    EXPECT_EQ(error.kind == ErrorKind::kCorrupt ? "corrupt" : "unsupported", want["kind"]);
    EXPECT_NE(error.at.find(corpus_->path().string()), std::string::npos) << error.at;
  }
}

TEST_F(TorchCorpus, TheSoundFilesBesideThemAreRead) {
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(corpus_->path())) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("good_")) continue;
    SCOPED_TRACE(name);
    const auto checkpoint = OpenCheckpoint(entry.path());
    ASSERT_TRUE(checkpoint) << checkpoint.error().what << " at " << checkpoint.error().at;
    const TensorInfo* tensor = (*checkpoint)->Find("t0");
    ASSERT_TRUE(tensor);
    EXPECT_EQ(tensor->shape, (Shape{2, 3}));
    const auto data = (*checkpoint)->Data(*tensor);
    float values[6];
    ASSERT_EQ(data.size(), sizeof values);
    std::memcpy(values, data.data(), sizeof values);
    for (int i = 0; i < 6; ++i) EXPECT_EQ(values[i], static_cast<float>(i));
    ++files;
  }
  EXPECT_GE(files, 14u);
}

// Names, descriptions and bytes of all tensors; nullopt when the file is refused.
std::optional<std::string> Meaning(const std::string& content) {
  const ExactBytes bytes(content);
  const auto file = TorchFile::Open(bytes.span(), "small.pt");
  if (!file) {
    EXPECT_FALSE(file.error().what.empty());
    return std::nullopt;
  }
  const auto dict = ReadStateDict(*file, "small.pt");
  if (!dict) return std::nullopt;
  std::string meaning;
  for (const auto& [name, tensor] : dict->tensors) {
    if (!tensor.contiguous && tensor.nbytes > 1 << 20) return std::nullopt;
    meaning += fmt::format("{} {};", name, DescribeTensor(tensor, bytes.span()).dump());
  }
  return meaning;
}

TEST(TorchFileExhaustive, RefusesASmallFileCutAtEveryByte) {
  const std::string whole = ReadBytes(TorchData("small.pt"));
  ASSERT_TRUE(Meaning(whole));
  for (size_t size = 0; size < whole.size(); ++size) {
    const ExactBytes bytes(whole.substr(0, size));
    const auto file = TorchFile::Open(bytes.span(), "small.pt");
    ASSERT_FALSE(file) << size;
    EXPECT_EQ(file.error().kind, ErrorKind::kCorrupt);
    // Fewer bytes than the signature of a zip are not known to be one.
    EXPECT_EQ(file.error().id, size > 0 && size < 4 ? "header-corrupt" : "file-truncated") << size;
  }
}

TEST(TorchFileExhaustive, RefusesBytesBehindTheEnd) {
  std::string content = ReadBytes(TorchData("small.pt"));
  for (int i = 0; i < 64; ++i) {
    content.push_back(static_cast<char>(i));
    EXPECT_FALSE(Meaning(content)) << i;
  }
}

// The bytes of the two tensors, whose flips no header can show: nothing reads a storage's checksum.
bool IsTensorData(const std::string& whole, size_t at) {
  const ExactBytes bytes(whole);
  const auto file = TorchFile::Open(bytes.span(), "small.pt");
  for (const auto* name : {"a", "b"}) {
    const auto tensor = file->Tensor(*file->root().Get(name));
    if (at >= tensor->offset && at < tensor->offset + tensor->nbytes) return true;
  }
  return false;
}

TEST(TorchFileExhaustive, AnyBitFlippedOutsideTheDataGivesAnErrorOrTheSameTensors) {
  const std::string whole = ReadBytes(TorchData("small.pt"));
  const auto meaning = Meaning(whole);
  ASSERT_TRUE(meaning);
  size_t same = 0, refused = 0, data = 0;
  for (size_t at = 0; at < whole.size(); ++at) {
    const bool in_data = IsTensorData(whole, at);
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = whole;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << bit));
      const auto read = Meaning(flipped);
      data += in_data;
      same += !in_data && read.has_value();
      refused += !read.has_value();
      if (in_data) {
        EXPECT_TRUE(read) << at;
      } else if (read) {
        EXPECT_EQ(*read, *meaning) << "byte " << at << " bit " << bit;
      }
    }
  }
  EXPECT_EQ(data, 32u * 8);
  EXPECT_EQ(same + refused + data, whole.size() * 8);
  EXPECT_GT(refused, whole.size() * 2);
}

// Without checksums every flip in the pickle reaches the pickle reader.
TEST(TorchFileExhaustive, AnyBitFlippedInAFileWithoutChecksumsIsReadOrRefused) {
  const std::string whole = ReadBytes(TorchData("no_crc.pt"));
  for (size_t at = 0; at < whole.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = whole;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << bit));
      (void)Meaning(flipped);
    }
  }
}

TEST(TorchFileExhaustive, APickleOfTorchCutAtEveryByteIsRefused) {
  const std::string whole = ReadBytes(TorchData("dist/metadata.pkl"));
  for (size_t size = 0; size < whole.size(); size += size < 600 ? 1 : 7) {
    const ExactBytes bytes(whole.substr(0, size));
    const auto document =
        pickle::Document::Read(bytes.span(), ".metadata", {.allowed = pickle::TorchGlobals});
    ASSERT_FALSE(document) << size;
    EXPECT_EQ(document.error().id, "header-corrupt");
  }
}

}  // namespace
}  // namespace weighbridge
