// RoPE tables against those that transformers and megatron-core computed
// (tests/testdata/effects/answers.json, tools/make_effect_answers.py).
#include "family/effects/effects.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "family/effects/rope.h"
#include "family/effects/runtime.h"
#include "family/library.h"
#include "family/model.h"

namespace weighbridge {
namespace {

using nlohmann::json;

const json& Answers() {
  static const json kAnswers = *ReadJsonFile(std::filesystem::path(WEIGHBRIDGE_SOURCE_DIR) /
                                             "tests/testdata/effects/answers.json");
  return kAnswers;
}

// The libraries compute in float32.
void ExpectTable(const Frequencies& found, const json& expected, const std::string& what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  for (size_t i = 0; i < found.size(); ++i) {
    const auto value = expected[i].get<double>();
    EXPECT_NEAR(found[i], value, 2e-6 * std::abs(value)) << what << " at " << i;
  }
}

json Toy(const FamilySpec& spec) {
  json config = spec.toy;
  config["architectures"] = spec.hf_architectures;
  return config;
}

Result<EffectSide> SideOf(const std::string& family, const json& changes) {
  static const FamilyLibrary kLibrary = FamilyLibrary::BuiltIn();
  WB_TRY(const FamilySpec* spec, kLibrary.Find(family));
  json config = Toy(*spec);
  for (const auto& [key, value] : changes.items()) config[key] = value;
  WB_TRY(const Model model, Model::Expand(*spec, config, {}));
  return HfSide(model);
}

TEST(EffectRope, ReadsEveryTableOfAConfigAsTransformersDoes) {
  ASSERT_GT(Answers()["rope"].size(), 40u);
  for (const json& row : Answers()["rope"]) {
    const std::string what = row["rope_parameters"].dump();
    const auto side = SideOf("llama", {{"head_dim", row["head_dim"]},
                                       {"rope_theta", nullptr},
                                       {"max_position_embeddings", row["max_position_embeddings"]},
                                       {"rope_parameters", row["rope_parameters"]}});
    ASSERT_TRUE(side) << what << side.error().what;
    const auto rope = side->rope(0, false);
    ASSERT_TRUE(rope) << what;
    ExpectTable(rope->frequencies, row["frequencies"], what);
    EXPECT_NEAR(rope->factor, row["factor"].get<double>(), 1e-6) << what;
  }
}

// The table that a Megatron config of these fields gives.
Result<Rope> MegatronRope(json fields) {
  static const FamilyLibrary kLibrary = FamilyLibrary::BuiltIn();
  WB_TRY(const FamilySpec* spec, kLibrary.Find("llama"));
  WB_TRY(const Model model, Model::Expand(*spec, Toy(*spec), {}));
  WB_TRY(const EffectSide hf, HfSide(model));
  WB_TRY(const RuntimeTable* runtime, BuiltInRuntime());
  fields["_target_"] = "megatron.bridge.models.gpt_provider.GPTModelProvider";
  WB_TRY(const EffectSide side, MegatronSide(fields, model, hf, *runtime, {}));
  return side.rope(0, false);
}

TEST(EffectRope, MakesTheTablesOfMegatronCore) {
  ASSERT_GT(Answers()["megatron"].size(), 20u);
  for (const json& row : Answers()["megatron"]) {
    const bool yarn = row["kind"] == "yarn";
    json fields = {{"position_embedding_type", row["kind"]},
                   {"rotary_base", row["base"]},
                   {"kv_channels", row["head_dim"]}};
    if (yarn) {
      fields.update({{"yarn_rotary_scaling_factor", 40.0},
                     {"yarn_original_max_position_embeddings", 4096},
                     {"yarn_beta_fast", 32},
                     {"yarn_beta_slow", 1},
                     {"yarn_mscale", row["mscale"]},
                     {"yarn_mscale_all_dim", row["mscale_all_dim"]},
                     {"yarn_correction_range_round_to_int", row["truncate"]}});
    } else {
      fields.update({{"rotary_percent", row["percent"]},
                     {"rope_scaling", row["llama3"]},
                     {"rope_scaling_factor", 32.0}});
    }
    const auto rope = MegatronRope(fields);
    ASSERT_TRUE(rope) << fields.dump();
    ExpectTable(rope->frequencies, row["frequencies"], fields.dump());
    EXPECT_NEAR(rope->factor, row["factor"].get<double>(), 1e-6) << fields.dump();
  }
}

TEST(EffectRope, AHostileConfigGetsNoHugeTable) {
  EXPECT_FALSE(
      MegatronRope({{"position_embedding_type", "rope"}, {"kv_channels", int64_t{1} << 40}}));
  EXPECT_FALSE(
      MegatronRope({{"position_embedding_type", "rope"}, {"kv_channels", 8}, {"rotary_base", -1}}));
}

TEST(EffectWindow, AWidthIsWhatBothLibrariesSee) {
  for (const json& row : Answers()["windows"]) {
    ASSERT_TRUE(row["equal"].get<bool>());
    const auto side = SideOf("mistral", {{"sliding_window", row["width"]}});
    ASSERT_TRUE(side);
    EXPECT_EQ(side->fields["window_size"], row["megatron_window"]);
    EXPECT_EQ(LayerEffects(*side, 0)->at("attention.window").value, row["width"]);
  }
}

TEST(EffectRouter, FormulasAreEqualWhereTheLibrariesAgree) {
  const std::vector<std::pair<std::string, json>> megatron = {
      {"megatron softmax",
       {{"moe_router_score_function", "softmax"}, {"moe_router_pre_softmax", false}}},
      {"megatron pre_softmax",
       {{"moe_router_score_function", "softmax"}, {"moe_router_pre_softmax", true}}},
      {"megatron sigmoid",
       {{"moe_router_score_function", "sigmoid"}, {"moe_router_pre_softmax", false}}},
      {"megatron sigmoid pre_softmax",
       {{"moe_router_score_function", "sigmoid"}, {"moe_router_pre_softmax", true}}}};
  const std::vector<std::pair<std::string, std::pair<const char*, json>>> hf = {
      {"hf softmax normalized", {"qwen3_moe", {{"norm_topk_prob", true}}}},
      {"hf softmax", {"qwen3_moe", {{"norm_topk_prob", false}}}},
      {"hf sigmoid normalized", {"dots1", {{"norm_topk_prob", true}}}},
      {"hf sigmoid", {"dots1", {{"norm_topk_prob", false}}}}};
  static const FamilyLibrary kLibrary = FamilyLibrary::BuiltIn();
  const RuntimeTable& runtime = **BuiltInRuntime();
  for (const auto& [hf_name, config] : hf) {
    const FamilySpec& spec = **kLibrary.Find(config.first);
    json toy = Toy(spec);
    toy.update(config.second);
    const auto model = Model::Expand(spec, toy, {});
    ASSERT_TRUE(model) << model.error().what;
    const auto side = HfSide(*model);
    ASSERT_TRUE(side);
    for (const auto& [name, fields] : megatron) {
      json all = fields;
      all["_target_"] = "x.GPTModelProvider";
      all["moe_router_topk"] = 2;
      all["num_moe_experts"] = 4;
      const auto other = MegatronSide(all, *model, *side, runtime, {});
      ASSERT_TRUE(other);
      const int64_t layer = side->layers - 1;
      const Effects a = *LayerEffects(*side, layer), b = *LayerEffects(*other, layer);
      const bool equal = a.at("router.score").value == b.at("router.score").value &&
                         a.at("router.normalized").value == b.at("router.normalized").value;
      for (const json& row : Answers()["router"]) {
        if (row["a"] == hf_name && row["b"] == name) {
          EXPECT_EQ(equal, row["equal"].get<bool>()) << hf_name << ", " << name;
        }
      }
    }
  }
}

TEST(Runtime, BehavioursCountFromOneVersionBeforeAnother) {
  Behaviour b;
  b.since = "0.15";
  b.until = "0.18";
  EXPECT_FALSE(CountsIn(b, "0.14.9"));
  EXPECT_TRUE(CountsIn(b, "0.15"));
  EXPECT_TRUE(CountsIn(b, "0.17.1"));
  EXPECT_FALSE(CountsIn(b, "0.18"));
  EXPECT_FALSE(CountsIn(b, ""));  // the newest
}

TEST(Runtime, AFileWithoutAReasonOrWithAnUnknownKeyIsRefused) {
  RuntimeTable table;
  const std::string head = "schema = 1\nruntime = \"x\"\nnewest = \"1.0\"\n";
  EXPECT_TRUE(ReadRuntime(head, "x.toml", table));
  EXPECT_FALSE(ReadRuntime(head + "[[behaviour]]\nid = \"a\"\nset = { b = 1 }\n", "x.toml", table));
  EXPECT_FALSE(ReadRuntime(head + "typo = 1\n", "x.toml", table));
  EXPECT_FALSE(ReadRuntime(
      head + "[[behaviour]]\nid = \"a\"\nwhy = \"b\"\nset = { b = 1 }\nsince = \"v1\"\n", "x.toml",
      table));
}

TEST(Runtime, EveryBehaviourOfTheBuiltInOnesHasAnIdOfItsOwn) {
  const auto table = BuiltInRuntime();
  ASSERT_TRUE(table) << table.error().what;
  std::set<std::string> ids;
  for (const Behaviour& b : (*table)->behaviours) EXPECT_TRUE(ids.insert(b.id).second) << b.id;
  EXPECT_GT((*table)->defaults.at("GPTModelProvider").size(), 40u);
}

}  // namespace
}  // namespace weighbridge
