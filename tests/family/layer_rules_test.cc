#include "family/layer_rules.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "base/json.h"

namespace weighbridge {
namespace {

using testing::HasSubstr;
using Kinds = std::vector<std::string>;

Result<Kinds> KindsOf(const LayerRule& rule, int64_t layers, const std::string& config = "{}") {
  return LayerKinds(
      rule, layers, nlohmann::json::parse(config), [](std::string_view name) -> Result<int64_t> {
        if (name == "three") return 3;
        return Fail(ErrorKind::kInvalid, "config-key-missing", "no " + std::string(name));
      });
}

LayerRule Rule(std::string name, std::map<std::string, std::string> arguments,
               std::map<std::string, std::string> map = {}) {
  return {std::move(name), std::move(arguments), std::move(map), {}};
}

std::string Fault(const Result<Kinds>& kinds) {
  EXPECT_FALSE(kinds);
  if (kinds) return "";
  EXPECT_EQ(kinds.error().kind, ErrorKind::kInvalid);
  return kinds.error().what;
}

TEST(LayerRules, ConstIsTheSameEverywhere) {
  EXPECT_EQ(*KindsOf(Rule("const", {{"kind", "a"}}), 3), (Kinds{"a", "a", "a"}));
  EXPECT_EQ(*KindsOf(Rule("const", {{"kind", "a"}}), 0), Kinds{});
}

TEST(LayerRules, FirstKCountsFromTheFront) {
  const auto rule = [](const char* k) {
    return Rule("first_k", {{"k", k}, {"first", "d"}, {"rest", "m"}});
  };
  EXPECT_EQ(*KindsOf(rule("three"), 4), (Kinds{"d", "d", "d", "m"}));
  EXPECT_EQ(*KindsOf(rule("0"), 2), (Kinds{"m", "m"}));
  EXPECT_EQ(*KindsOf(rule("0 - 5"), 2), (Kinds{"m", "m"}));
  EXPECT_EQ(*KindsOf(rule("9223372036854775807"), 2), (Kinds{"d", "d"}));
  EXPECT_EQ(Fault(KindsOf(rule("zebra"), 2)), "no zebra");
}

TEST(LayerRules, EveryNHitsOnlyFromOneLayerToAnother) {
  const LayerRule rule = Rule(
      "every_n", {{"n", "1"}, {"hit", "m"}, {"miss", "d"}, {"from", "three - 2"}, {"to", "last"}});
  EXPECT_EQ(*KindsOf(rule, 4), (Kinds{"d", "m", "m", "m"}));
  EXPECT_EQ(*KindsOf(rule, 4, R"({"last": 2})"), (Kinds{"d", "m", "m", "d"}));
  EXPECT_EQ(*KindsOf(rule, 4, R"({"last": -1})"), (Kinds{"d", "m", "m", "m"}));
  EXPECT_THAT(Fault(KindsOf(rule, 4, R"({"last": "2"})")), HasSubstr("not a number"));
}

RC_GTEST_PROP(LayerRules, EveryNHitsWhereTheRemainderIsThePhase, ()) {
  const auto layers = *rc::gen::inRange<int64_t>(0, 20);
  const auto n = *rc::gen::inRange<int64_t>(1, 7);
  const bool phased = *rc::gen::arbitrary<bool>();
  const auto phase = phased ? *rc::gen::inRange<int64_t>(0, n) : n - 1;
  const auto except = *rc::gen::container<std::vector<int64_t>>(rc::gen::inRange<int64_t>(-3, 25));
  LayerRule rule = Rule(
      "every_n", {{"n", std::to_string(n)}, {"hit", "h"}, {"miss", "-"}, {"except", "skip.these"}});
  if (phased) rule.arguments["phase"] = std::to_string(phase);
  nlohmann::json config;
  config["skip"]["these"] = except;
  const auto kinds = KindsOf(rule, layers, config.dump());
  RC_ASSERT(kinds.has_value());
  RC_ASSERT(static_cast<int64_t>(kinds->size()) == layers);
  for (int64_t i = 0; i < layers; ++i) {
    const bool excepted = std::find(except.begin(), except.end(), i) != except.end();
    RC_ASSERT((*kinds)[static_cast<size_t>(i)] == (i % n == phase && !excepted ? "h" : "-"));
  }
}

TEST(LayerRules, EveryNRefusesWhatIsNoPeriod) {
  const auto rule = [](const char* n) {
    return Rule("every_n", {{"n", n}, {"hit", "h"}, {"miss", "-"}, {"except", "skip"}});
  };
  EXPECT_EQ(Fault(KindsOf(rule("0"), 4)), "rule every_n: n is 0");
  EXPECT_EQ(Fault(KindsOf(rule("0 - 2"), 4)), "rule every_n: n is -2");
  for (const char* bad : {"[1.5]", "[\"1\"]", "[[1]]", "[null]", "[true]"}) {
    EXPECT_THAT(Fault(KindsOf(rule("2"), 4, std::string("{\"skip\":") + bad + "}")),
                HasSubstr("not layer numbers"))
        << bad;
  }
  // Beyond the layers, or absurd: no layer is meant.
  EXPECT_EQ(*KindsOf(rule("2"), 2, R"({"skip": [18446744073709551615, -9223372036854775808]})"),
            (Kinds{"-", "h"}));
  EXPECT_EQ(*KindsOf(rule("2"), 2, R"({"skip": null})"), (Kinds{"-", "h"}));
}

const LayerRule kList =
    Rule("from_list", {{"key", "types"}},
         {{"s", "sliding"}, {"f", "full"}, {"1", "one"}, {"true", "yes"}, {"null", "no"}});

TEST(LayerRules, FromListReadsOneEntryPerLayer) {
  EXPECT_EQ(*KindsOf(kList, 3, R"({"types": ["s", "f", "s"]})"),
            (Kinds{"sliding", "full", "sliding"}));
  EXPECT_EQ(*KindsOf(kList, 3, R"({"types": [1, true, null]})"), (Kinds{"one", "yes", "no"}));
  EXPECT_EQ(*KindsOf(kList, 2, R"({"types": 1})"), (Kinds{"one", "one"}));
}

TEST(LayerRules, FromListRefusesOtherLists) {
  EXPECT_THAT(Fault(KindsOf(kList, 3, R"({"types": ["s"]})")),
              HasSubstr("'types' has 1 entries for 3 layers"));
  EXPECT_THAT(Fault(KindsOf(kList, 2, R"({"types": ["s", "f", "s"]})")),
              HasSubstr("'types' has 3 entries for 2 layers"));
  EXPECT_THAT(Fault(KindsOf(kList, 1, R"({"types": ["x"]})")), HasSubstr("unknown layer kind 'x'"));
  EXPECT_THAT(Fault(KindsOf(kList, 1, R"({"types": {"s": 1}})")), HasSubstr("not a list"));
  EXPECT_THAT(Fault(KindsOf(kList, 1, R"({"types": "sf"})")), HasSubstr("not a list"));
  EXPECT_THAT(Fault(KindsOf(kList, 1, R"({"types": [["s"]]})")), HasSubstr("unknown layer kind"));
  EXPECT_THAT(Fault(KindsOf(kList, 1)), HasSubstr("the config has no 'types'"));
  EXPECT_THAT(Fault(KindsOf(kList, 1, R"({"types": null})")),
              HasSubstr("the config has no 'types'"));
}

TEST(LayerRules, FromListSkipsTheEntriesOfOtherLayers) {
  const LayerRule rule =
      Rule("from_list", {{"key", "l"}, {"skip", "three"}}, {{"a", "A"}, {"b", "B"}});
  EXPECT_EQ(*KindsOf(rule, 2, R"({"l": ["a", "a", "a", "b", "a"]})"), (Kinds{"B", "A"}));
  for (const int64_t layers : {1, 3}) {
    EXPECT_THAT(Fault(KindsOf(rule, layers, R"({"l": ["a", "a", "a", "b", "a"]})")),
                HasSubstr(fmt::format("5 entries for {} layers after the first 3", layers)));
  }
}

TEST(LayerRules, FromListMayHaveATailOfExactlySoManyEntriesOfOtherLayers) {
  const LayerRule rule =
      Rule("from_list", {{"key", "l"}, {"tail", "three"}}, {{"a", "A"}, {"b", "B"}});
  EXPECT_EQ(*KindsOf(rule, 2, R"({"l": ["a", "b"]})"), (Kinds{"A", "B"}));
  EXPECT_EQ(*KindsOf(rule, 2, R"({"l": ["a", "b", "b", "b", "b"]})"), (Kinds{"A", "B"}));
  EXPECT_THAT(Fault(KindsOf(rule, 2, R"({"l": ["a", "b", "b", "b"]})")),
              HasSubstr("4 entries for 2 layers"));
}

TEST(LayerRules, FromListLooksIntoTheObjectOfEachLayer) {
  const LayerRule rule = Rule("from_list", {{"key", "l"}, {"entry", "attention.no_op"}},
                              {{"true", "none"}, {"false", "some"}, {"null", "default"}});
  EXPECT_EQ(
      *KindsOf(rule, 4, R"({"l": [{"attention": {"no_op": true}}, {"attention": {"no_op": false}},
                                        {"attention": {"no_op": null}}, {}]})"),
      (Kinds{"none", "some", "default", "default"}));
  EXPECT_THAT(Fault(KindsOf(rule, 1, R"({"l": [{"attention": {"no_op": 2}}]})")),
              HasSubstr("unknown layer kind '2'"));
}

TEST(LayerRules, ListedReadsLayerNumbers) {
  const LayerRule rule = Rule("listed", {{"key", "l"}, {"hit", "moe"}, {"miss", "dense"}});
  const Kinds expected = {"dense", "moe", "moe", "dense"};
  EXPECT_EQ(*KindsOf(rule, 4, R"({"l": [1, 2, 7]})"), expected);
  EXPECT_EQ(*KindsOf(rule, 4, R"({"l": "1,2,7"})"), expected);
  EXPECT_EQ(*KindsOf(rule, 2, R"({"l": []})"), (Kinds{"dense", "dense"}));
  for (const char* bad :
       {R"({"l": "1,,2"})", R"({"l": ["1"]})", R"({"l": 3})", R"({"l": [1.5]})"}) {
    EXPECT_THAT(Fault(KindsOf(rule, 4, bad)), HasSubstr("does not list layer numbers")) << bad;
  }
}

TEST(LayerRules, PatternStringRepeatsItselfWhereItMay) {
  const std::map<std::string, std::string> map = {{"*", "a"}, {"E", "e"}};
  const LayerRule rule = Rule("pattern_string", {{"key", "p"}, {"repeat", "true"}}, map);
  EXPECT_EQ(*KindsOf(rule, 5, R"({"p": "*E"})"), (Kinds{"a", "e", "a", "e", "a"}));
  EXPECT_THAT(Fault(KindsOf(Rule("pattern_string", {{"key", "p"}}, map), 4, R"({"p": "*E"})")),
              HasSubstr("names 2 layers"));
}

TEST(LayerRules, FallbackServesAnAbsentKeyOnly) {
  LayerRule rule = kList;
  rule.fallback = {Rule("const", {{"kind", "full"}})};
  EXPECT_EQ(*KindsOf(rule, 2), (Kinds{"full", "full"}));
  EXPECT_EQ(*KindsOf(rule, 2, R"({"types": null})"), (Kinds{"full", "full"}));
  EXPECT_FALSE(KindsOf(rule, 2, R"({"types": ["x", "x"]})"));
  EXPECT_THAT(PossibleKinds(rule), testing::Contains("full"));
}

TEST(LayerRules, PatternStringReadsOneCharacterPerLayer) {
  const LayerRule rule = Rule("pattern_string", {{"key", "p"}, {"separators", "|,"}},
                              {{"M", "mamba"}, {"*", "attention"}});
  EXPECT_EQ(*KindsOf(rule, 3, R"({"p": "M|*,M"})"), (Kinds{"mamba", "attention", "mamba"}));
  EXPECT_THAT(Fault(KindsOf(rule, 2, R"({"p": "MMM"})")),
              HasSubstr("names 3 layers, the model has 2"));
  EXPECT_THAT(Fault(KindsOf(rule, 1, R"({"p": "x"})")), HasSubstr("character 1 of 'x'"));
  EXPECT_THAT(Fault(KindsOf(rule, 1, R"({"p": ["M"]})")), HasSubstr("not a string"));
  // A character of several bytes: the message is still text.
  const std::string what = Fault(KindsOf(rule, 1, "{\"p\": \"\xC3\xA4\"}"));
  EXPECT_NO_THROW(nlohmann::json(what).dump());
}

TEST(LayerRules, AreSortedByName) {
  for (size_t i = 1; i < AllLayerRules().size(); ++i)
    EXPECT_LT(AllLayerRules()[i - 1].name, AllLayerRules()[i].name);
}

}  // namespace
}  // namespace weighbridge
