#include "family/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

namespace weighbridge {
namespace {

using nlohmann::json;

Result<json> Call(const char* function, const json& value) {
  const ConfigFunction* f = FindConfigFunction(function);
  EXPECT_NE(f, nullptr) << function;
  return f->apply(value, json());
}

TEST(ConfigKeys, DottedKeysGoThroughObjects) {
  const json config = json::parse(R"({"a": {"b": {"c": 3}, "n": null, "l": [1]}, "z": 0, "": 4})");
  EXPECT_EQ(*FindKey(config, "a.b.c"), 3);
  EXPECT_EQ(*FindKey(config, "z"), 0);
  for (const char* absent : {"a.b.d", "a.n", "a.n.x", "z.y", "a.l.1", "b", "a.b.c.d", "a..b"}) {
    EXPECT_EQ(FindKey(config, absent), nullptr) << absent;
  }
}

TEST(ConfigKeys, NumbersGoThroughLists) {
  const json config = json::parse(R"({"a": [1, {"b": 2}, null]})");
  EXPECT_EQ(*FindKey(config, "a.0"), 1);
  EXPECT_EQ(*FindKey(config, "a.1.b"), 2);
  for (const char* key : {"a.2", "a.3", "a.-1", "a.x", "a.1x", "a.99999999999999999999"}) {
    EXPECT_EQ(FindKey(config, key), nullptr) << key;
  }
}

TEST(ConfigFunctions, FfnMultipleIsDeciLMs) {
  // Llama-3.3-Nemotron-Super-49B: hidden 8192.
  EXPECT_EQ(*FindLayerFunction("ffn_multiple")(5.25, 8192), 28672);
  EXPECT_EQ(*FindLayerFunction("ffn_multiple")(2.625, 8192), 14336);
  EXPECT_EQ(*FindLayerFunction("ffn_multiple")(1.0, 8192), 5632);
  for (const json& bad : {json("x"), json(nullptr), json(0), json(-1.0), json(1e300)}) {
    EXPECT_FALSE(FindLayerFunction("ffn_multiple")(bad, 8192)) << bad;
  }
  EXPECT_EQ(FindLayerFunction("other"), nullptr);
}

TEST(ConfigKeys, FirstThatIsPresentAndNotNullWins) {
  const json config = json::parse(R"({"a": null, "b": false, "c": 1})");
  EXPECT_EQ(*FirstKey(config, {"x", "a", "b", "c"}), false);
  EXPECT_EQ(FirstKey(config, {"x", "a"}), nullptr);
  EXPECT_EQ(FirstKey(config, {}), nullptr);
  EXPECT_EQ(FirstKey(json::array(), {"a"}), nullptr);
  EXPECT_EQ(FirstKey(json(3), {"a"}), nullptr);
}

TEST(ConfigFunctions, GoodValues) {
  EXPECT_EQ(*Call("activation", "silu"), "silu");
  EXPECT_EQ(*Call("activation", "swish"), "silu");
  EXPECT_EQ(*Call("activation", "gelu_pytorch_tanh"), "fast_gelu");
  EXPECT_EQ(*Call("activation", "relu2"), "squared_relu");
  EXPECT_EQ(*Call("not", true), false);
  EXPECT_EQ(*Call("not", false), true);
  const auto letters = FindConfigFunction("letters")->apply;
  const json letter = {{"mamba", "M"}, {"attention", "*"}};
  EXPECT_EQ(*letters({"mamba", "attention", "mamba"}, letter), "M*M");
  EXPECT_EQ(*letters(json::array(), letter), "");
  EXPECT_FALSE(letters({"mamba", "mlp"}, letter));
  EXPECT_FALSE(letters({"mamba", 3}, letter));
  EXPECT_FALSE(letters("mamba", letter));
  EXPECT_EQ(*Call("first_entry", json::parse("[3, 4]")), 3);
  EXPECT_EQ(*Call("first_entry", 3), 3);
  EXPECT_FALSE(Call("first_entry", json::array()));
  EXPECT_EQ(*Call("position_embedding", true), "yarn");
  EXPECT_EQ(*Call("position_embedding", false), "rope");
  EXPECT_EQ(*Call("rsqrt", 256), 0.0625);
  EXPECT_EQ(*Call("rsqrt", 2.5), 1.0 / std::sqrt(2.5));
  EXPECT_EQ(*Call("window", 4096), json::parse("[4095, 0]"));
  EXPECT_EQ(*Call("window", 1), json::parse("[0, 0]"));
  EXPECT_EQ(*Call("zero_is_none", 0), "none");
  EXPECT_EQ(*Call("zero_is_none", 7), 7);
}

TEST(ConfigFunctions, ObjectsAreMadeOfATableAndOfWhatIsSaidBesideIt) {
  const auto object = FindConfigFunction("object")->apply;
  const json arguments = {{"class", "a.B"}, {"with", {{"head", false}}}};
  EXPECT_EQ(*object({{"size", 3}, {"head", true}}, arguments),
            (json{{"_target_", "a.B"}, {"size", 3}, {"head", false}}));
  EXPECT_EQ(*object(json::object(), {{"class", "a.B"}}), (json{{"_target_", "a.B"}}));
  EXPECT_FALSE(object(3, arguments));
}

TEST(ConfigFunctions, EachHasItsWayBack) {
  const std::vector<std::pair<const char*, std::vector<json>>> values = {
      {"activation", {"silu", "gelu", "gelu_pytorch_tanh", "relu", "relu2", "quick_gelu"}},
      {"all_ones_is_one", {json::parse("[0, 1, 1]")}},
      {"first_entry", {10000.0}},
      {"not", {true, false}},
      {"position_embedding", {true, false}},
      {"rsqrt", {256, 144, 1, 2.5, 3}},
      {"sqrt", {144, 1, 2048, 3}},
      {"window", {1, 4096}},
      {"zero_is_none", {7}},
  };
  ASSERT_EQ(values.size() + 2, AllConfigFunctions().size());  // letters and object have arguments
  for (const auto& [name, list] : values) {
    for (const json& value : list) {
      const auto megatron = Call(name, value);
      ASSERT_TRUE(megatron) << name;
      const auto back = FindConfigFunction(name)->invert(*megatron, json());
      ASSERT_TRUE(back) << name;
      EXPECT_EQ(*back, value) << name;
    }
  }
  EXPECT_EQ(*FindConfigFunction("zero_is_none")->invert(json(nullptr), json()), 0);
  const auto kinds = FindConfigFunction("letters")->invert;
  const json letter = {{"mamba", "M"}, {"attention", "*"}};
  EXPECT_EQ(*kinds("M*M", letter), json::parse(R"(["mamba", "attention", "mamba"])"));
  for (const json& bad : {json("ME"), json(nullptr), json(3), json::array({"M"})}) {
    EXPECT_FALSE(kinds(bad, letter)) << bad;
  }
}

TEST(ConfigFunctions, ValuesThatAreNeverGivenHaveNoWayBack) {
  const std::vector<std::pair<const char*, std::vector<json>>> bad = {
      {"activation", {"swish", 3, nullptr, json::object()}},
      {"not", {0, "true"}},
      {"position_embedding", {"none", true, nullptr}},
      {"rsqrt", {0, -1, "a", std::numeric_limits<double>::quiet_NaN()}},
      {"window", {7, json::parse("[1]"), json::parse("[3, 1]"), json::parse("[-1, 0]")}},
  };
  for (const auto& [name, list] : bad) {
    for (const json& value : list) {
      EXPECT_FALSE(FindConfigFunction(name)->invert(value, json())) << name << " " << value;
    }
  }
}

TEST(ConfigFunctions, BadValuesAreErrorsThatSayTheValue) {
  const std::vector<std::pair<const char*, std::vector<json>>> bad = {
      {"activation", {3, nullptr, json::array({"silu"}), json::object()}},
      {"not", {0, 1, "true", nullptr, json::array()}},
      {"position_embedding", {"yarn", 1, nullptr}},
      {"rsqrt",
       {0, -1, 0.0, -0.0, "4", nullptr, true, json::array({4}),
        std::numeric_limits<double>::quiet_NaN(), INT64_MIN}},
      {"window", {0, -1, 4096.0, "4096", nullptr, true, UINT64_MAX, INT64_MIN}},
      {"zero_is_none", {0.0, "0", nullptr, false}},
  };
  for (const auto& [function, values] : bad) {
    for (const json& value : values) {
      const auto result = Call(function, value);
      ASSERT_FALSE(result) << function << " " << value;
      EXPECT_EQ(result.error().kind, ErrorKind::kInvalid);
      EXPECT_EQ(result.error().id, "config-value");
      EXPECT_NE(result.error().what.find(function), std::string::npos);
    }
  }
}

TEST(ConfigFunctions, EveryFunctionTakesEveryKindOfValue) {
  const json values[] = {nullptr,
                         true,
                         false,
                         0,
                         -1,
                         INT64_MAX,
                         INT64_MIN,
                         UINT64_MAX,
                         0.5,
                         -1e308,
                         5e-324,
                         std::numeric_limits<double>::infinity(),
                         std::numeric_limits<double>::quiet_NaN(),
                         "",
                         "x",
                         json::array(),
                         json::object(),
                         json::array({json::array()})};
  for (const ConfigFunction& f : AllConfigFunctions()) {
    for (const json& value : values) {
      const auto result = f.apply(value, json());
      if (!result) {
        EXPECT_FALSE(result.error().what.empty());
      }
    }
    EXPECT_FALSE(f.meaning.empty());
  }
  EXPECT_EQ(FindConfigFunction("nothing"), nullptr);
}

TEST(Describe, ShortensLongValuesAndKeepsText) {
  EXPECT_EQ(Describe(json("a")), "\"a\"");
  EXPECT_EQ(Describe(json(std::string(10000, 'x'))).size(), 83u);
  EXPECT_EQ(Describe(json("\xC3\xA4")), "\"\\u00e4\"");
  EXPECT_NO_THROW(Describe(json("\xFF")));
}

TEST(ConfigFunctions, AnActivationThatIsNotKnownIsUnsupported) {
  for (const json& value : std::vector<json>{"Silu", "", "bogus"}) {
    const auto result = Call("activation", value);
    ASSERT_FALSE(result) << value;
    EXPECT_EQ(result.error().kind, ErrorKind::kUnsupported);
    EXPECT_NE(result.error().what.find(value.dump()), std::string::npos);
  }
}

}  // namespace
}  // namespace weighbridge
