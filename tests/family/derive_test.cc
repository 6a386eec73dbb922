#include "family/derive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "base/json.h"
#include "family/library.h"
#include "family/model.h"

namespace weighbridge {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

const FamilyLibrary& Library() {
  static const FamilyLibrary& library = *new FamilyLibrary(FamilyLibrary::BuiltIn());
  return library;
}

json Null(const json& value) { return value == "none" ? json(nullptr) : value; }

// What Megatron's config holds for the model; with `bridge` as the Bridge's class spells it.
json Fields(const Model& model, bool bridge) {
  json fields = json::object();
  for (const Field& field : model.config()) fields[field.name] = Null(field.value);
  if (bridge) {
    for (const Field& field : model.BridgeFields(Dialect::kTe)) fields[field.name] = field.value;
  }
  return fields;
}

std::set<std::string> Names(const Model& model) {
  std::set<std::string> names;
  for (const Parameter& p : model.parameters()) names.insert(p.hf.begin(), p.hf.end());
  return names;
}

// Megatron-Core's config says nothing of towers; the Bridge's class holds theirs.
bool HasTower(const FamilySpec& family) {
  return std::any_of(family.stacks.begin(), family.stacks.end(),
                     [](const StackRule& stack) { return stack.is_tower(); });
}

// Its projector is built from sizes of both models: the Bridge's defaults are those of one model.
TEST(Derive, ObjectsOfTheBridgeMayBeMadeOfDims) {
  const auto config =
      ReadJsonFile(WEIGHBRIDGE_SOURCE_DIR "/tests/testdata/family_configs/gemma3_vl_plain.v5.json");
  ASSERT_TRUE(config) << config.error().what;
  const auto family = Library().Find("gemma3_vl");
  ASSERT_TRUE(family);
  const auto model = Model::Expand(**family, *config, {});
  ASSERT_TRUE(model) << model.error().what;
  const json fields = Fields(*model, true);
  EXPECT_EQ(fields["vision_projector_config"]["input_size"],
            (*config)["vision_config"]["hidden_size"]);
  EXPECT_EQ(fields["vision_projector_config"]["hidden_size"],
            (*config)["text_config"]["hidden_size"]);
  EXPECT_EQ(fields["vision_config"]["vision_use_head"], false);
}

// Of an object every entry, beside which others may stand.
void ExpectWithin(const json& found, const json& value, const std::string& field) {
  if (!value.is_object()) {
    EXPECT_EQ(found, value) << field;
    return;
  }
  for (const auto& [key, entry] : value.items()) {
    if (entry.is_null()) continue;  // a default may stand for it
    EXPECT_EQ(found.value(key, json()), entry) << field << " " << key;
  }
}

class EveryConfig : public testing::TestWithParam<fs::path> {};

// The files are configs as transformers writes them, of either version.
TEST_P(EveryConfig, IsDerivedFromItsOwnFields) {
  const auto config = ReadJsonFile(GetParam());
  ASSERT_TRUE(config) << config.error().what;
  const auto family = Library().ForConfig(*config);
  ASSERT_TRUE(family) << family.error().what;
  // Families whose Megatron fields do not say all of the HF config yet, each with what is missing.
  const auto absent = ReadJsonFile(WEIGHBRIDGE_SOURCE_DIR "/tests/testdata/not_derived.json");
  ASSERT_TRUE(absent);
  if (absent->contains((*family)->name)) GTEST_SKIP() << (*absent)[(*family)->name];
  const auto model = Model::Expand(**family, *config, {});
  ASSERT_TRUE(model) << model.error().what;
  for (const bool bridge : {false, true}) {
    if (!bridge && HasTower(**family)) continue;
    const json fields = Fields(*model, bridge);
    const auto derived = DeriveHfConfig(**family, fields, bridge);
    ASSERT_TRUE(derived) << derived.error().what;
    EXPECT_EQ(*Library().ForConfig(*derived), *family);
    const auto again = Model::Expand(**family, *derived, {});
    ASSERT_TRUE(again) << again.error().what << "\n" << derived->dump(1);
    const json found = Fields(*again, bridge);
    for (const auto& [field, value] : fields.items()) {
      ExpectWithin(found[field], value, field + (bridge ? " of the Bridge" : ""));
    }
    EXPECT_EQ(Names(*again), Names(*model));
  }
}

std::vector<fs::path> Configs() {
  std::vector<fs::path> paths;
  for (const auto& entry :
       fs::directory_iterator(WEIGHBRIDGE_SOURCE_DIR "/tests/testdata/family_configs")) {
    paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::string NameOf(const testing::TestParamInfo<fs::path>& info) {
  std::string name = info.param.stem().string();
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

json Derived(const char* family, const json& fields) {
  const auto spec = Library().Find(family);
  EXPECT_TRUE(spec);
  const auto derived = DeriveHfConfig(**spec, fields, false);
  EXPECT_TRUE(derived) << derived.error().what;
  return derived.value_or(json());
}

TEST(DeriveHfConfig, Llama3RopeHasTheNumbersThatMegatronFixes) {
  const json config = Derived("llama", {{"num_layers", 2},
                                        {"rope_scaling", true},
                                        {"rope_scaling_factor", 32.0},
                                        {"rotary_base", 5e5}});
  EXPECT_EQ(config["rope_scaling"], json::parse(R"({"rope_type": "llama3", "factor": 32.0,
      "low_freq_factor": 1.0, "high_freq_factor": 4.0,
      "original_max_position_embeddings": 8192})"));
  EXPECT_EQ(config["rope_theta"], 5e5);
  EXPECT_FALSE(
      Derived("llama", {{"num_layers", 2}, {"rope_scaling", false}, {"rope_scaling_factor", 8.0}})
          .contains("rope_scaling"));
}

TEST(DeriveHfConfig, LayersOfTwoKindsComeFromTheirFrequency) {
  const json fields = {{"num_layers", 4}, {"moe_layer_freq", {0, 1, 1, 0}}};
  EXPECT_EQ(Derived("qwen3_moe", fields)["mlp_only_layers"], json::parse("[0, 3]"));
  const json every = {{"num_layers", 4}, {"moe_layer_freq", {0, 1, 0, 1}}};
  EXPECT_EQ(Derived("qwen3_moe", every)["decoder_sparse_step"], 2);
  const json first = {{"num_layers", 4}, {"moe_layer_freq", {0, 0, 1, 1}}};
  EXPECT_EQ(Derived("deepseek_v3", first)["first_k_dense_replace"], 2);
  const json windows = {{"num_layers", 3}, {"window_attn_skip_freq", 2}};
  EXPECT_EQ(Derived("gpt_oss", windows)["layer_types"],
            json::parse(R"(["sliding_attention", "full_attention", "sliding_attention"])"));
}

TEST(DeriveHfConfig, SharedExpertsAreCounted) {
  const json fields = {
      {"num_layers", 2}, {"moe_ffn_hidden_size", 40}, {"moe_shared_expert_intermediate_size", 80}};
  EXPECT_EQ(Derived("deepseek_v3", fields)["n_shared_experts"], 2);
  // No whole number of experts: the key stays out, and what needs it says so.
  const json odd = {
      {"num_layers", 2}, {"moe_ffn_hidden_size", 40}, {"moe_shared_expert_intermediate_size", 50}};
  EXPECT_FALSE(Derived("deepseek_v3", odd).contains("n_shared_experts"));
}

TEST(DeriveHfConfig, SharedExpertsAreCountedUnderTheFamilysOwnKey) {
  const json fields = {
      {"num_layers", 2}, {"moe_ffn_hidden_size", 40}, {"moe_shared_expert_intermediate_size", 120}};
  EXPECT_EQ(Derived("hy_v3", fields)["num_shared_experts"], 3);
  EXPECT_EQ(Derived("ernie4_5_moe", fields)["moe_num_shared_experts"], 3);
  const json none = {{"num_layers", 2},
                     {"moe_ffn_hidden_size", 40},
                     {"moe_shared_expert_intermediate_size", nullptr}};
  EXPECT_EQ(Derived("hy_v3", none)["num_shared_experts"], 0);
}

TEST(DeriveHfConfig, PatternOfLettersBecomesTheListThatTheFamilyHas) {
  const json fields = {{"num_layers", 4}, {"hybrid_layer_pattern", "M-*E"}};
  EXPECT_EQ(Derived("nemotron_h", fields)["layers_block_type"],
            json::parse(R"(["linear_attention", "mlp", "full_attention", "moe"])"));
  const auto spec = Library().Find("nemotron_h");
  ASSERT_TRUE(spec);
  for (const json& bad : {json("M-*?"), json(7)}) {
    const json unknown = {{"num_layers", 4}, {"hybrid_layer_pattern", bad}};
    EXPECT_FALSE(DeriveHfConfig(**spec, unknown, false)) << bad;
  }
}

TEST(DeriveHfConfig, WindowThatIsNoneIsNull) {
  const json none = {{"num_layers", 2}, {"window_size", nullptr}, {"no_rope_freq", nullptr}};
  const json derived = Derived("exaone4", none);  // the class has a window where the key is absent
  EXPECT_TRUE(derived.contains("sliding_window") && derived["sliding_window"].is_null());
  const json window = {{"num_layers", 2}, {"window_size", {15, 0}}, {"no_rope_freq", {0, 1}}};
  EXPECT_EQ(Derived("exaone4", window)["sliding_window"], 16);
}

TEST(DeriveHfConfig, NoneMayStandForAValueThatIsSaidLayerByLayer) {
  const json none = {
      {"num_layers", 2}, {"window_size", nullptr}, {"window_attn_skip_freq", nullptr}};
  EXPECT_EQ(Derived("olmo3", none)["layer_types"],
            json::parse(R"(["full_attention", "full_attention"])"));
  // A class with a switch of its own needs no list.
  EXPECT_FALSE(Derived("qwen3", none).contains("layer_types"));
}

// Sizes of the small random model are no model's sizes.
TEST(DeriveHfConfig, NumbersOfTheToyAreNotTaken) {
  const json config = Derived("llama", {{"num_layers", 2}});
  EXPECT_FALSE(config.contains("hidden_size"));
  EXPECT_FALSE(config.contains("vocab_size"));
  EXPECT_EQ(config["model_type"], "llama");
}

TEST(DeriveHfConfig, WithoutLayersThereIsNoModel) {
  for (const json& fields : {json::object(), json{{"num_layers", 0}}, json{{"num_layers", "2"}},
                             json{{"num_layers", nullptr}}, json{{"num_layers", 1e9}},
                             json{{"num_layers", int64_t{1} << 62}}}) {
    EXPECT_FALSE(DeriveHfConfig(**Library().Find("llama"), fields, false)) << fields;
  }
}

TEST(ExpandLayerFrequency, CountsAsMegatronDoes) {
  EXPECT_EQ(ExpandLayerFrequency("moe_layer_freq", 2, 5), json::parse("[1, 0, 1, 0, 1]"));
  EXPECT_EQ(ExpandLayerFrequency("moe_layer_freq", 1, 2), json::parse("[1, 1]"));
  EXPECT_EQ(ExpandLayerFrequency("window_attn_skip_freq", 3, 4), json::parse("[1, 1, 0, 1]"));
  EXPECT_EQ(ExpandLayerFrequency("linear_attention_freq", 4, 4), json::parse("[1, 1, 1, 0]"));
  EXPECT_EQ(ExpandLayerFrequency("num_layers", 3, 4), 3);
  EXPECT_EQ(ExpandLayerFrequency("moe_layer_freq", json::parse("[0, 1]"), 2),
            json::parse("[0, 1]"));
}

INSTANTIATE_TEST_SUITE_P(FamilyConfigs, EveryConfig, testing::ValuesIn(Configs()), NameOf);

}  // namespace
}  // namespace weighbridge
