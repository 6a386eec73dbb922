// Megatron's legacy `torch` format and Megatron-FSDP's names, on files that Megatron wrote.
#include <gtest/gtest.h>

#include <filesystem>

#include "formats/torch_dist/fsdp_names.h"
#include "formats/torch_legacy/rank_folders.h"
#include "formats/torch_legacy/reader.h"
#include "support/temp_dir.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

fs::path Saved(const std::string& pair) {
  return fs::path(WEIGHBRIDGE_SOURCE_DIR) / "tests/testdata/megatron_legacy" / pair /
         "iter_0000003";
}

std::string ReadAll(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

TEST(RankFolders, OnlyMegatronsOwnNamesAreRanks) {
  EXPECT_EQ(ParseRankFolder("mp_rank_00").numbers, (std::vector<int>{0}));
  EXPECT_EQ(ParseRankFolder("mp_rank_13_002").numbers, (std::vector<int>{13, 2}));
  EXPECT_EQ(ParseRankFolder("mp_rank_01_000_127").numbers, (std::vector<int>{1, 0, 127}));
  for (const char* name :
       {"mp_rank_", "mp_rank_x", "mp_rank_0_", "mp_rank_00_000_000_000", "rank_00",
        "mp_rank_99999999999999999999", "mp_rank_-1", "mp_rank_00__000"}) {
    EXPECT_TRUE(ParseRankFolder(name).numbers.empty()) << name;
  }
}

TEST(RankFolders, NamesAreThoseOfGetCheckpointName) {
  EXPECT_EQ(RankFolderName(3, 0, 0, 1, 1), "mp_rank_03");
  EXPECT_EQ(RankFolderName(3, 2, 0, 4, 1), "mp_rank_03_002");
  EXPECT_EQ(RankFolderName(3, 0, 2, 1, 4), "mp_rank_03_002");
  EXPECT_EQ(RankFolderName(3, 1, 2, 4, 4), "mp_rank_03_001_002");
}

TEST(TorchLegacyReader, ReadsGridAndRanksOfWhatMegatronSaved) {
  const auto checkpoint = TorchLegacyCheckpoint::Open(Saved("qwen3_moe/tp2_ep2_etp2"));
  ASSERT_TRUE(checkpoint) << checkpoint.error().what;
  const TorchLegacyCheckpoint& c = **checkpoint;
  EXPECT_EQ(c.tp(), 2);
  EXPECT_EQ(c.pp(), 1);
  EXPECT_EQ(c.ep(), 2);
  EXPECT_EQ(c.etp(), 2);
  ASSERT_EQ(c.ranks().size(), 4u);
  EXPECT_EQ(c.ranks()[3].folder, "mp_rank_01_001");
  EXPECT_EQ(c.ranks()[3].ep, 1);
  const RankTensor* router = c.ranks()[3].Find(0, "decoder.layers.1.mlp.router.weight");
  ASSERT_NE(router, nullptr);
  EXPECT_EQ(router->shape, (Shape{4, 64}));
  const auto place = c.PlaceOf({3, router->offset, router->nbytes});
  ASSERT_TRUE(place);
  EXPECT_EQ(place->name, router->name);
  EXPECT_EQ(place->etp, 1);
}

TEST(TorchLegacyReader, VirtualStagesArePartsOfARank) {
  const auto checkpoint = TorchLegacyCheckpoint::Open(Saved("llama_untied/pp2_vpp2"));
  ASSERT_TRUE(checkpoint) << checkpoint.error().what;
  EXPECT_EQ((*checkpoint)->vpp(), 2);
  EXPECT_EQ((*checkpoint)->pp(), 2);
  const RankFile& last = (*checkpoint)->ranks()[1];
  EXPECT_EQ(last.Find(0, "output_layer.weight"), nullptr);
  EXPECT_NE(last.Find(1, "output_layer.weight"), nullptr);
}

// Reading never crashes or hangs; most of these are refused, and a changed byte of a tensor is not
// the reader's to find.
TEST(TorchLegacyReader, BrokenBytesAreErrorsOrOtherValues) {
  const testing::TempDir folder;
  const std::string good = ReadAll(Saved("gemma2/tp2") / "mp_rank_00" / kRankFileName);
  const fs::path file = folder.path() / "mp_rank_00" / kRankFileName;
  fs::create_directories(file.parent_path());
  ASSERT_GT(good.size(), 100000u);
  size_t refused = 0, cases = 0;
  for (size_t at = 0; at < 40000; at += 37, ++cases) {  // the pickle stands first
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ (1 << (at % 8)));
    testing::WriteBytes(file, bad);
    refused += TorchLegacyCheckpoint::Open(folder.path()) ? 0 : 1;
  }
  EXPECT_EQ(refused, cases);  // the file says TP 2 and the checksum of its pickle
  for (size_t keep = 0; keep < good.size(); keep += 4001) {
    testing::WriteBytes(file, good.substr(0, keep));
    EXPECT_FALSE(TorchLegacyCheckpoint::Open(folder.path()));
  }
}

DistTensor Tensor(std::string key, Shape shape) {
  return {std::move(key), DType::kBF16, shape, {{Shape(shape.size(), 0), shape, {}}}};
}

TEST(FsdpNames, PrefixesGoAndHalvesAreJoinedInOrder) {
  DistMetadata metadata;
  metadata.tensors = {Tensor("model.module.a.linear_fc1.weight3_v", {6, 4}),
                      Tensor("model.module.a.linear_fc1.weight3_w", {6, 4}),
                      Tensor("model.module.a.linear_fc2.weight", {4, 6}),
                      Tensor("optimizer.state.x", {4})};
  ASSERT_TRUE(TakeFsdpNames(metadata));
  ASSERT_EQ(metadata.tensors.size(), 3u);
  const DistTensor& fc1 = metadata.tensors[0];
  EXPECT_EQ(fc1.key, "a.linear_fc1.weight3");
  EXPECT_EQ(fc1.shape, (Shape{12, 4}));
  ASSERT_EQ(fc1.chunks.size(), 2u);
  EXPECT_EQ(fc1.chunks[1].offsets, (Shape{6, 0}));
  EXPECT_EQ(metadata.tensors[1].key, "a.linear_fc2.weight");
  EXPECT_EQ(metadata.tensors[2].key, "optimizer.state.x");
}

TEST(FsdpNames, OtherCheckpointsStayAsTheyAre) {
  DistMetadata metadata;
  metadata.tensors = {Tensor("embedding.weight", {4}), Tensor("model.module.x_w", {4})};
  EXPECT_FALSE(TakeFsdpNames(metadata));
  EXPECT_EQ(metadata.tensors[1].key, "model.module.x_w");
  metadata.tensors = {Tensor("optimizer.x", {4})};
  EXPECT_FALSE(TakeFsdpNames(metadata));
  metadata.tensors = {Tensor("model.module.x_v", {2, 3}), Tensor("model.module.x_w", {2, 4})};
  EXPECT_TRUE(TakeFsdpNames(metadata));
  EXPECT_EQ(metadata.tensors.size(), 2u);  // halves of different widths are no halves
}

}  // namespace
}  // namespace weighbridge
