#include "base/json.h"

#include <gtest/gtest.h>

#include <cmath>

namespace weighbridge {
namespace {

TEST(ParseJson, ReadsWhatPythonWritesForNumbersThatAreNotFinite) {
  const auto json =
      ParseJson(R"({"limit": [0.0, Infinity, -Infinity, NaN], "text": "Infinity \"NaN"})", "x");
  ASSERT_TRUE(json) << json.error().what;
  EXPECT_EQ((*json)["limit"][1].get<double>(), INFINITY);
  EXPECT_EQ((*json)["limit"][2].get<double>(), -INFINITY);
  EXPECT_TRUE(std::isnan((*json)["limit"][3].get<double>()));
  EXPECT_EQ((*json)["text"], "Infinity \"NaN");
}

TEST(ParseJson, ReadsTheTagsThatTransformersWritesForNumbersThatAreNotFinite) {
  const auto json = ParseJson(R"({"limit": [0.0, {"__float__": "Infinity"}, {"__float__": "NaN"}],
                                  "text": {"__float__": "much"}, "two": {"__float__": "NaN", "b": 1}})",
                              "x");
  ASSERT_TRUE(json) << json.error().what;
  EXPECT_EQ((*json)["limit"][1].get<double>(), INFINITY);
  EXPECT_TRUE(std::isnan((*json)["limit"][2].get<double>()));
  EXPECT_EQ((*json)["text"]["__float__"], "much");
  EXPECT_EQ((*json)["two"]["__float__"], "NaN");
}

TEST(ParseJson, RefusesTextThatOnlyLooksLikeANumberThatIsNotFinite) {
  for (const char* text :
       {"[Infinit]", "[InfinityInfinity]", "{NaN: 1}", "[- Infinity]", "[nan]"}) {
    EXPECT_FALSE(ParseJson(text, "x")) << text;
  }
}

TEST(ParseJson, NamesTheOffsetOfASyntaxError) {
  const auto json = ParseJson(R"({"a": 1,})", "config.json");
  ASSERT_FALSE(json);
  EXPECT_EQ(json.error().kind, ErrorKind::kCorrupt);
  EXPECT_EQ(json.error().id, "header-corrupt");
  EXPECT_EQ(json.error().at, "config.json:8");
}

TEST(ParseJson, AcceptsTwoHundredLevelsAndRefusesOneMore) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_TRUE(ParseJson(nested(200), "x"));
  EXPECT_FALSE(ParseJson(nested(201), "x"));
  EXPECT_FALSE(ParseJson(std::string(1'000'000, '['), "x"));
}

TEST(ParseJson, TakesTheLastOfTwoEqualKeysAsPythonDoes) {
  EXPECT_EQ((*ParseJson(R"({"a": 1, "a": 2})", "x"))["a"], 2);
}

}  // namespace
}  // namespace weighbridge
