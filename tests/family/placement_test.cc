// Which rank holds what: experts over EP and ETP, the copy of a tied embedding, MTP, virtual
// stages.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include "base/json.h"
#include "family/shards.h"
#include "sample_family.h"

namespace weighbridge {
namespace {

using nlohmann::json;

const FamilyLibrary& Library() {
  static const FamilyLibrary kLibrary = FamilyLibrary::BuiltIn();
  return kLibrary;
}

// The model of tests/testdata/family_configs/known_NAME.json with changes; it is never freed, as
// placements refer to it.
const Model& Known(const std::string& name, const json& changes = json::object()) {
  json config = *ReadJsonFile(std::string(WEIGHBRIDGE_SOURCE_DIR) +
                              "/tests/testdata/family_configs/known_" + name + ".json");
  config.update(changes);
  auto model = Model::Expand(**Library().ForConfig(config), config, {});
  EXPECT_TRUE(model) << model.error().what;
  static std::vector<std::unique_ptr<Model>> models;
  models.push_back(std::make_unique<Model>(*std::move(model)));
  return *models.back();
}

// The family's model for `toy`; never freed either.
const Model& Small(const FamilySpec& spec) {
  auto model = Model::Expand(spec, spec.toy, {});
  EXPECT_TRUE(model) << spec.name << ": " << model.error().what;
  static std::vector<std::unique_ptr<Model>> models;
  models.push_back(std::make_unique<Model>(*std::move(model)));
  return *models.back();
}

Placement Placed(const Model& model, const ParallelGrid& grid) {
  auto placement = Placement::Create(model, grid);
  EXPECT_TRUE(placement) << placement.error().what;
  return *std::move(placement);
}

ParallelGrid Grid(int tp, int pp, int vpp, int ep, int etp) {
  ParallelGrid grid;
  grid.tp = tp;
  grid.pp = pp;
  grid.vpp = vpp;
  grid.ep = ep;
  grid.etp = etp;
  return grid;
}

std::set<std::string> NamesOf(const Placement& placement, int pp, int vpp, int ep) {
  std::set<std::string> names;
  for (const PlacedParameter& p : placement.parameters()) {
    if (p.pp == pp && p.vpp == vpp && (!p.parameter->is_expert() || p.ep == ep)) {
      EXPECT_TRUE(names.insert(placement.RankName(p, Dialect::kTe)).second) << "twice on one rank";
    }
  }
  return names;
}

TEST(Placement, OneRankHoldsEverythingUnderItsGlobalNames) {
  for (const char* name : {"llama", "qwen3_moe", "deepseek_v3", "gemma2"}) {
    const Model& model = Known(name);
    const Placement placement = Placed(model, Grid(1, 1, 1, 1, 1));
    ASSERT_EQ(placement.parameters().size(), model.parameters().size());
    for (const PlacedParameter& p : placement.parameters()) {
      EXPECT_EQ(placement.RankName(p, Dialect::kTe),
                model.MegatronName(*p.parameter, Dialect::kTe));
      EXPECT_FALSE(p.is_copy());
    }
    EXPECT_EQ(placement.WorldSize(), 1);
    EXPECT_EQ(placement.ShardCount(), static_cast<int64_t>(model.parameters().size()));
  }
}

TEST(Placement, ExpertsStandInBlocksOverTheExpertRanks) {
  const Model& model = Known("qwen3_moe");
  const int64_t experts = model.dims().at("experts");
  ASSERT_EQ(experts % 4, 0);
  const Placement placement = Placed(model, Grid(1, 1, 1, 4, 1));
  std::map<int, int> per_rank;
  for (const PlacedParameter& p : placement.parameters()) {
    if (!p.parameter->is_expert()) continue;
    EXPECT_EQ(p.ep * (experts / 4) + p.local_expert, p.parameter->expert);
    EXPECT_LT(p.local_expert, experts / 4);
    ++per_rank[p.ep];
  }
  EXPECT_EQ(per_rank.size(), 4u);
  // Every expert rank has the same names.
  for (int ep = 1; ep < 4; ++ep)
    EXPECT_EQ(NamesOf(placement, 0, 0, ep), NamesOf(placement, 0, 0, 0));
}

TEST(Placement, ExpertsThatDoNotDivideAreAUsageError) {
  for (const auto& [name, ep] :
       {std::pair{"qwen3_moe", 3}, {"qwen3_moe", 1024}, {"deepseek_v3", 7}}) {
    const auto placement = Placement::Create(Known(name), Grid(1, 1, 1, ep, 1));
    ASSERT_FALSE(placement) << name;
    EXPECT_EQ(placement.error().kind, ErrorKind::kUsage);
    EXPECT_EQ(placement.error().id, "grid");
  }
  // megatron-core: "num_moe_experts must be non None to use expert-parallel."
  EXPECT_FALSE(Placement::Create(Known("llama"), Grid(1, 1, 1, 3, 1)));
}

TEST(Placement, ModelWhoseLayersAllStandOnTheFirstStageHasNoOther) {
  const FamilySpec& flux = **Library().Find("flux");
  const auto placement = Placement::Create(Small(flux), Grid(1, 2, 1, 1, 1));
  ASSERT_FALSE(placement);
  EXPECT_EQ(placement.error().kind, ErrorKind::kUsage);
  EXPECT_THAT(placement.error().what, testing::HasSubstr("Flux has no pipeline stages"));
  EXPECT_EQ(Placed(Small(flux), Grid(2, 1, 1, 1, 1)).WorldSize(), 2);
  // The tower stands on the first stage, the layers on both.
  EXPECT_TRUE(Placement::Create(Small(**Library().Find("qwen3_vl")), Grid(1, 2, 1, 1, 1)));
}

TEST(Placement, GroupOfExpertsIsEtpOfOthersTp) {
  const Model& model = Known("qwen3_moe");
  const Placement placement = Placed(model, Grid(4, 1, 1, 2, 2));
  int64_t shards = 0;
  for (const PlacedParameter& p : placement.parameters()) {
    EXPECT_EQ(placement.GroupSize(*p.parameter), p.parameter->is_expert() ? 2 : 4);
    shards += p.parameter->is_expert() ? 2 : 4;
  }
  EXPECT_EQ(placement.ShardCount(), shards);
}

TEST(Placement, WorldIsTheSmallestThatHoldsBothGroups) {
  // Heads and groups that every TP below divides.
  const Model& model =
      Known("qwen3_moe", {{"num_attention_heads", 12}, {"num_key_value_heads", 12}});
  const auto world = [&](int tp, int pp, int ep, int etp) {
    return Placed(model, Grid(tp, pp, 1, ep, etp)).WorldSize();
  };
  EXPECT_EQ(world(1, 1, 1, 1), 1);
  EXPECT_EQ(world(4, 1, 1, 1), 4);
  EXPECT_EQ(world(1, 1, 4, 1), 4);
  EXPECT_EQ(world(2, 1, 2, 1), 2);
  EXPECT_EQ(world(2, 2, 4, 2), 16);
  EXPECT_EQ(world(6, 1, 4, 1), 12);
}

TEST(Placement, TiedEmbeddingHasACopyOnTheLastOfSeveralStages) {
  const Model& tied = Known("llama", {{"tie_word_embeddings", true}, {"num_hidden_layers", 4}});
  EXPECT_TRUE(tied.tied());
  for (int pp : {1, 2, 4}) {
    const Placement placement = Placed(tied, Grid(1, pp, 1, 1, 1));
    int copies = 0;
    for (const PlacedParameter& p : placement.parameters()) {
      if (!p.is_copy()) continue;
      ++copies;
      EXPECT_EQ(p.pp, pp - 1);
      EXPECT_EQ(placement.RankName(p, Dialect::kTe), "output_layer.weight");
      EXPECT_EQ(p.parameter->hf, std::vector<std::string>{"model.embed_tokens.weight"});
    }
    EXPECT_EQ(copies, pp > 1 ? 1 : 0);
  }
  const Model& untied = Known("llama", {{"tie_word_embeddings", false}, {"num_hidden_layers", 4}});
  const Placement placement = Placed(untied, Grid(1, 2, 1, 1, 1));
  for (const PlacedParameter& p : placement.parameters()) EXPECT_FALSE(p.is_copy());
}

TEST(Placement, StagesCountTheirLayersFromZero) {
  const Model& model = Known("llama", {{"num_hidden_layers", 8}});
  const Placement placement = Placed(model, Grid(1, 2, 2, 1, 1));
  // Megatron's own example: stage 0 holds [0, 1] [4, 5], stage 1 holds [2, 3] [6, 7].
  std::map<std::pair<int, int>, std::set<std::pair<int64_t, int64_t>>> layers;
  for (const PlacedParameter& p : placement.parameters()) {
    if (p.parameter->place == Place::kDecoder)
      layers[{p.pp, p.vpp}].insert({p.local_layer, p.parameter->layer});
  }
  using Pairs = std::set<std::pair<int64_t, int64_t>>;
  EXPECT_EQ((layers[{0, 0}]), (Pairs{{0, 0}, {1, 1}}));
  EXPECT_EQ((layers[{1, 0}]), (Pairs{{0, 2}, {1, 3}}));
  EXPECT_EQ((layers[{0, 1}]), (Pairs{{0, 4}, {1, 5}}));
  EXPECT_EQ((layers[{1, 1}]), (Pairs{{0, 6}, {1, 7}}));
  const auto has = [&](int pp, int vpp, const char* name) {
    return NamesOf(placement, pp, vpp, 0).contains(name);
  };
  EXPECT_TRUE(has(0, 0, "embedding.word_embeddings.weight"));
  EXPECT_TRUE(has(1, 1, "decoder.final_layernorm.weight"));
  EXPECT_FALSE(has(1, 0, "decoder.final_layernorm.weight"));
  EXPECT_TRUE(has(1, 1, "decoder.layers.1.mlp.linear_fc2.weight"));
}

TEST(Placement, MtpStandsOnTheLastStageAndTheFinalNormWithTheLastLayer) {
  const Model& model =
      Known("deepseek_v3", {{"num_hidden_layers", 4}, {"num_nextn_predict_layers", 1}});
  ASSERT_EQ(model.mtp_layers(), 1);
  const auto where = [&](const Placement& placement, Place place) {
    std::set<int> stages;
    for (const PlacedParameter& p : placement.parameters()) {
      if (p.parameter->place == place && !p.is_copy()) stages.insert(p.pp);
    }
    return stages;
  };
  const Placement even = Placed(model, Grid(1, 2, 1, 1, 1));
  EXPECT_EQ(where(even, Place::kMtp), std::set<int>{1});
  EXPECT_EQ(where(even, Place::kFinalNorm), std::set<int>{1});
  ParallelGrid grid = Grid(1, 4, 1, 1, 1);
  grid.pp_layout = "Ett|tt|m|L";
  const Placement alone = Placed(model, grid);
  EXPECT_EQ(where(alone, Place::kMtp), std::set<int>{2});
  EXPECT_EQ(where(alone, Place::kFinalNorm), std::set<int>{1});
  EXPECT_EQ(where(alone, Place::kOutput), std::set<int>{3});
  for (const PlacedParameter& p : alone.parameters()) {
    if (p.parameter->place == Place::kMtp) {
      EXPECT_EQ(p.local_layer, 0);
    }
  }
}

// -- names and shapes of every rank of the real library (testdata/known/MODEL/GRID.json) --

using Tensors = std::multiset<std::string>;

ParallelGrid ReadGrid(const json& grid) {
  ParallelGrid out = Grid(grid["tp"], grid["pp"], grid["vpp"], grid["ep"], grid["etp"]);
  if (!grid["first_stage_layers"].is_null()) out.first_stage_layers = grid["first_stage_layers"];
  if (!grid["last_stage_layers"].is_null()) out.last_stage_layers = grid["last_stage_layers"];
  if (!grid["pp_layout"].is_null()) out.pp_layout = grid["pp_layout"];
  out.account_for_embedding = grid.value("account_for_embedding", false);
  out.account_for_loss = grid.value("account_for_loss", false);
  return out;
}

std::string RankOf(const json& rank) {
  return fmt::format("pp {} vpp {} ep {}", rank["pp"].get<int>(), rank["vpp"].get<int>(),
                     rank["ep"].get<int>());
}

// What each rank of the first tensor-parallel row holds, by our placement.
std::map<std::string, Tensors> Ours(const Placement& placement, Dialect dialect,
                                    const std::set<std::string>& ranks) {
  std::map<std::string, Tensors> out;
  for (const PlacedParameter& p : placement.parameters()) {
    const Parameter& parameter = *p.parameter;
    const int size = placement.GroupSize(parameter);
    EXPECT_TRUE(CheckCut(parameter.shape, parameter.cut, size));
    const std::string line = fmt::format("{} {}", placement.RankName(p, dialect),
                                         ToString(CutShape(parameter.shape, parameter.cut, size)));
    for (int ep = 0; ep < placement.grid().ep; ++ep) {
      const std::string rank = fmt::format("pp {} vpp {} ep {}", p.pp, p.vpp, ep);
      if (ranks.contains(rank) && (!parameter.is_expert() || p.ep == ep)) out[rank].insert(line);
    }
  }
  return out;
}

TEST(Placement, RanksHoldTheNamesAndShapesOfTheRealLibrary) {
  const std::string data = std::string(WEIGHBRIDGE_SOURCE_DIR) + "/tests/testdata/";
  int compared = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(data + "known")) {
    const std::string name = entry.path().parent_path().filename().string();
    if (entry.path().extension() != ".json" || name == "names" || name == "known") continue;
    const json truth = *ReadJsonFile(entry.path());
    if (!truth.contains("grid") || !truth.contains("spec") || !truth["tensors"].is_array())
      continue;
    if (entry.path().stem() == "torch_dist") continue;
    SCOPED_TRACE(name + "/" + entry.path().filename().string());
    const ParallelGrid grid = ReadGrid(truth["grid"]);
    const json config = *ReadJsonFile(data + "hf/" + name + "/config.json");
    ExpandOptions options;
    options.tp = grid.tp;
    // What `should_pad_vocab` asked for is in no field of the grid.
    for (const auto& t : truth["tensors"]) {
      if (t["global_name"] == "embedding.word_embeddings.weight") {
        options.pad_vocab = t["shape"][0].get<int64_t>() * grid.tp;
      }
    }
    const auto model = Model::Expand(**Library().ForConfig(config), config, options);
    ASSERT_TRUE(model) << model.error().what;
    const Placement placement = Placed(*model, grid);
    std::map<std::string, Tensors> real;
    std::set<std::string> ranks;
    // One row of ranks: the lowest tp and etp that has each pp, vpp and ep.
    std::map<std::string, json> row;
    for (const auto& t : truth["tensors"]) row.emplace(RankOf(t["rank"]), t["rank"]);
    for (const auto& t : truth["tensors"]) {
      if (row.at(RankOf(t["rank"])) != t["rank"]) continue;
      ranks.insert(RankOf(t["rank"]));
      real[RankOf(t["rank"])].insert(
          fmt::format("{} {}", t["name"].get<std::string>(), ToString(t["shape"].get<Shape>())));
    }
    EXPECT_EQ(Ours(placement, truth["spec"] == "te" ? Dialect::kTe : Dialect::kLocal, ranks), real);
    ++compared;
  }
  EXPECT_GE(compared, 60);
}

// Every known model on every small grid: each parameter is placed once, or the grid is refused.
TEST(Placement, EveryParameterStandsSomewhereOnEveryGridThatFits) {
  int placed = 0, refused = 0;
  for (const auto& [name, spec] : **Library().All()) {
    const Model& model = Small(spec);
    for (int pp : {1, 2, 3, 4}) {
      for (int vpp : {1, 2}) {
        for (int ep : {1, 2, 5}) {
          const auto placement = Placement::Create(model, Grid(1, pp, vpp, ep, 1));
          if (!placement) {
            EXPECT_EQ(placement.error().id, "grid");
            ++refused;
            continue;
          }
          std::set<const Parameter*> seen;
          for (const PlacedParameter& p : placement->parameters()) {
            if (p.is_copy()) continue;
            EXPECT_TRUE(seen.insert(p.parameter).second);
            EXPECT_LT(p.pp, pp);
            EXPECT_LT(p.vpp, vpp);
            EXPECT_LT(p.ep, ep);
          }
          EXPECT_EQ(seen.size(), model.parameters().size());
          ++placed;
        }
      }
    }
  }
  EXPECT_GT(placed, 14);
  EXPECT_GT(refused, 14);
}

}  // namespace
}  // namespace weighbridge
