// Which stage holds which layer, against what the real Megatron-Core functions answered
// (tests/testdata/known/pipeline.json, written by tools/make_pipeline_answers.py).
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <climits>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "mapping/sharding.h"

namespace weighbridge {
namespace {

const nlohmann::json& Table() {
  static const nlohmann::json kTable = [] {
    std::ifstream file(std::string(WEIGHBRIDGE_SOURCE_DIR) + "/tests/testdata/known/pipeline.json");
    return nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  }();
  return kTable;
}

struct Case {
  ParallelGrid grid;
  int64_t layers = 0, mtp = 0;
};

Case ReadCase(const nlohmann::json& row) {
  Case c;
  c.layers = row[0];
  c.mtp = row[1];
  c.grid.pp = row[2];
  c.grid.vpp = row[3];
  if (!row[4].is_null()) c.grid.first_stage_layers = row[4];
  if (!row[5].is_null()) c.grid.last_stage_layers = row[5];
  c.grid.account_for_embedding = row[6];
  c.grid.account_for_loss = row[7];
  if (!row[8].is_null()) c.grid.pp_layout = row[8];
  return c;
}

TEST(Pipeline, TableOfRealAnswersIsThere) {
  ASSERT_TRUE(Table().is_object());
  EXPECT_GT(Table()["splits"].size(), 500u);
  EXPECT_GT(Table()["strings"].size(), 200u);
}

TEST(Pipeline, LayersStandWhereMegatronPutsThem) {
  int placed = 0;
  for (const auto& row : Table()["splits"]) {
    SCOPED_TRACE(row.dump());
    const Case c = ReadCase(row[0]);
    const auto stages = PlaceLayers(c.grid, c.layers, c.mtp);
    if (row[1].is_null()) {
      EXPECT_FALSE(stages) << "Megatron refuses it";
      if (!stages) {
        EXPECT_EQ(stages.error().kind, ErrorKind::kUsage);
        EXPECT_EQ(stages.error().id, "grid");
      }
      continue;
    }
    ASSERT_TRUE(stages) << stages.error().what;
    ASSERT_EQ(stages->size(), row[1].size());
    int64_t mtp = 0;
    for (size_t i = 0; i < stages->size(); ++i) {
      const Stage& stage = (*stages)[i];
      const auto& real = row[1][i];
      EXPECT_EQ(stage.vpp * c.grid.pp + stage.pp, static_cast<int>(i));
      std::vector<int64_t> decoder, heads;
      for (int64_t k = 0; k < real[0]; ++k) decoder.push_back(real[1].get<int64_t>() + k);
      for (int64_t k = 0; k < real[2]; ++k) heads.push_back(mtp++);
      EXPECT_EQ(stage.decoder_layers, decoder) << "stage " << i;
      EXPECT_EQ(stage.mtp_layers, heads) << "stage " << i;
      EXPECT_EQ(stage.has_final_norm, real[3].get<bool>()) << "stage " << i;
      EXPECT_EQ(stage.has_embedding, i == 0);
      EXPECT_EQ(stage.has_output, i + 1 == stages->size());
    }
    ++placed;
  }
  EXPECT_GT(placed, 150);
}

TEST(Pipeline, LayoutStringsAreReadAsMegatronReadsThem) {
  for (const auto& row : Table()["strings"]) {
    SCOPED_TRACE(row.dump());
    const auto stages = ParsePipelineLayout(row[0].get<std::string>());
    ASSERT_EQ(stages.has_value(), !row[1].is_null()) << (stages ? "" : stages.error().what);
    if (stages) {
      EXPECT_EQ(*stages, row[1].get<std::vector<std::string>>());
    }
  }
}

TEST(Pipeline, LayoutsThatWouldFillTheMemoryAreRefused) {
  for (const char* bomb : {"t*99999999999999999999", "(t*100000|)*100000", "E(tttttttttt)*1000000L",
                           "|*18446744073709551617", "(t)*4294967297"}) {
    const auto stages = ParsePipelineLayout(bomb);
    ASSERT_FALSE(stages) << bomb;
    EXPECT_EQ(stages.error().kind, ErrorKind::kUsage);
  }
  EXPECT_FALSE(ParsePipelineLayout(std::string(200000, 't')));
  EXPECT_FALSE(ParsePipelineLayout(std::string(60000, '(')));
}

TEST(Pipeline, SizesThatMakeNoGridAreUsageErrors) {
  const auto refused = [](ParallelGrid grid, int64_t layers) {
    const auto stages = PlaceLayers(grid, layers, 0);
    return !stages && stages.error().id == "grid";
  };
  for (int bad : {0, -1, INT_MIN}) {
    for (int ParallelGrid::*size : {&ParallelGrid::tp, &ParallelGrid::pp, &ParallelGrid::vpp,
                                    &ParallelGrid::ep, &ParallelGrid::etp}) {
      ParallelGrid grid;
      grid.*size = bad;
      EXPECT_TRUE(refused(grid, 4));
      grid.*size = INT_MAX;
      EXPECT_TRUE(refused(grid, 4));
    }
  }
  ParallelGrid grid;
  grid.pp = 2;
  grid.first_stage_layers = INT64_MAX;
  EXPECT_TRUE(refused(grid, 4));
  grid.last_stage_layers = INT64_MAX;
  EXPECT_TRUE(refused(grid, 4));
  EXPECT_TRUE(refused(grid, INT64_MAX - 1));
}

// Whatever the grid: all layers in rising order, one embedding, one output, one final norm.
RC_GTEST_PROP(Pipeline, EveryPlacementHoldsEachLayerOnce, ()) {
  ParallelGrid grid;
  grid.pp = *rc::gen::inRange(1, 6);
  grid.vpp = grid.pp == 1 ? 1 : *rc::gen::inRange(1, 4);
  int64_t layers = *rc::gen::inRange<int64_t>(3, 6) * grid.pp * grid.vpp;
  const auto mtp = *rc::gen::inRange<int64_t>(0, 3);
  if (*rc::gen::arbitrary<bool>()) {
    grid.account_for_embedding = *rc::gen::arbitrary<bool>();
    grid.account_for_loss = *rc::gen::arbitrary<bool>();
    layers -= (grid.account_for_embedding ? 1 : 0) + (grid.account_for_loss ? 1 : 0);
  }
  const auto stages = PlaceLayers(grid, layers, mtp);
  RC_ASSERT(stages.has_value());
  int64_t next = 0, next_mtp = 0;
  int embeddings = 0, outputs = 0, norms = 0;
  for (const Stage& stage : *stages) {
    for (int64_t layer : stage.decoder_layers) RC_ASSERT(layer == next++);
    for (int64_t layer : stage.mtp_layers) RC_ASSERT(layer == next_mtp++);
    embeddings += stage.has_embedding;
    outputs += stage.has_output;
    norms += stage.has_final_norm;
  }
  RC_ASSERT(next == layers);
  RC_ASSERT(next_mtp == mtp);
  RC_ASSERT(embeddings == 1 && outputs == 1 && norms == 1);
}

TEST(Pipeline, GridsAreWrittenWithTheVirtualStagesOnlyWhereThereAreSome) {
  ParallelGrid grid;
  EXPECT_EQ(ToString(grid), "TP 1 x PP 1 x EP 1 x ETP 1");
  grid.vpp = 2;
  grid.pp = 4;
  EXPECT_EQ(ToString(grid), "TP 1 x PP 4 x VPP 2 x EP 1 x ETP 1");
}

}  // namespace
}  // namespace weighbridge
