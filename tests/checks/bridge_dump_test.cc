#include "checks/bridge_dump.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace weighbridge {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Optional;

// Known answers: MegatronMappingRegistry of megatron-bridge 0.6.2 (re.escape, then (.*) and (\d+)).
TEST(MatchRule, AStarIsARunOfDigits) {
  EXPECT_THAT(MatchRule("a.*.b", "a.12.b"), Optional(ElementsAre("12")));
  EXPECT_FALSE(MatchRule("a.*.b", "a.x.b"));
  EXPECT_FALSE(MatchRule("a.*.b", "a..b"));
  EXPECT_FALSE(MatchRule("a.*.b", "a.1.b.c"));
  EXPECT_THAT(MatchRule("experts.linear_fc1.weight*", "experts.linear_fc1.weight7"),
              Optional(ElementsAre("7")));
  EXPECT_THAT(MatchRule("a", "a"), Optional(ElementsAre()));
}

TEST(MatchRule, TwoStarsAreAnyTextAndTakeTheLongest) {
  EXPECT_THAT(MatchRule("vision.**", "vision.a.0.b"), Optional(ElementsAre("a.0.b")));
  EXPECT_THAT(MatchRule("vision.**", "vision."), Optional(ElementsAre("")));
  EXPECT_THAT(MatchRule("**.x.*", "a.x.1.x.2"), Optional(ElementsAre("a.x.1", "2")));
}

TEST(MatchRule, ManyWildcardsTakeAsMuchAsTheRestAllows) {
  EXPECT_THAT(MatchRule("**.*.**", "a.1.2.b"), Optional(ElementsAre("a.1", "2", "b")));
  EXPECT_THAT(MatchRule("*1*", "1111"), Optional(ElementsAre("11", "1")));
  EXPECT_THAT(MatchRule("***", "ab12"), Optional(ElementsAre("ab1", "2")));
  EXPECT_FALSE(MatchRule("**x", ""));
}

TEST(MatchRule, TakesLittleTimeWhateverThePattern) {
  std::string name;
  for (int i = 0; i < 3000; ++i) name += "abc";
  EXPECT_FALSE(MatchRule("**a**b**c**a**b**d", name));
}

TEST(FillRule, AllDoubleStarsAreFilledFirst) {
  EXPECT_EQ(FillRule("model.layers.*.experts.*.w", {"3", "7"}), "model.layers.3.experts.7.w");
  EXPECT_EQ(FillRule("layers.*.**", {"3", "x"}), "layers.x.3");
  EXPECT_EQ(FillRule("plain", {"3"}), "plain");
}

json Document() {
  return {{"schema", kBridgeDumpSchema},
          {"bridge", "B"},
          {"config", json::object()},
          {"mappings",
           {{{"megatron", "a.*"},
             {"hf", {{"q", "x.*.q"}, {"k", "x.*.k"}}},
             {"class", "QKVMapping"},
             {"classes", {"my_bridge.QKVMapping"}}}}}};
}

TEST(ParseBridgeDump, GivesRulesInOrderWithTheirRoles) {
  const auto dump = ParseBridgeDump(Document());
  ASSERT_TRUE(dump) << dump.error().what;
  const auto sources = SourcesOf(dump->rules[0], "a.4");
  ASSERT_TRUE(sources);
  EXPECT_THAT(*sources, ElementsAre(std::pair("k", "x.4.k"), std::pair("q", "x.4.q")));
  EXPECT_EQ(dump->rules[0].Text(), "rule 0 (QKVMapping a.*)");
  EXPECT_EQ(FirstRule(*dump, "b"), nullptr);
}

TEST(ParseBridgeDump, RefusesWhatIsNoDumpAndSaysWhere) {
  const auto refused = [](const json& document) {
    const auto dump = ParseBridgeDump(document);
    return dump ? std::string("taken") : dump.error().at + ": " + dump.error().what;
  };
  EXPECT_THAT(refused(json::array()), HasSubstr("no document of"));
  json document = Document();
  document["mappings"][0]["hf"] = 7;
  EXPECT_THAT(refused(document), HasSubstr("mappings[0]"));
  document = Document();
  document["mappings"][0].erase("class");
  EXPECT_THAT(refused(document), HasSubstr("'class'"));
  document = Document();
  document["mappings"][0].erase("classes");
  EXPECT_THAT(refused(document), HasSubstr("list of texts"));
  document = Document();
  document["mappings"][0]["args"] = {{"permute_dims", {1, "0"}}};
  EXPECT_THAT(refused(document), HasSubstr("permute_dims"));
  document = Document();
  document["hooks"] = {{{"method", "m"}, {"code", "c"}, {"changed", {{"x", "text"}}}}};
  EXPECT_THAT(refused(document), HasSubstr("'x' is no number of a rule"));
  document = Document();
  document["hf"] = json::parse(R"([["x", [1, -2]]])");
  EXPECT_THAT(refused(document), HasSubstr("[name, shape]"));
}

TEST(ParseBridgeDump, TakesARuleThatRaisedBeforeItsNamesWereKnown) {
  json document = Document();
  document["mappings"].push_back(
      {{"class", "Mine"}, {"classes", json::array()}, {"raised", "KeyError"}});
  const auto dump = ParseBridgeDump(document);
  ASSERT_TRUE(dump) << dump.error().what;
  EXPECT_EQ(dump->rules.at(1).raised, "KeyError");
  EXPECT_TRUE(dump->rules.at(1).hf.empty());
}

TEST(ParseBridgeDump, ReadsHooksAndWhatTheyDid) {
  json document = Document();
  document["hooks"] = {
      {{"method", "m"}, {"code", "my_bridge.B.m"}, {"changed", {{"0", "changes values"}}}}};
  const auto dump = ParseBridgeDump(document);
  ASSERT_TRUE(dump) << dump.error().what;
  EXPECT_EQ(dump->hooks.at(0).code, "my_bridge.B.m");
  EXPECT_EQ(dump->hooks.at(0).changed.at(0), "changes values");
}

TEST(ParseBridgeDump, ReadsWhatAClassResolvesByItself) {
  json document = Document();
  json& rule = document["mappings"][0];
  rule["resolved"] = {{"decoder.layers.0.w", "model.layers.0.weight-of-a-long-name.w"}};
  const auto dump = ParseBridgeDump(document);
  ASSERT_TRUE(dump) << dump.error().what;
  const RegistryRule& read = dump->rules.at(0);
  ASSERT_EQ(read.resolved.count("decoder.layers.0.w"), 1U);
  EXPECT_EQ(read.resolved.at("decoder.layers.0.w").begin()->second,
            "model.layers.0.weight-of-a-long-name.w");
}

TEST(ParseBridgeDump, ReadsWhatARuleHoldsAndHowItWasTried) {
  json document = Document();
  EXPECT_TRUE(ParseBridgeDump(document)->rules.at(0).held.empty());  // as dumps of before
  json& rule = document["mappings"][0];
  rule["held"] = {{"_mapping", "mine.Own"}};
  rule["cuts"] = {"row"};
  rule["resolved_args"] = {{"permute_dims", {1, 0}}};
  rule["trial"] = {{"like", "theirs.AutoMapping"}, {"changed", "changes values on import"}};
  const auto dump = ParseBridgeDump(document);
  ASSERT_TRUE(dump) << dump.error().what;
  const RegistryRule& read = dump->rules.at(0);
  EXPECT_EQ(read.held.at("_mapping"), "mine.Own");
  EXPECT_THAT(read.cuts, ElementsAre("row"));
  EXPECT_EQ(read.resolved_args, R"({"permute_dims":[1,0]})");
  EXPECT_EQ(read.trial.like, "theirs.AutoMapping");
  EXPECT_EQ(read.trial.changed, "changes values on import");
  EXPECT_EQ(read.trial.untried, "");
}

TEST(ParseBridgeDump, RefusesWhatIsNoTableOfHeldMappings) {
  for (const char* key : {"held", "cuts", "trial", "resolved_args"}) {
    for (const json& wrong : {json::array({1}), json("x"), json(3)}) {
      json document = Document();
      document["mappings"][0][key] = wrong;
      EXPECT_FALSE(ParseBridgeDump(document)) << key << " " << wrong;
    }
  }
}

TEST(ParseBridgeDump, RefusesWhatIsNoTableOfResolvedNames) {
  for (const json& wrong : {json::array({1}), json::array(), json("x"), json(3)}) {
    json document = Document();
    document["mappings"][0]["resolved"] = wrong;
    EXPECT_FALSE(ParseBridgeDump(document)) << wrong;
  }
}

}  // namespace
}  // namespace weighbridge
