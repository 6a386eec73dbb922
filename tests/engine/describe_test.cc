// What the engine is told of a model: numbers of either side, and tensors by their role.
#include "engine/describe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "family/effects/effects.h"
#include "family/library.h"
#include "family/model.h"

namespace weighbridge {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

Result<Model> ToyModel(const std::string& family, const json& changes = json::object()) {
  static const FamilyLibrary kLibrary = FamilyLibrary::BuiltIn();
  WB_TRY(const FamilySpec* spec, kLibrary.Find(family));
  json config = spec->toy;
  config["architectures"] = spec->hf_architectures;
  for (const auto& [key, value] : changes.items()) config[key] = value;
  return Model::Expand(*spec, config, {});
}

std::vector<HfUse> LayerOf(const Model& model, json& spec, int64_t layer = 0) {
  auto uses = HfTensorsOf(model, {StageKind::kLayer, layer}, spec);
  EXPECT_TRUE(uses) << uses.error().what;
  return uses ? *uses : std::vector<HfUse>();
}

TEST(EngineDescription, NamesTheTensorsOfALayerAsTransformersUsesThem) {
  const auto model = ToyModel("llama");
  json spec;
  const std::vector<HfUse> uses = LayerOf(*model, spec, 1);
  EXPECT_EQ(uses.size(), 9u);
  for (const auto& [role, tensor] :
       {std::pair("k_proj.weight", "model.layers.1.self_attn.k_proj.weight"),
        std::pair("pre_mlp_norm.weight", "model.layers.1.post_attention_layernorm.weight"),
        std::pair("up_proj.weight", "model.layers.1.mlp.up_proj.weight")}) {
    EXPECT_THAT(uses, Contains(Field(&HfUse::tensor, tensor))) << role;
  }
}

// A text model inside a thinker, one inside a vision model, and one that is the whole.
TEST(EngineDescription, FindsATextModelWhereverItsNamesAreInAnother) {
  for (const auto& [family, embedding] :
       {std::pair("qwen3_omni_moe", "thinker.model.embed_tokens.weight"),
        std::pair("qwen3_asr", "thinker.model.embed_tokens.weight"),
        std::pair("qwen3_vl", "model.language_model.embed_tokens.weight"),
        std::pair("qwen3_moe", "model.embed_tokens.weight")}) {
    const auto model = ToyModel(family);
    ASSERT_TRUE(model) << family;
    json spec;
    const auto uses = HfTensorsOf(*model, {StageKind::kEmbedding}, spec);
    ASSERT_TRUE(uses) << family;
    EXPECT_THAT(*uses, ElementsAre(AllOf(Field(&HfUse::role, "embed_tokens.weight"),
                                         Field(&HfUse::tensor, embedding))));
    std::vector<std::string> roles;
    for (const MegatronUse& use : MegatronTensorsOf(*model, {StageKind::kOutput})) {
      roles.push_back(use.role);
    }
    EXPECT_THAT(roles,
                UnorderedElementsAre("decoder.final_layernorm.weight", "output_layer.weight"))
        << family;
  }
}

TEST(EngineDescription, CallsTheNormsOfLatentsAlikeWhetherTheyAreFusedOrNot) {
  for (const char* family : {"deepseek_v3", "glm_moe_dsa"}) {
    const auto model = ToyModel(family);
    ASSERT_TRUE(model) << family;
    json spec;
    const std::vector<HfUse> uses = LayerOf(*model, spec, 1);
    EXPECT_THAT(uses, Contains(Field(&HfUse::role, "q_a_layernorm.weight"))) << family;
    EXPECT_THAT(uses, Not(Contains(Field(&HfUse::role, "q_norm.weight")))) << family;
    EXPECT_THAT(
        MegatronTensorsOf(*model, {StageKind::kLayer, 1}),
        Contains(Field(&MegatronUse::role, "self_attention.linear_kv_up_proj.layer_norm_weight")))
        << family;
  }
}

TEST(EngineDescription, LeavesIndexersOutAndRunsNoMoreTokensThanTheyChooseKeys) {
  const auto chooses = ToyModel("glm_moe_dsa", {{"index_topk", 24}}), dense = ToyModel("llama");
  EXPECT_TRUE(HasIndexers(*chooses));
  EXPECT_FALSE(HasIndexers(*dense));
  for (const MegatronUse& use : MegatronTensorsOf(*chooses, {StageKind::kLayer, 1})) {
    EXPECT_THAT(use.role, Not(HasSubstr("indexer")));
  }
  EXPECT_EQ(LongestKnown(*HfSide(*chooses)).value(), 24);
  EXPECT_EQ(LongestKnown(*HfSide(*dense)).value(), std::nullopt);
}

TEST(EngineDescription, RefusesANumberOfTokensThatIsNoWholeNumberFromOneOn) {
  for (const auto& [family, key] :
       {std::pair("glm_moe_dsa", "index_topk"), std::pair("llama4_text", "attention_chunk_size")}) {
    for (const json& value : {json("16"), json(16.0), json(true), json::array({16}), json(1e30),
                              json(0), json(-1), json(std::numeric_limits<int64_t>::min())}) {
      const auto model = ToyModel(family, {{key, value}});
      ASSERT_TRUE(model) << family << value;
      const auto longest = LongestKnown(*HfSide(*model));
      ASSERT_FALSE(longest) << family << value;
      EXPECT_EQ(longest.error().id, "config-unsupported");
      EXPECT_THAT(longest.error().what, AllOf(HasSubstr(key), HasSubstr(value.dump())));
      EXPECT_EQ(longest.error().hint, "");
    }
  }
}

TEST(EngineDescription, TakesANumberOfTokensThatIsTooLargeToHoldForTheLargest) {
  for (const uint64_t value : {uint64_t{1} << 63, std::numeric_limits<uint64_t>::max()}) {
    const auto model = ToyModel("glm_moe_dsa", {{"index_topk", value}});
    ASSERT_TRUE(model);
    EXPECT_EQ(LongestKnown(*HfSide(*model)).value(), std::numeric_limits<int64_t>::max());
  }
}

TEST(EngineDescription, RefusesAModelThatComputesOtherwiseFromTheFirstPositionOn) {
  EXPECT_EQ(LongestKnown(*HfSide(*ToyModel("llama4_text", {{"floor_scale", 2}}))).value(), 1);
  const auto longest = LongestKnown(*HfSide(*ToyModel("llama4_text", {{"floor_scale", 1}})));
  ASSERT_FALSE(longest);
  EXPECT_EQ(longest.error().id, "engine-unsupported");
  EXPECT_EQ(longest.error().hint, "");
}

// Wherever the names put them: beside a thinker's text model, beside a language_model.
TEST(EngineDescription, CountsThePartsThatNoTextReaches) {
  for (const auto& [family, parts] :
       {std::pair("qwen3_asr", std::set<std::string>{"audio_model"}),
        std::pair("qwen3_omni_moe", std::set<std::string>{"audio_model", "visual"}),
        std::pair("minimax_m3", std::set<std::string>{"multi_modal_projector", "patch_merge_mlp",
                                                      "vision_tower"})}) {
    const auto model = ToyModel(family);
    ASSERT_TRUE(model) << family;
    const OtherParts found = OtherPartsOf(*model);
    EXPECT_EQ(found.names, parts) << family;
    std::set<const Parameter*> run;
    for (int64_t layer = 0; layer < model->layers(); ++layer) {
      for (const MegatronUse& use : MegatronTensorsOf(*model, {StageKind::kLayer, layer})) {
        run.insert(use.parameter);
      }
    }
    for (const StageKind kind : {StageKind::kEmbedding, StageKind::kOutput}) {
      for (const MegatronUse& use : MegatronTensorsOf(*model, {kind})) run.insert(use.parameter);
    }
    const int64_t indexers = std::count_if(
        model->parameters().begin(), model->parameters().end(), [](const Parameter& p) {
          return p.stack != nullptr && p.stack->megatron.find("indexers.") != std::string::npos;
        });
    EXPECT_EQ(found.tensors,
              static_cast<int64_t>(model->parameters().size() - run.size()) - indexers)
        << family;
  }
  // All of these runs, or is told by itself.
  for (const char* family : {"llama", "qwen3_moe", "deepseek_v3", "glm_moe_dsa", "falcon_h1",
                             "gpt_oss", "nemotron_h", "qwen3_next"}) {
    EXPECT_EQ(OtherPartsOf(*ToyModel(family)).tensors, 0) << family;
  }
}

TEST(EngineDescription, GivesBothSidesOfATiedModelTheEmbeddingAsTheirHead) {
  const auto model = ToyModel("llama", {{"tie_word_embeddings", true}});
  json spec;
  const auto uses = HfTensorsOf(*model, {StageKind::kOutput}, spec);
  ASSERT_TRUE(uses);
  EXPECT_THAT(*uses, Contains(Field(&HfUse::tensor, "model.embed_tokens.weight")));
  const auto megatron = MegatronTensorsOf(*model, {StageKind::kOutput});
  EXPECT_THAT(megatron, Contains(Field(&MegatronUse::role, "output_layer.weight")));
}

TEST(EngineDescription, SaysHowStackedExpertsStandInTheirTensor) {
  const auto model = ToyModel("gpt_oss");
  json spec;
  const std::vector<HfUse> uses = LayerOf(*model, spec);
  EXPECT_EQ(spec, (json{{"experts_transposed", true}, {"experts_interleaved", true}}));
  EXPECT_THAT(uses, Contains(Field(&HfUse::role, "experts.gate_up_proj")));
  EXPECT_THAT(uses, Not(Contains(Field(&HfUse::role, HasSubstr("experts.0.")))));
  const auto megatron = MegatronTensorsOf(*model, {StageKind::kLayer, 0});
  EXPECT_THAT(megatron, Contains(Field(&MegatronUse::role, "mlp.experts.linear_fc1.weight3")));
}

TEST(EngineDescription, HasTheFormulaOfAScaledRopeTable) {
  const json scaling = {{"rope_type", "llama3"},
                        {"factor", 32.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 64}};
  const auto model = ToyModel("llama", {{"rope_scaling", scaling}});
  const auto side = HfSide(*model);
  ASSERT_TRUE(side);
  const auto spec = DescribeStage(*side, *model, {StageKind::kLayer, 0});
  ASSERT_TRUE(spec) << spec.error().what;
  const json& rope = spec->at("rope");
  EXPECT_EQ(rope.at("kind"), "llama3");
  EXPECT_EQ(rope.at("factor"), 32.0);
  EXPECT_EQ(rope.at("original_max_position_embeddings"), 64.0);
  EXPECT_EQ(rope.at("pairs"), false);
}

TEST(EngineDescription, HasTheWindowAndTheTableOfEachLayer) {
  const auto model = ToyModel("gemma3");
  const auto side = HfSide(*model);
  ASSERT_TRUE(side);
  const auto local = DescribeStage(*side, *model, {StageKind::kLayer, 0});
  const auto global = DescribeStage(*side, *model, {StageKind::kLayer, 1});
  ASSERT_TRUE(local && global);
  EXPECT_EQ(local->at("attention").at("window"), 16);
  EXPECT_TRUE(global->at("attention").at("window").is_null());
  EXPECT_EQ(local->at("rope").at("base"), 10000.0);
  EXPECT_EQ(global->at("rope").at("base"), 1000000.0);
}

TEST(EngineDescription, NamesTheTensorsOfAMixerThatIsAStackOfItsOwn) {
  const auto model = ToyModel("qwen3_next");
  ASSERT_TRUE(model) << model.error().what;
  json spec;
  const std::vector<HfUse> uses = LayerOf(*model, spec);
  EXPECT_THAT(uses, Contains(Field(&HfUse::role, "delta_net.in_proj_qkvz.weight")));
  EXPECT_THAT(uses, Not(Contains(Field(&HfUse::role, "o_proj.weight"))));
  const auto megatron = MegatronTensorsOf(*model, {StageKind::kLayer, 0});
  EXPECT_THAT(megatron, Contains(Field(&MegatronUse::role, "self_attention.out_norm.weight")));
}

TEST(EngineDescription, RefusesALayerThatNoBlockComputes) {
  const auto model = ToyModel("mixtral");
  ASSERT_TRUE(model) << model.error().what;
  auto side = HfSide(*model);
  ASSERT_TRUE(side);
  side->fields["moe_router_load_balancing_type"] = "sinkhorn";
  const auto spec = DescribeStage(*side, *model, {StageKind::kLayer, 0});
  ASSERT_FALSE(spec);
  EXPECT_EQ(spec.error().kind, ErrorKind::kUnsupported);
  EXPECT_THAT(spec.error().what, HasSubstr("no block"));
}

}  // namespace
}  // namespace weighbridge
