// Models of several parts: a text model inside another, towers, names that files spell otherwise.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "family/derive.h"
#include "family/disk_names.h"
#include "family/shards.h"
#include "sample_family.h"

namespace weighbridge {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr char kHead[] = R"(schema = 1
family = "seeing"
extends = ["tiny", "inside"]
hf_architectures = ["SeeingForCausalLM"]
hf_model_types = ["seeing"]
)";

// The wrapping stands in a file of its own, so that what the family adds is outside.
constexpr char kInside[] = R"(schema = 1
family = "inside"
abstract = true

[text_model]
config = ["text_config", "old.text"]
outer = ["tie_word_embeddings"]
megatron = "language_model."
hf = { "model." = "model.text.", "embed." = "text_embed.", "norm." = "text_norm." }
)";

constexpr char kTower[] = R"(
[dims]
v_layers = { keys = ["vision_config.depth"], default = "0" }
v_hidden = { keys = ["vision_config.sizes.1"], default = "6" }

[[stack]]
name = "vision"
megatron = "tower.layers.{layer}."
hf = "see.blocks.{layer}."
count = "v_layers"
place = "first"
stacked = true

[[param]]
stack = "vision"
megatron = "fc.weight"
hf = "fc.weight"
shape = ["v_hidden", "v_hidden"]
tp = "column"

[[param]]
stack = "vision"
megatron = "limit"
hf = "limit"
shape = []

[[spelling]]
hf = { "see." = "model.see.", "text_embed." = "model.embed." }
)";

json SeeingConfig() {
  json config = json::parse(kSampleConfig);
  config.erase("architectures");
  return {{"architectures", {"SeeingForCausalLM"}},
          {"text_config", config},
          {"vision_config", {{"depth", 6}, {"sizes", {4, 8}}}}};
}

class Seeing : public testing::Test {
 protected:
  void SetUp() override {
    std::string tiny =
        With(kSampleFamily, "family = \"tiny\"", "family = \"tiny\"\nabstract = true");
    auto library = LibraryOf(
        {{"tiny", tiny + "\n[toy]\nhidden_size = 8\ntie_word_embeddings = true\nword = \"a\"\n"},
         {"inside", kInside},
         {"seeing", std::string(kHead) + kTower}});
    ASSERT_TRUE(library) << library.error().what << " " << library.error().at;
    library_ = std::make_unique<FamilyLibrary>(std::move(*library));
    spec_ = *library_->Find("seeing");
  }

  Model Expand(const json& config, const ExpandOptions& options = {}) {
    auto model = Model::Expand(*spec_, config, options);
    EXPECT_TRUE(model) << model.error().what;
    return std::move(model).value();
  }

  std::unique_ptr<FamilyLibrary> library_;
  const FamilySpec* spec_ = nullptr;
};

const Parameter& ByName(const Model& model, const std::string& name) {
  for (const Parameter& p : model.parameters()) {
    if (model.MegatronName(p, Dialect::kTe) == name) return p;
  }
  ADD_FAILURE() << "there is no " << name;
  return model.parameters().front();
}

TEST_F(Seeing, ParentsAreTheTextModelUnderItsOwnNames) {
  const Model model = Expand(SeeingConfig());
  EXPECT_EQ(ByName(model, "language_model.embedding.word_embeddings.weight").hf[0],
            "text_embed.weight");
  EXPECT_EQ(ByName(model, "language_model.decoder.layers.2.mlp.linear_fc1.weight").hf[0],
            "model.text.layers.2.gate.weight");
  EXPECT_EQ(ByName(model, "language_model.decoder.final_layernorm.weight").place,
            Place::kFinalNorm);
  EXPECT_EQ(model.tied_megatron(), "language_model.output_layer.weight");
  EXPECT_NE(model.Ignored("model.text.layers.3.inv_freq"), nullptr);
}

TEST_F(Seeing, KeysAreLookedUpInTheTextConfigThenOutside) {
  json config = SeeingConfig();
  config["hidden_size"] = 1000;
  config["num_experts"] = 2;
  config["text_config"].erase("num_experts");
  EXPECT_EQ(Expand(config).dims().at("hidden"), 8);
  EXPECT_EQ(Expand(config).dims().at("experts"), 2);
  // The second table, and no table at all.
  json old = {{"old", {{"text", SeeingConfig()["text_config"]}}}};
  EXPECT_EQ(Expand(old).dims().at("hidden"), 8);
  EXPECT_EQ(Expand(json::parse(kSampleConfig)).dims().at("hidden"), 8);
}

TEST_F(Seeing, OuterKeysOfTheWholeConfigComeFirst) {
  json config = SeeingConfig();
  config["text_config"]["tie_word_embeddings"] = true;
  EXPECT_TRUE(Expand(config).tied());
  config["tie_word_embeddings"] = false;
  EXPECT_FALSE(Expand(config).tied());
  config["tie_word_embeddings"] = nullptr;
  EXPECT_TRUE(Expand(config).tied());
}

TEST_F(Seeing, TowerHasALengthOfItsOwnAndStandsOnTheFirstStage) {
  const Model model = Expand(SeeingConfig());
  const Parameter& last = ByName(model, "tower.layers.5.fc.weight");
  EXPECT_EQ(last.shape, (Shape{8, 8}));
  EXPECT_EQ(ByName(model, "tower.layers.5.limit").shape, Shape{});
  EXPECT_EQ(last.hf[0], "see.blocks.5.fc.weight");
  EXPECT_EQ(model.layers(), 4);
  EXPECT_EQ(model.LayersOf(*last.stack), 6);
  json config = SeeingConfig();
  config["text_config"]["num_attention_heads"] = 2;
  const auto placement = Placement::Create(model, {.tp = 1, .pp = 2});
  ASSERT_TRUE(placement) << placement.error().what;
  for (const PlacedParameter& placed : placement->parameters()) {
    if (placed.parameter->stack == nullptr || !placed.parameter->stack->is_tower()) continue;
    EXPECT_EQ(placed.pp, 0);
    EXPECT_EQ(placed.local_layer, placed.parameter->layer);
  }
}

TEST_F(Seeing, LayersOfAStackedTowerAreAnAxisOfItsOwnLength) {
  const Model model = Expand(SeeingConfig());
  const DiskName name = WrittenName(model, ByName(model, "tower.layers.5.fc.weight"), Dialect::kTe);
  EXPECT_EQ(name, (DiskName{"tower.layers.fc.weight", {5}, {6}}));
}

TEST_F(Seeing, FilesOfAnotherSpellingAreRead) {
  ExpandOptions options;
  options.has = [](const std::string& name) { return name.starts_with("model."); };
  const Model model = Expand(SeeingConfig(), options);
  EXPECT_EQ(ByName(model, "language_model.embedding.word_embeddings.weight").hf[0],
            "model.embed.weight");
  const Parameter& tower = ByName(model, "tower.layers.0.fc.weight");
  EXPECT_EQ(tower.hf[0], "model.see.blocks.0.fc.weight");
  EXPECT_EQ(model.HfPrefix(*tower.stack), "model.see.blocks.");
  EXPECT_EQ(*model.HfPrefix(*tower.stack, 3), "model.see.blocks.3.");
  // Ours where nothing is there.
  options.has = [](const std::string&) { return false; };
  EXPECT_EQ(Expand(SeeingConfig(), options).HfPrefix(*tower.stack), "see.blocks.");
}

TEST_F(Seeing, ToyAndDerivedConfigHaveTheTextModelsKeysInItsTable) {
  EXPECT_EQ(
      spec_->toy,
      (json{{"tie_word_embeddings", true},
            {"text_config", {{"hidden_size", 8}, {"tie_word_embeddings", true}, {"word", "a"}}}}));
  const auto derived = DeriveHfConfig(*spec_, {{"num_layers", 3}, {"share", false}}, false);
  ASSERT_TRUE(derived) << derived.error().what;
  EXPECT_EQ((*derived)["text_config"]["num_hidden_layers"], 3);
  EXPECT_EQ((*derived)["text_config"]["word"], "a");
  EXPECT_EQ((*derived)["tie_word_embeddings"], false);
  EXPECT_FALSE(derived->contains("num_hidden_layers"));
}

TEST(Towers, PlaceAndStackedAreChecked) {
  const auto with = [](const std::string& line) {
    return ErrorOf(With(kSampleFamily, "count = \"layers\"\n", "count = \"layers\"\n" + line)).what;
  };
  EXPECT_THAT(with("place = \"last\"\n"), HasSubstr("the 'place' of stack 'decoder' is \"first\""));
  EXPECT_THAT(with("stacked = true\n"), HasSubstr("'stacked' of stack 'decoder' needs a place"));
}

// Two forms under one name: [experts, out, in] and [experts, in, out].
TEST(Storage, ShapesDecideBetweenFormsOfTheSameNames) {
  const std::string text = With(kSampleFamily, "hf = \"experts.down\"\ntransform = \"expert\"",
                                "hf = \"experts.down\"\ntransform = \"expert\"\n\n"
                                "[[param.alternative]]\nhf = \"experts.down\"\n"
                                "transform = { name = \"expert\", transposed = true }");
  const auto spec = SpecOf(text);
  ASSERT_TRUE(spec) << spec.error().what;
  const auto flags_for = [&](Shape shape) {
    ExpandOptions options;
    options.has = [](const std::string& name) { return name.ends_with("experts.down"); };
    options.shape = [&](const std::string& name) {
      return name.ends_with("experts.down") ? &shape : nullptr;
    };
    const auto model = Model::Expand(*spec, json::parse(kSampleConfig), options);
    EXPECT_TRUE(model);
    return ByName(*model, "decoder.layers.1.mlp.experts.linear_fc2.weight0").storage->options;
  };
  EXPECT_TRUE(flags_for({4, 8, 4}).empty());
  EXPECT_EQ(flags_for({4, 4, 8}).at("transposed"), "true");
  // Neither fits: the first form, whose shape is then judged.
  EXPECT_TRUE(flags_for({4, 5, 5}).empty());
}

}  // namespace
}  // namespace weighbridge
