// RoPE tables against those that transformers and megatron-core computed
// (tests/testdata/effects/answers.json, tools/make_effect_answers.py).
#include "family/effects/effects.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
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

// What the config's table is refused for; empty: it is taken.
std::string RefusedFor(const char* key, const json& table) {
  json keys = {{"rope_parameters", nullptr}};
  keys[key] = table;
  const auto side = SideOf("llama", keys);
  if (!side) return side.error().what;
  const auto rope = side->rope(0, false);
  return rope ? "" : rope.error().what;
}

TEST(EffectRope, ATableOfAnotherKindIsRefusedAndNotTakenForNone) {
  const auto linear = [](const json& factor) {
    return json{{"rope_type", "linear"}, {"rope_theta", 10000.0}, {"factor", factor}};
  };
  EXPECT_EQ(RefusedFor("rope_parameters", linear(8)), "");
  EXPECT_EQ(RefusedFor("rope_parameters", linear("8")),
            "factor is \"8\", and has to be a number above 0");
  for (const json& factor : {json::array({8}), json(0), json(-8), json(false)}) {
    EXPECT_NE(RefusedFor("rope_parameters", linear(factor)), "") << factor.dump();
  }
  for (const json& table : {json("yarn"), json::array({"yarn", 8}), json(8)}) {
    EXPECT_NE(RefusedFor("rope_scaling", table), "") << table.dump();
  }
  for (const json& type : {json(true), json(5), json::array({"llama3"})}) {
    EXPECT_NE(RefusedFor("rope_scaling", {{"rope_type", type}, {"factor", 8.0}}), "");
    EXPECT_NE(RefusedFor("rope_scaling", {{"type", type}, {"factor", 8.0}}), "");
  }
  EXPECT_NE(RefusedFor("rope_theta", "x"), "");
  const json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}, {"attention_factor", 0.0}};
  EXPECT_NE(RefusedFor("rope_scaling", yarn), "");
}

TEST(EffectRope, LongRopeNeedsAFactorForEachPairOfChannels) {
  const auto with = [](const json& factors) {
    return RefusedFor("rope_scaling", {{"rope_type", "longrope"},
                                       {"factor", 4.0},
                                       {"original_max_position_embeddings", 16},
                                       {"long_factor", factors},
                                       {"short_factor", factors}});
  };
  const size_t pairs = SideOf("llama", json::object())->rope(0, false)->frequencies.size();
  EXPECT_EQ(with(std::vector<double>(pairs, 1.5)), "");
  EXPECT_NE(with(std::vector<double>(pairs - 1, 1.5)), "");
  EXPECT_NE(with(std::vector<double>(pairs, 0)), "");
  EXPECT_NE(with("1.5"), "");
}

TEST(EffectRope, AListThatConfigJsonHasItselfIsNoPairOfBases) {
  const json lists[] = {json::array(), json::array({500000.0}), json::array({"x"}),
                        json::array({10000.0, 500000.0})};
  for (const json& base : lists) {
    const auto side = SideOf("mistral", {{"rope_parameters", nullptr}, {"rope_theta", base}});
    ASSERT_TRUE(side) << side.error().what;
    EXPECT_FALSE(side->rope(0, false)) << base.dump();
  }
  for (const char* family : {"gemma3", "olmo3"}) {  // their classes have two
    const auto two = SideOf(family, json::object());
    ASSERT_TRUE(two && two->fields["rotary_base"].is_array());
    EXPECT_TRUE(two->rope(0, false));
    EXPECT_TRUE(OddFields(*two).empty());
  }
}

TEST(EffectFields, MultipliersOfAnotherNumberAreTold) {
  EXPECT_TRUE(OddFields(*SideOf("falcon_h1", json::object())).empty());
  const json odd[] = {json::object(), json::array({0.7}), json::array({"0.7", "1.3"}), "x"};
  for (const json& multipliers : odd) {
    const auto side = SideOf("falcon_h1", {{"mlp_multipliers", multipliers}});
    ASSERT_TRUE(side) << side.error().what;
    EXPECT_TRUE(OddFields(*side).contains("mlp_multipliers")) << multipliers.dump();
  }
}

TEST(EffectFields, AValueOfAnotherKindIsToldAndOnesOwnAreNot) {
  const auto plain = SideOf("olmoe", json::object());
  ASSERT_TRUE(plain) << plain.error().what;
  EXPECT_TRUE(OddFields(*plain).empty());
  const auto odd =
      SideOf("olmoe", {{"rms_norm_eps", "1e-6"}, {"num_experts_per_tok", json::object()}});
  ASSERT_TRUE(odd) << odd.error().what;
  EXPECT_EQ(OddFields(*odd),
            (std::map<std::string, std::string>{{"layernorm_epsilon", "rms_norm_eps is \"1e-6\""},
                                                {"moe_router_topk", "num_experts_per_tok is {}"}}));
}

TEST(EffectFields, NothingOfAConfigThatTransformersWroteIsOdd) {
  static const FamilyLibrary kLibrary = FamilyLibrary::BuiltIn();
  const auto folder =
      std::filesystem::path(WEIGHBRIDGE_SOURCE_DIR) / "tests/testdata/family_configs";
  int judged = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const auto config = ReadJsonFile(entry.path());
    ASSERT_TRUE(config) << entry.path();
    const auto spec = kLibrary.ForConfig(*config);
    ASSERT_TRUE(spec) << entry.path();
    if (!HasEffects(**spec)) continue;
    const auto model = Model::Expand(**spec, *config, {});
    ASSERT_TRUE(model) << entry.path() << model.error().what;
    const auto side = HfSide(*model);
    ASSERT_TRUE(side) << entry.path() << side.error().what;
    EXPECT_EQ(OddFields(*side), (std::map<std::string, std::string>())) << entry.path();
    for (const bool windowed : {false, true}) {
      const auto rope = side->rope(0, windowed);
      EXPECT_TRUE(rope) << entry.path() << rope.error().what;
    }
    ++judged;
  }
  EXPECT_GT(judged, 100);
}

TEST(EffectFields, ClippingAtZeroIsNotNoClipping) {
  for (const json& bound : {json(0.0), json(8.0), json(nullptr)}) {
    const auto side = SideOf("olmoe", {{"clip_qkv", bound}});
    ASSERT_TRUE(side) << side.error().what;
    EXPECT_EQ(LayerEffects(*side, 0)->at("attention.clip").value, bound);
  }
}

TEST(EffectFields, ClampingAtZeroIsNotNoClamping) {
  for (const json& bound : {json(0.0), json(7.0), json(nullptr)}) {
    EffectSide side = *SideOf("minimax_m3", json::object());
    side.fields["activation_func_clamp_value"] = bound;
    const std::string text = LayerEffects(side, 0)->at("activation").value;
    EXPECT_EQ(text.find("clamped") == std::string::npos, bound.is_null()) << text;
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

// The router's effects of the last layer on both sides; `topk` experts for each token.
struct RouterEffects {
  Effects hf, megatron;
  bool Equal(const char* effect) const { return hf.at(effect).value == megatron.at(effect).value; }
};

// By the names that the answers have for the formulas.
RouterEffects RouterOf(const std::string& hf_name, const std::string& megatron_name, int64_t topk) {
  const bool sigmoid = hf_name.starts_with("hf sigmoid");
  static const FamilyLibrary kLibrary = FamilyLibrary::BuiltIn();
  const FamilySpec& spec = **kLibrary.Find(sigmoid ? "dots1" : "qwen3_moe");
  json config = Toy(spec);
  config["norm_topk_prob"] = hf_name.ends_with("normalized");
  config["num_experts_per_tok"] = topk;
  const auto model = Model::Expand(spec, config, {});
  EXPECT_TRUE(model) << model.error().what;
  const auto hf = HfSide(*model);
  const bool by_sigmoid = megatron_name.starts_with("megatron sigmoid");
  const json fields = {{"_target_", "x.GPTModelProvider"},
                       {"moe_router_topk", topk},
                       {"num_moe_experts", 4},
                       {"moe_router_score_function", by_sigmoid ? "sigmoid" : "softmax"},
                       {"moe_router_pre_softmax", megatron_name.ends_with("pre_softmax")}};
  const auto megatron = MegatronSide(fields, *model, *hf, **BuiltInRuntime(), {});
  const int64_t layer = hf->layers - 1;
  return {*LayerEffects(*hf, layer), *LayerEffects(*megatron, layer)};
}

TEST(EffectRouter, FormulasAreEqualWhereTheLibrariesAgree) {
  int compared = 0;
  for (const json& row : Answers()["router"]) {
    const std::string a = row["a"], b = row["b"];
    if (!a.starts_with("hf ") || !b.starts_with("megatron ")) continue;
    const RouterEffects router = RouterOf(a, b, 2);
    EXPECT_EQ(router.Equal("router.score") && router.Equal("router.normalized"),
              row["equal"].get<bool>())
        << a << ", " << b;
    EXPECT_TRUE(router.Equal("router.refused")) << a << ", " << b;
    ++compared;
  }
  EXPECT_EQ(compared, 16);
}

TEST(EffectRouter, OfOneExpertFormulasAreEqualWhereTheLibrariesAgreeAndTheRefusedOnesAreKnown) {
  ASSERT_EQ(Answers()["router_of_one"].size(), 16u);
  for (const json& row : Answers()["router_of_one"]) {
    const std::string a = row["a"], b = row["b"];
    const RouterEffects router = RouterOf(a, b, 1);
    EXPECT_EQ(!router.Equal("router.refused"), row["refused"].get<bool>()) << a << ", " << b;
    if (row["refused"].get<bool>()) continue;
    EXPECT_EQ(router.Equal("router.score") && router.Equal("router.normalized"),
              row["equal"].get<bool>())
        << a << ", " << b;
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
