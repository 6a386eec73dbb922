// Families applied to configs: good ones, and configs that were written to break us.
#include "family/model.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "base/json.h"
#include "mapping/plan.h"
#include "sample_family.h"

namespace weighbridge {
namespace {

using nlohmann::json;
using testing::AnyOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

const FamilyLibrary& Library() {
  static const FamilyLibrary kLibrary = FamilyLibrary::BuiltIn();
  return kLibrary;
}

// Expands, and plans every parameter of what can be expanded: neither may crash.
Result<Model> Try(const FamilySpec& spec, const json& config, const ExpandOptions& options = {}) {
  auto model = Model::Expand(spec, config, options);
  if (!model) return model;
  for (const Parameter& p : model->parameters()) {
    const auto plan = model->Plan(p);
    if (!plan) return Fail(plan.error());
    EXPECT_EQ(plan->layout.numel(), Numel(p.shape));
    EXPECT_FALSE(model->MegatronName(p, Dialect::kTe).empty());
  }
  if (auto tensors = model->HfTensors(); !tensors) return Fail(tensors.error());
  return model;
}

std::vector<std::pair<std::string, json>> AllConfigs() {
  std::vector<std::pair<std::string, json>> configs;
  for (const auto& entry :
       fs::directory_iterator(fs::path(WEIGHBRIDGE_SOURCE_DIR) / "tests/testdata/family_configs")) {
    configs.emplace_back(entry.path().filename().string(), *ReadJsonFile(entry.path()));
  }
  std::sort(configs.begin(), configs.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  return configs;
}

TEST(Model, EveryKnownConfigExpandsToBijections) {
  int checked = 0;
  for (const auto& [name, config] : AllConfigs()) {
    SCOPED_TRACE(name);
    const auto spec = Library().ForConfig(config);
    ASSERT_TRUE(spec) << spec.error().what;
    const auto model = Try(**spec, config);
    ASSERT_TRUE(model) << model.error().what;
    std::set<std::string> te, local;
    for (const Parameter& p : model->parameters()) {
      EXPECT_TRUE(te.insert(model->MegatronName(p, Dialect::kTe)).second) << "twice";
      EXPECT_TRUE(local.insert(model->MegatronName(p, Dialect::kLocal)).second) << "twice";
      EXPECT_EQ(model->MegatronPattern(p, Dialect::kTe).find('{'), std::string::npos);
      const auto plan = model->Plan(p);
      std::vector<SourceExtent> extents;
      for (const auto& source : plan->sources) extents.push_back(source.extent());
      EXPECT_TRUE(ProveBijection(plan->layout, extents)) << model->MegatronName(p, Dialect::kTe);
      EXPECT_TRUE(CheckCut(p.shape, p.cut, 1)) << model->MegatronName(p, Dialect::kTe);
    }
    ++checked;
  }
  EXPECT_GE(checked, 70);
}

const std::vector<json>& HostileValues() {
  static const std::vector<json> kValues = {
      nullptr,
      true,
      false,
      0,
      -1,
      1,
      3,
      1000000007,
      INT64_MAX,
      INT64_MIN,
      UINT64_MAX,
      int64_t{1} << 40,
      (int64_t{1} << 40) + 1,
      1.5,
      -0.0,
      1e300,
      std::numeric_limits<double>::infinity(),
      "",
      "4",
      "none",
      std::string(100000, 'x'),
      json::array(),
      json::array({1, 2}),
      json::array({nullptr}),
      json::object(),
      json::object({{"rope_type", 3}}),
      json::object({{"rope_type", "yarn"}}),
      json::object({{"type", "llama3"}, {"factor", json::array()}})};
  return kValues;
}

// Each key of each config replaced by each hostile value: a Model or an error, in bounded time.
TEST(Model, HostileValueInAnyKeyGivesAModelOrAnError) {
  int errors = 0, models = 0;
  for (const auto& [name, config] : AllConfigs()) {
    if (!name.starts_with("known_")) continue;
    const FamilySpec& spec = **Library().ForConfig(config);
    for (const auto& [key, value] : config.items()) {
      if (key == "architectures") continue;
      for (const json& hostile : HostileValues()) {
        // A vocabulary, a width or a count that is only large is a legal model, but slow to walk
        // here.
        json broken = config;
        broken[key] = hostile;
        const auto model = Model::Expand(spec, broken, {});
        if (!model) {
          EXPECT_FALSE(model.error().what.empty());
          EXPECT_LT(model.error().what.size(), 400u);
          EXPECT_THAT(model.error().kind, AnyOf(ErrorKind::kInvalid, ErrorKind::kUnsupported))
              << key << " " << model.error().what;
          ++errors;
        } else {
          // The first of each rule is planned: all layers share its geometry.
          std::set<const ParamRule*> seen;
          for (const Parameter& p : model->parameters()) {
            if (seen.insert(p.rule).second) (void)model->Plan(p);
          }
          ++models;
        }
      }
    }
  }
  EXPECT_GT(errors, 1000);
  EXPECT_GT(models, 1000);
}

TEST(Model, AbsentKeysGiveAModelOrAnErrorThatNamesOne) {
  for (const auto& [name, config] : AllConfigs()) {
    if (!name.starts_with("known_")) continue;
    const FamilySpec& spec = **Library().ForConfig(config);
    for (const auto& [key, value] : config.items()) {
      json less = config;
      less.erase(key);
      const auto model = Try(spec, less);
      if (!model) {
        EXPECT_THAT(model.error().what, testing::AnyOf(HasSubstr(key), HasSubstr("lacks"),
                                                       HasSubstr("divi"), HasSubstr("fit")))
            << name << " " << key;
      }
    }
    EXPECT_FALSE(Model::Expand(spec, json::object(), {}));
    for (const json& other : {json(), json::array(), json(3), json("x")})
      EXPECT_FALSE(Model::Expand(spec, other, {}));
  }
}

TEST(Model, AbsurdCountsAreErrorsAtOnce) {
  const json base = [] {
    for (const auto& [name, config] : AllConfigs()) {
      if (name == "known_deepseek_v3.json") return config;
    }
    return json();
  }();
  const FamilySpec& spec = **Library().ForConfig(base);
  const auto with = [&](std::initializer_list<std::pair<const char*, json>> changes) {
    json config = base;
    for (const auto& [key, value] : changes) config[key] = value;
    const auto model = Model::Expand(spec, config, {});
    return model ? "accepted" : model.error().id;
  };
  EXPECT_EQ(with({{"num_hidden_layers", 1000000000}}), "config-value");
  EXPECT_EQ(with({{"n_routed_experts", 1000000000}}), "config-value");
  EXPECT_EQ(with({{"num_nextn_predict_layers", 1000000000}}), "config-value");
  EXPECT_EQ(with({{"num_hidden_layers", 99999}, {"n_routed_experts", 999999}}), "config-value");
  EXPECT_EQ(with({{"num_hidden_layers", 5000}, {"n_routed_experts", 5000}}), "config-value");
  EXPECT_EQ(with({{"vocab_size", INT64_MAX}}), "config-value");
  EXPECT_EQ(with({{"hidden_size", int64_t{1} << 40}, {"vocab_size", int64_t{1} << 40}}),
            "config-value");
  EXPECT_EQ(with({{"vocab_size", -5}}), "config-value");
  EXPECT_EQ(with({{"vocab_size", 0}}), "config-value");
  EXPECT_EQ(with({{"vocab_size", 1.5}}), "config-value");
  EXPECT_EQ(with({{"vocab_size", "1000"}}), "config-value");
}

TEST(Model, PaddedVocabularyThatOverflowsIsAnError) {
  const auto spec = SpecOf(kSampleFamily);
  ASSERT_TRUE(spec);
  ExpandOptions options;
  options.tp = 7;
  json config = json::parse(kSampleConfig);
  config["vocab_size"] = INT64_MAX;
  EXPECT_FALSE(Model::Expand(*spec, config, options));
  config["vocab_size"] = 10;
  options.pad_vocab = INT64_MAX;
  EXPECT_FALSE(Model::Expand(*spec, config, options));
  options.pad_vocab = -3;
  const auto model = Model::Expand(*spec, config, options);
  ASSERT_TRUE(model);
  EXPECT_EQ(model->padded_vocab(), 14);  // divisor 2 x tp 7
}

// -- symbols --

Result<Model> Sample(const std::string& family, const std::string& config) {
  static std::vector<std::unique_ptr<FamilySpec>> specs;  // a Model refers to its spec
  auto spec = SpecOf(family);
  if (!spec) return Fail(spec.error());
  specs.push_back(std::make_unique<FamilySpec>(*std::move(spec)));
  return Try(*specs.back(), json::parse(config));
}

TEST(Symbols, KeysAreTriedInOrderThenTheDefault) {
  const auto half = [](const std::string& more) {
    const auto model =
        Sample(kSampleFamily, With(kSampleConfig, "\"vocab_size\"", more + "\"vocab_size\""));
    return model ? model->dims().at("half") : -1;
  };
  EXPECT_EQ(half(""), 4);
  EXPECT_EQ(half("\"half\": 6, "), 6);
  EXPECT_EQ(half("\"deep\": {\"half\": 7}, "), 7);
  EXPECT_EQ(half("\"half\": null, \"deep\": {\"half\": 7}, "), 7);
  EXPECT_EQ(half("\"half\": 6, \"deep\": {\"half\": 7}, "), 6);
}

TEST(Symbols, KeysThatHaveToAgreeDoSoOrTheConfigContradictsItself) {
  const std::string family =
      With(kSampleFamily, "default = \"hidden / 2\"", "agrees = \"hidden / 2\"");
  const auto half = [&](const std::string& more) {
    return Sample(family, With(kSampleConfig, "\"vocab_size\"", more + "\"vocab_size\""));
  };
  for (const char* good : {"", "\"half\": 4, ", "\"half\": null, ", "\"half\": \"auto\", "}) {
    const auto model = half(good);
    ASSERT_TRUE(model) << good;
    EXPECT_EQ(model->dims().at("half"), 4);
  }
  for (const char* bad : {"\"half\": 5, ", "\"half\": 4, \"deep\": {\"half\": 5}, "}) {
    const auto model = half(bad);
    ASSERT_FALSE(model) << bad;
    EXPECT_EQ(model.error().id, "config-value");
    EXPECT_THAT(model.error().what,
                HasSubstr("half' is 5, the rest of the config makes it 4 (hidden / 2)"));
  }
  EXPECT_FALSE(half("\"half\": \"four\", "));
}

TEST(Symbols, WithoutValueFailOnlyWhereTheyAreUsed) {
  const std::string unused = With(kSampleFamily, "[flags]", "ghost = \"ghost_size\"\n[flags]");
  EXPECT_TRUE(Sample(unused, kSampleConfig));
  const auto used = Sample(With(unused, "\"2 * half\"", "\"2 * ghost\""), kSampleConfig);
  ASSERT_FALSE(used);
  EXPECT_EQ(used.error().id, "config-key-missing");
  EXPECT_THAT(used.error().what, HasSubstr("'ghost_size'"));
  // Under a condition that does not hold it is not used.
  EXPECT_TRUE(Sample(With(unused, "shape = [\"hidden\", \"half\"]",
                          "shape = [\"hidden\", \"ghost\"]\nwhen = \"tied\""),
                     kSampleConfig));
  // A value of the wrong kind is an error whether used or not.
  EXPECT_FALSE(Sample(
      unused, With(kSampleConfig, "\"vocab_size\"", "\"ghost_size\": \"big\", \"vocab_size\"")));
}

TEST(Symbols, CyclesAreErrors) {
  for (const char* cycle :
       {"a = { value = \"a\" }", "a = { value = \"b\" }\nb = { value = \"a\" }",
        "a = { value = \"b + b\" }\nb = { value = \"c * c\" }\nc = { value = \"a - a\" }"}) {
    const std::string family =
        With(With(kSampleFamily, "[flags]", std::string(cycle) + "\n[flags]"), "\"2 * half\"",
             "\"2 * a\"");
    const auto model = Sample(family, kSampleConfig);
    ASSERT_FALSE(model) << cycle;
    EXPECT_THAT(model.error().what, HasSubstr("is defined by itself"));
    EXPECT_EQ(model.error().kind, ErrorKind::kInvalid);
  }
}

// Each symbol uses the next one twice: resolved once each, not 2^30 times.
TEST(Symbols, SharedSubexpressionsAreResolvedOnce) {
  std::string dims;
  for (int i = 0; i < 30; ++i)
    dims += fmt::format("s{:02} = {{ value = \"s{:02} - s{:02} + 2\" }}\n", i, i + 1, i + 1);
  dims += "s30 = { value = \"2\" }\n[flags]";
  const auto model = Sample(
      With(With(kSampleFamily, "[flags]", dims), "\"2 * half\"", "\"s00 * half\""), kSampleConfig);
  ASSERT_TRUE(model) << model.error().what;
}

TEST(Symbols, NegativeDimsAreErrorsAndFlagsAreTruthValues) {
  EXPECT_FALSE(
      Sample(kSampleFamily, With(kSampleConfig, "\"hidden_size\": 8", "\"hidden_size\": -8")));
  EXPECT_FALSE(Sample(With(kSampleFamily, "\"hidden / 2\"", "\"hidden - 9\""), kSampleConfig));
  for (const char* yes : {"true", "1"}) {
    const auto model = Sample(
        kSampleFamily, With(kSampleConfig, "\"vocab_size\"",
                            fmt::format("\"tie_word_embeddings\": {}, \"vocab_size\"", yes)));
    ASSERT_TRUE(model);
    EXPECT_TRUE(model->tied());
    ASSERT_EQ(model->copies().size(), 1u);
    EXPECT_EQ(model->copies()[0].hf, "lm_head.weight");
  }
  EXPECT_FALSE(Sample(kSampleFamily, With(kSampleConfig, "\"vocab_size\"",
                                          "\"tie_word_embeddings\": \"yes\", \"vocab_size\"")));
}

// -- parameters --

TEST(Model, SampleHasItsParameters) {
  const auto model = Sample(kSampleFamily, kSampleConfig);
  ASSERT_TRUE(model) << model.error().what;
  std::vector<std::string> names;
  for (const Parameter& p : model->parameters())
    names.push_back(model->MegatronName(p, Dialect::kLocal));
  std::vector<std::string> expected = {"embedding.word_embeddings.weight",
                                       "decoder.layers.0.mlp.local_fc1.weight"};
  for (int layer : {1, 3}) {
    if (layer == 3) expected.push_back("decoder.layers.2.mlp.local_fc1.weight");
    for (int e = 0; e < 4; ++e)
      expected.push_back(
          fmt::format("decoder.layers.{}.mlp.experts.linear_fc2.weight{}", layer, e));
  }
  expected.insert(expected.end(), {"decoder.final_layernorm.weight", "output_layer.weight"});
  EXPECT_EQ(names, expected);
  EXPECT_NE(model->Ignored("model.layers.3.inv_freq"), nullptr);
  EXPECT_EQ(model->Ignored("model.layers.4.inv_freq"), nullptr);
  EXPECT_EQ(model->not_needed(), (std::vector<NotNeeded>{{"model.layers.*.inv_freq", "computed"}}));
  EXPECT_EQ(model->MegatronPattern(model->parameters()[5], Dialect::kTe),
            "decoder.layers.*.mlp.experts.linear_fc2.weight*");
}

TEST(Model, AStackMayHaveKindsOfItsOwn) {
  const std::string mtp = R"(
[layer_kinds.mlp.stacks.mtp]
rule = "from_list"
key = "mtp_kinds"
map = { d = "dense", m = "moe" }
fallback = { rule = "const", kind = "dense" }

[[stack]]
name = "mtp"
megatron = "mtp.layers.{layer}."
hf = "mtp.{layer}."
count = "2"
params_of = "decoder"
missing = "mtp-missing"
)";
  const std::string family = With(kSampleFamily, "[[hf_ignore]]", mtp + "\n[[hf_ignore]]");
  const auto experts = [&](const std::string& config) {
    const auto model = Sample(family, config);
    EXPECT_TRUE(model) << model.error().what;
    std::set<std::string> layers;
    for (const Parameter& p : model->parameters()) {
      if (p.is_expert() && p.place == Place::kMtp) layers.insert(p.hf[0].substr(0, 6));
    }
    return layers;
  };
  EXPECT_EQ(experts(kSampleConfig), std::set<std::string>{});
  EXPECT_EQ(experts(With(kSampleConfig, "{", R"({"mtp_kinds": ["d", "m"], )")),
            std::set<std::string>{"mtp.1."});
}

// What the sample family with these [[unsupported]] keys says of the sample config with that key.
std::string Refusal(const std::string& rule, const std::string& key) {
  const auto model = Sample(kSampleFamily + ("[[unsupported]]\nwhy = \"it cannot\"\n" + rule),
                            With(kSampleConfig, "{", "{" + key + ", "));
  if (model) return "";
  EXPECT_EQ(model.error().kind, ErrorKind::kUnsupported);
  EXPECT_EQ(model.error().id, "config-unsupported");
  return model.error().what;
}

TEST(Model, AConfigThatTheFamilyDoesNotKnowIsRefusedByName) {
  const std::string bias = "keys = [\"bias\", \"deep.bias\"]\n";
  EXPECT_EQ(Refusal(bias, R"("bias": true)"), "family tiny does not know 'bias' = true: it cannot");
  EXPECT_EQ(Refusal(bias, R"("deep": {"bias": 1})"),
            "family tiny does not know 'deep.bias' = 1: it cannot");
  for (const char* good : {R"("bias": false)", R"("bias": null)", R"("bias": 0)",
                           R"("other": true)", R"("bias": false, "deep": {"bias": true})"}) {
    EXPECT_EQ(Refusal(bias, good), "") << good;
  }
}

TEST(Model, RefusedValuesAreListedOrAllButThose) {
  EXPECT_NE(Refusal("keys = \"kind\"\nvalues = [\"b\", 3]\n", R"("kind": "b")"), "");
  EXPECT_NE(Refusal("keys = \"kind\"\nvalues = [\"b\", 3]\n", R"("kind": 3)"), "");
  EXPECT_EQ(Refusal("keys = \"kind\"\nvalues = [\"b\", 3]\n", R"("kind": "a")"), "");
  EXPECT_EQ(Refusal("keys = \"kind\"\nexcept = [\"a\"]\n", R"("kind": "a")"), "");
  EXPECT_NE(Refusal("keys = \"kind\"\nexcept = [\"a\"]\n", R"("kind": "b")"), "");
}

TEST(Model, AValueIsRefusedOnlyWhereALayerOfItsKindIsAndWhereTheConditionHolds) {
  const std::string key = R"("bias": true)";
  EXPECT_NE(Refusal("keys = \"bias\"\nlayers = \"moe\"\n", key), "");
  EXPECT_EQ(Refusal("keys = \"bias\"\nlayers = [\"moe\", \"dense\"]\n", key), "");
  EXPECT_NE(Refusal("keys = \"bias\"\nwhen = \"experts > 0\"\n", key), "");
  EXPECT_EQ(Refusal("keys = \"bias\"\nwhen = \"experts > 100\"\n", key), "");
}

TEST(Model, DimsOfALayerAreItsOwn) {
  const std::string dims = R"([layer_dims]
own_half = { key = "blocks", entry = "ffn.size", default = "half" }

[flags])";
  std::string family = With(kSampleFamily, "[flags]", dims);
  family =
      With(family, R"(shape = ["2 * half", "hidden"])", R"(shape = ["2 * own_half", "hidden"])");
  family =
      With(family, R"(components = ["half", "half"])", R"(components = ["own_half", "own_half"])");
  const auto rows = [&](const std::string& blocks) {
    const auto model = Sample(family, With(kSampleConfig, "{", "{" + blocks));
    EXPECT_TRUE(model) << model.error().what;
    std::vector<int64_t> sizes;
    for (const Parameter& p : model->parameters()) {
      if (p.rule->local == "mlp.local_fc1.weight") sizes.push_back(p.shape[0]);
    }
    return sizes;
  };
  EXPECT_EQ(rows(""), (std::vector<int64_t>{8, 8}));
  EXPECT_EQ(rows(R"("blocks": [{"ffn": {"size": 3}}, {}, {"ffn": {"size": 5}}, {}], )"),
            (std::vector<int64_t>{6, 10}));
  for (const char* bad : {R"("blocks": [{"ffn": {"size": "3"}}, {}, {}, {}], )",
                          R"("blocks": [{"ffn": {"size": -3}}, {}, {}, {}], )",
                          R"("blocks": [{}, {}, {}], )", R"("blocks": [{}, {}, {}, {}, {}], )"}) {
    EXPECT_FALSE(Sample(family, With(kSampleConfig, "{", std::string("{") + bad))) << bad;
  }
}

TEST(Model, AnIgnoredNameThatEndsWithADotIsABeginning) {
  const std::string tower = R"([[hf_ignore]]
hf = "talker."
why = "no part of the Megatron model"

[[hf_ignore]])";
  const auto model = Sample(With(kSampleFamily, "[[hf_ignore]]", tower), kSampleConfig);
  ASSERT_TRUE(model) << model.error().what;
  EXPECT_NE(model->Ignored("talker.layers.0.weight"), nullptr);
  EXPECT_EQ(model->Ignored("talker_layers"), nullptr);
}

TEST(Model, StorageIsChosenByTheNamesThatAreThere) {
  const auto spec = SpecOf(kSampleFamily);
  ASSERT_TRUE(spec);
  ExpandOptions options;
  const auto expert_names = [&](std::set<std::string> there) {
    options.has = [there](const std::string& name) { return there.contains(name); };
    const auto model = Model::Expand(*spec, json::parse(kSampleConfig), options);
    EXPECT_TRUE(model);
    std::set<std::string> names;
    for (const Parameter& p : model->parameters()) {
      if (p.is_expert() && p.layer == 1) names.insert(p.hf[0]);
    }
    return names;
  };
  EXPECT_EQ(expert_names({"model.layers.1.experts.down"}),
            (std::set<std::string>{"model.layers.1.experts.down"}));
  // Nothing is there: the primary names are asked for.
  EXPECT_EQ(expert_names({}).size(), 4u);
  EXPECT_EQ(
      expert_names({"model.layers.1.experts.down", "model.layers.1.experts.0.down.weight"}).size(),
      2u);
}

TEST(Model, TwoRulesForOneTensorAreAnError) {
  const std::string twice = R"(
[[param]]
stack = "decoder"
layers = "dense"
when = "layers > 2"
megatron = "mlp.linear_fc1.weight"
hf = "fc1.weight"
shape = ["half", "hidden"]
)";
  const auto model = Sample(kSampleFamily + twice, kSampleConfig);
  ASSERT_FALSE(model);
  EXPECT_THAT(model.error().what,
              HasSubstr("two rules describe 'mlp.linear_fc1.weight' of layer 0"));
  EXPECT_TRUE(Sample(kSampleFamily + With(twice, "\"dense\"", "\"moe\""), kSampleConfig));
  EXPECT_TRUE(Sample(kSampleFamily + With(twice, "layers > 2", "layers > 4"), kSampleConfig));
}

TEST(Model, StackWithMoreLayersThanTheModelIsAnError) {
  EXPECT_FALSE(
      Sample(With(kSampleFamily, "count = \"layers\"", "count = \"layers + 1\""), kSampleConfig));
  EXPECT_TRUE(
      Sample(With(kSampleFamily, "count = \"layers\"", "count = \"layers - 1\""), kSampleConfig));
  EXPECT_TRUE(
      Sample(With(kSampleFamily, "count = \"layers\"", "count = \"0 - 7\""), kSampleConfig));
  EXPECT_FALSE(
      Sample(With(kSampleFamily, "count = \"layers\"", "count = \"999999999999\""), kSampleConfig));
}

TEST(Model, GeometryThatNoTensorHasIsAnError) {
  const auto fault = [](const std::string& from, const std::string& to) {
    const auto model = Sample(With(kSampleFamily, from, to), kSampleConfig);
    return model ? std::string("accepted") : model.error().id;
  };
  EXPECT_EQ(fault("\"2 * half\"", "\"0\""), "family-file");
  EXPECT_EQ(fault("\"2 * half\"", "\"0 - 4\""), "family-file");
  EXPECT_EQ(fault("\"2 * half\"", "\"9999999999999\""), "config-value");
  EXPECT_EQ(fault("\"2 * half\"", "\"3\""), "shape");  // gated_mlp needs halves
  EXPECT_EQ(
      fault("components = [\"half\", \"half\"]", "components = [\"2 * half + 4\", \"0 - 4\"]"),
      "config-value");
  EXPECT_EQ(
      fault("shape = [\"2 * half\", \"hidden\"]", "shape = [\"1099511627776\", \"1099511627776\"]"),
      "config-value");
  EXPECT_EQ(fault("shape = [\"hidden\", \"half\"]\n", "shape = [\"536870912\", \"1073741824\"]\n"),
            "config-value");  // 2^59 x 4 experts
  EXPECT_EQ(fault("experts = \"experts\"\n", "experts = \"0 - 3\"\n"),
            "accepted");  // no expert, no parameter
}

TEST(Model, HeadsThatFitNoSizeAreOneKindOfFault) {
  const json config = *ReadJsonFile(std::string(WEIGHBRIDGE_SOURCE_DIR) +
                                    "/tests/testdata/hf/llama_untied/config.json");
  const auto spec = Library().ForConfig(config);
  ASSERT_TRUE(spec);
  for (const char* key : {"num_attention_heads", "num_key_value_heads"}) {
    for (const json& value : std::vector<json>{0, -1, 3, 5, "2", 2.0}) {
      json wrong = config;
      wrong.erase("head_dim");
      wrong[key] = value;
      const auto model = Try(**spec, wrong);
      ASSERT_FALSE(model) << key << " " << value;
      EXPECT_EQ(model.error().kind, ErrorKind::kInvalid);
      EXPECT_EQ(model.error().id, "head-geometry") << key << " " << value << model.error().what;
    }
  }
}

TEST(Model, AnUnknownActivationIsNoFaultOfTheCheckpoint) {
  json config = *ReadJsonFile(std::string(WEIGHBRIDGE_SOURCE_DIR) +
                              "/tests/testdata/hf/llama_untied/config.json");
  config["hidden_act"] = "bogus";
  const auto model = Try(**Library().ForConfig(config), config);
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().kind, ErrorKind::kUnsupported);
}

TEST(Model, PadVocabIsRefusedBelowTheVocabularyAndFarAboveIt) {
  const json config = *ReadJsonFile(std::string(WEIGHBRIDGE_SOURCE_DIR) +
                                    "/tests/testdata/hf/llama_untied/config.json");
  const auto spec = Library().ForConfig(config);
  const int64_t vocab = config["vocab_size"].get<int64_t>();
  EXPECT_EQ(Try(**spec, config, {.pad_vocab = vocab + 2})->padded_vocab(), vocab + 2);
  for (const int64_t rows : {vocab - 1, int64_t{1}, int64_t{1} << 25, int64_t{1000000000000}}) {
    const auto model = Try(**spec, config, {.pad_vocab = rows});
    ASSERT_FALSE(model) << rows;
    EXPECT_EQ(model.error().kind, ErrorKind::kUsage);
  }
}

}  // namespace
}  // namespace weighbridge
