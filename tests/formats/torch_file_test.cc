// Files that torch.save 2.11 wrote, against what torch.load made of them
// (tools/make_torch_fixtures.py).
#include <gtest/gtest.h>

#include "formats/torch_support.h"

namespace weighbridge {
namespace {

using testing::DescribeTensor;
using testing::ExactBytes;
using testing::ReadBytes;
using testing::ReadExpected;
using testing::TorchData;

void ExpectAllTensors(const std::string& name) {
  SCOPED_TRACE(name);
  const ExactBytes bytes(ReadBytes(TorchData(name)));
  const auto file = TorchFile::Open(bytes.span(), name);
  ASSERT_TRUE(file) << file.error().what << " at " << file.error().at;
  const auto expected = ReadExpected(TorchData(name + ".json"));
  const pickle::Value root = file->root();
  ASSERT_EQ(root.size(), expected.size());
  ASSERT_GT(root.size(), 0u);
  for (size_t i = 0; i < root.size(); ++i) {
    const auto [key, value] = root.entry(i);
    SCOPED_TRACE(key.text());
    EXPECT_TRUE(TorchFile::IsTensor(value));
    const auto tensor = file->Tensor(value);
    ASSERT_TRUE(tensor) << tensor.error().what;
    EXPECT_EQ(DescribeTensor(*tensor, bytes.span()), expected[std::string(key.text())]);
  }
}

TEST(TorchFile, ReadsEveryDTypeThatTorchAndWeighbridgeShare) {
  ExpectAllTensors("dtypes.pt");
  EXPECT_EQ(ReadExpected(TorchData("dtypes.pt.json")).size(), 19u);
}

TEST(TorchFile, ReadsScalarsAndEmptyTensors) { ExpectAllTensors("shapes.pt"); }

TEST(TorchFile, ReadsViewsThatShareAStorageWithTheirStridesAndOffsets) {
  ExpectAllTensors("views.pt");
}

TEST(TorchFile, ReadsParametersBuffersAndTensorsWithAttributes) {
  ExpectAllTensors("parameters.pt");
}

TEST(TorchFile, ReadsTheStateDictOfAModule) { ExpectAllTensors("state_dict.bin"); }

TEST(TorchFile, ReadsEveryPickleProtocolThatTorchCanWrite) {
  for (const auto* name : {"small.pt", "protocol_3.pt", "protocol_4.pt", "protocol_5.pt"}) {
    ExpectAllTensors(name);
  }
}

TEST(TorchFile, ReadsAFileWithoutChecksums) { ExpectAllTensors("no_crc.pt"); }

TEST(TorchFile, ContiguousTensorsLieInTheFileAsTheyAre) {
  const ExactBytes bytes(ReadBytes(TorchData("small.pt")));
  const auto file = TorchFile::Open(bytes.span(), "small.pt");
  ASSERT_TRUE(file);
  const auto tensor = file->Tensor(*file->root().Get("a"));
  ASSERT_TRUE(tensor);
  ASSERT_EQ(tensor->nbytes, 24u);
  const auto in_place = bytes.span().subspan(tensor->offset, tensor->nbytes);
  const std::string hex =
      testing::Hex({reinterpret_cast<const char*>(in_place.data()), in_place.size()});
  EXPECT_EQ(hex, ReadExpected(TorchData("small.pt.json"))["a"]["hex"]);
}

TEST(TorchFile, TheAttributesOfAStateDictAreKept) {
  const ExactBytes bytes(ReadBytes(TorchData("state_dict.bin")));
  const auto file = TorchFile::Open(bytes.span(), "state_dict.bin");
  ASSERT_TRUE(file);
  const auto metadata = file->root().Attribute("_metadata");
  ASSERT_TRUE(metadata);
  EXPECT_EQ(metadata->Get("1")->Get("version")->integer(), 2);  // of BatchNorm1d
}

TEST(TorchFile, RefusesTensorsThatAreNoPlainBytesAndSaysWhy) {
  const auto expected = ReadExpected(TorchData("refused/expected.json"));
  ASSERT_GE(expected.size(), 8u);
  for (const auto& [name, text] : expected.items()) {
    SCOPED_TRACE(name);
    const ExactBytes bytes(ReadBytes(TorchData("refused/" + name + ".pt")));
    const auto file = TorchFile::Open(bytes.span(), name);
    ASSERT_TRUE(file) << file.error().what;
    ASSERT_TRUE(TorchFile::IsTensor(*file->root().Get("t")));
    const auto tensor = file->Tensor(*file->root().Get("t"));
    ASSERT_FALSE(tensor);
    EXPECT_EQ(tensor.error().kind, ErrorKind::kUnsupported);
    EXPECT_EQ(tensor.error().id, "unsupported-tensor");
    EXPECT_NE(tensor.error().what.find(text.get<std::string>()), std::string::npos)
        << tensor.error().what;
  }
}

TEST(TorchFile, SaysThatAFileIsOfTorchBefore16) {
  const ExactBytes bytes(ReadBytes(TorchData("before_1_6.pt")));
  const auto file = TorchFile::Open(bytes.span(), "before_1_6.pt");
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().kind, ErrorKind::kUnsupported);
  EXPECT_NE(file.error().what.find("before 1.6"), std::string::npos);
}

// A real .metadata of Megatron, against the attributes that torch's own classes have after loading.
TEST(TorchDist, MetadataIsReadAsTorchsClassesHoldIt) {
  const ExactBytes bytes(ReadBytes(TorchData("dist/metadata.pkl")));
  const auto document =
      pickle::Document::Read(bytes.span(), ".metadata", {.allowed = pickle::TorchGlobals});
  ASSERT_TRUE(document) << document.error().what;
  const auto expected = ReadExpected(TorchData("dist/metadata.json"));
  const pickle::Value root = document->root();
  EXPECT_EQ(root.class_name(), "torch.distributed.checkpoint.metadata.Metadata");

  const auto integers = [](const pickle::Value& size) {
    nlohmann::json values = nlohmann::json::array();
    const pickle::Value tuple = size.is(pickle::Kind::kObject) ? size.arguments()[0] : size;
    for (size_t i = 0; i < tuple.size(); ++i) values.push_back(tuple[i].integer());
    return values;
  };
  nlohmann::json tensors = nlohmann::json::object(), others = nlohmann::json::array();
  const auto entries = root.Attribute("state_dict_metadata");
  ASSERT_TRUE(entries);
  for (size_t i = 0; i < entries->size(); ++i) {
    const auto [key, entry] = entries->entry(i);
    const auto chunks = entry.Attribute("chunks");
    if (!chunks) {
      others.push_back(key.text());
      continue;
    }
    nlohmann::json list = nlohmann::json::array();
    for (size_t c = 0; c < chunks->size(); ++c) {
      list.push_back({integers(*(*chunks)[c].Attribute("offsets")),
                      integers(*(*chunks)[c].Attribute("sizes"))});
    }
    const pickle::Value properties = *entry.Attribute("properties");
    tensors[std::string(key.text())] = {{"dtype", properties.state()[0].text()},
                                        {"size", integers(*entry.Attribute("size"))},
                                        {"chunks", list}};
  }
  EXPECT_EQ(tensors, expected["tensors"]);
  EXPECT_EQ(others, expected["others"]);

  nlohmann::json storage = nlohmann::json::array();
  const auto data = root.Attribute("storage_data");
  ASSERT_TRUE(data);
  for (size_t i = 0; i < data->size(); ++i) {
    const auto [index, info] = data->entry(i);
    const auto offset = index.Attribute("offset");  // left out when it is None
    storage.push_back(
        {index.Attribute("fqn")->text(),
         !offset || offset->is(pickle::Kind::kNone) ? nlohmann::json() : integers(*offset),
         info.Attribute("relative_path")->text(), info.Attribute("offset")->integer(),
         info.Attribute("length")->integer()});
  }
  EXPECT_EQ(storage, expected["storage"]);
}

TEST(TorchDist, EntriesOfADistcpAreTorchFilesOnTheirOwn) {
  const auto expected = ReadExpected(TorchData("dist/entries.json"));
  ASSERT_EQ(expected.size(), 6u);
  for (const auto& [name, want] : expected.items()) {
    SCOPED_TRACE(name);
    const ExactBytes bytes(ReadBytes(TorchData("dist/" + name)));
    const auto file = TorchFile::Open(bytes.span(), name);
    ASSERT_TRUE(file) << file.error().what;
    ASSERT_EQ(TorchFile::IsTensor(file->root()), !want["root"].is_null());
    if (want["root"].is_null()) continue;
    const auto tensor = file->Tensor(file->root());
    ASSERT_TRUE(tensor) << tensor.error().what;
    EXPECT_EQ(DescribeTensor(*tensor, bytes.span()), want["root"]);
  }
}

}  // namespace
}  // namespace weighbridge
