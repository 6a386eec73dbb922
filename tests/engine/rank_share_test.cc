// Which rank of a grid holds what of a stage.
#include "engine/rank_share.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "engine/team_run.h"
#include "family/library.h"
#include "family/model.h"

namespace weighbridge {
namespace {

ParallelGrid Grid(int tp, int pp, int ep, int etp) {
  ParallelGrid grid;
  grid.tp = tp;
  grid.pp = pp;
  grid.ep = ep;
  grid.etp = etp;
  return grid;
}

Result<Model> ToyModel(const std::string& family) {
  static const FamilyLibrary kLibrary = FamilyLibrary::BuiltIn();
  WB_TRY(const FamilySpec* spec, kLibrary.Find(family));
  nlohmann::json config = spec->toy;
  config["architectures"] = spec->hf_architectures;
  return Model::Expand(*spec, config, {});
}

// parallel_state.py: "tp-cp-ep-dp-pp" for everything but experts, whose ETP ranks run fastest.
TEST(RankShare, NumbersRanksAsMegatronDoes) {
  const ParallelGrid grid = Grid(2, 2, 2, 2);
  ASSERT_EQ(TeamSize(grid), 8);
  EXPECT_EQ(RankOf(grid, 0), (RankId{0, 0, 0, 0, 0}));
  EXPECT_EQ(RankOf(grid, 1), (RankId{1, 0, 0, 0, 1}));
  EXPECT_EQ(RankOf(grid, 2), (RankId{0, 0, 0, 1, 0}));
  EXPECT_EQ(RankOf(grid, 7), (RankId{1, 1, 0, 1, 1}));
}

TEST(RankShare, TheSmallestLaunchHasEveryGroup) {
  EXPECT_EQ(TeamSize(Grid(1, 1, 1, 1)), 1);
  EXPECT_EQ(TeamSize(Grid(2, 1, 2, 1)), 2);  // the tensor-parallel ranks hold different experts
  EXPECT_EQ(TeamSize(Grid(4, 2, 3, 2)), 24);
}

TEST(RankShare, ARankIsCalledByTheAxesThatTheGridHas) {
  EXPECT_EQ(Describe(RankId{1, 0, 0, 3, 0}, Grid(2, 1, 1, 1)), "tp 1");
  EXPECT_EQ(Describe(RankId{1, 1, 0, 3, 0}, Grid(2, 2, 4, 1)), "tp 1, pp 1, ep 3");
}

TEST(RankShare, StagesLieWhereThePlacementPutsThem) {
  const auto model = ToyModel("llama");
  ASSERT_TRUE(model);
  ParallelGrid grid = Grid(1, 2, 1, 1);
  grid.first_stage_layers = 1;
  const auto placement = Placement::Create(*model, grid);
  ASSERT_TRUE(placement) << placement.error().what;
  EXPECT_EQ(PipelineRankOf(*placement, {StageKind::kEmbedding}), 0);
  EXPECT_EQ(PipelineRankOf(*placement, {StageKind::kLayer, 0}), 0);
  EXPECT_EQ(PipelineRankOf(*placement, {StageKind::kLayer, 1}), 1);
  EXPECT_EQ(PipelineRankOf(*placement, {StageKind::kOutput}), 1);
}

TEST(RankShare, CutsAreThoseOfTheFamilyByRole) {
  const auto model = ToyModel("qwen3_moe");
  ASSERT_TRUE(model);
  for (int64_t layer = 0; layer < model->layers(); ++layer) {
    const nlohmann::json cuts = CutsOf(*model, {StageKind::kLayer, layer});
    EXPECT_EQ(cuts.at("self_attention.linear_qkv.weight"), 0);
    EXPECT_EQ(cuts.at("self_attention.linear_proj.weight"), 1);
    EXPECT_FALSE(cuts.contains("self_attention.q_layernorm.weight"));
    EXPECT_FALSE(cuts.contains("mlp.router.weight"));
    EXPECT_FALSE(cuts.contains("mlp.experts.linear_fc1.weight0")) << "ETP cuts it, not TP";
  }
}

}  // namespace
}  // namespace weighbridge
