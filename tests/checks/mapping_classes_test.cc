#include "checks/mapping_classes.h"

#include <gtest/gtest.h>

#include "checks/rule_code.h"

namespace weighbridge {
namespace {

constexpr char kCommon[] = "megatron.bridge.models.conversion.param_mapping.";

TEST(FindMappingClass, KnowsAClassByItsModule) {
  ASSERT_NE(FindMappingClass(std::string(kCommon) + "AutoMapping"), nullptr);
  EXPECT_EQ(FindMappingClass(std::string(kCommon) + "AutoMapping")->name, "AutoMapping");
  EXPECT_EQ(FindMappingClass("AutoMapping"), nullptr);
  EXPECT_EQ(FindMappingClass("my_bridge.AutoMapping"), nullptr);
  EXPECT_EQ(FindMappingClass("megatron.bridge.models.novel.novel_bridge.AutoMapping"), nullptr);
  EXPECT_EQ(FindMappingClass(std::string(kCommon) + "MyAutoMapping"), nullptr);
  EXPECT_EQ(FindMappingClass(""), nullptr);
}

TEST(FindKnownHook, KnowsAHookByTheBridgeThatHasIt) {
  const char* hook =
      "megatron.bridge.models.llama.llama_bridge.LlamaBridge.maybe_modify_converted_hf_weight";
  EXPECT_NE(FindKnownHook(hook), nullptr);
  EXPECT_EQ(FindKnownHook("my_bridge.LlamaBridge.maybe_modify_converted_hf_weight"), nullptr);
  EXPECT_TRUE(NeedsHook("swap_halves"));
  EXPECT_FALSE(NeedsHook("identity"));
  EXPECT_FALSE(NeedsHook(""));
}

RegistryRule RuleOf(std::vector<std::string> classes, std::map<std::string, std::string> own) {
  RegistryRule rule;
  rule.mapping_class = "Mine";
  rule.classes = std::move(classes);
  rule.own = std::move(own);
  return rule;
}

TEST(KnownClassOf, IsThatOfTheParentWhereNothingIsOwnedBesides) {
  const std::string parent = std::string(kCommon) + "AutoMapping";
  EXPECT_EQ(KnownClassOf(RuleOf({"m.Mine", parent}, {{"__init__", "m.Mine.__init__"}})),
            FindMappingClass(parent));
  EXPECT_EQ(KnownClassOf(RuleOf({"m.Mine", parent}, {{"f", "m.Mine.f"}})), nullptr);
  EXPECT_EQ(OwnCodeOf(RuleOf({"m.Mine", parent}, {{"f", "m.Mine.f"}})),
            std::vector<std::string>{"m.Mine.f"});
  EXPECT_EQ(OwnCodeOf(RuleOf({"m.Mine"}, {})), std::vector<std::string>{"m.Mine"});
}

TEST(KnownClassOf, IsNoneWhereTheClassDoesNotBuildWhatItHolds) {
  const std::string parent = std::string(kCommon) + "AutoMapping";
  RegistryRule rule = RuleOf({"m.Mine", parent}, {});
  EXPECT_EQ(KnownClassOf(rule), FindMappingClass(parent));
  rule.held = {{"_mapping", std::string(kCommon) + "QKVMapping"}, {"_parts[0]", "m.Own"}};
  EXPECT_EQ(KnownClassOf(rule), nullptr);
  EXPECT_EQ(HeldText(rule), std::string(kCommon) + "QKVMapping in _mapping, m.Own in _parts[0]");
}

TEST(ClassThatItChanges, IsTheOneThatTheRuleWouldBeJudgedAs) {
  const std::string parent = std::string(kCommon) + "AutoMapping";
  RegistryRule rule = RuleOf({"m.Mine", parent}, {});
  rule.held = {{"_mapping", "m.Own"}};
  rule.trial = {.like = parent, .changed = "", .untried = ""};
  EXPECT_EQ(ClassThatItChanges(rule), nullptr);
  rule.trial.changed = "changes values on import";
  EXPECT_EQ(ClassThatItChanges(rule), FindMappingClass(parent));
  rule.trial.like = std::string(kCommon) + "QKVMapping";
  EXPECT_EQ(ClassThatItChanges(rule), nullptr);
  rule.trial.like = "m.Unknown";
  EXPECT_EQ(ClassThatItChanges(rule), nullptr);
}

TEST(KnownClassOf, TakesNoMethodOfAnotherKnownClassForItsOwn) {
  const std::string parent = std::string(kCommon) + "AutoMapping";
  const std::string other = std::string(kCommon) + "QKVMapping.hf_to_megatron";
  EXPECT_EQ(KnownClassOf(RuleOf({parent}, {{"hf_to_megatron", other}})), nullptr);
}

}  // namespace
}  // namespace weighbridge
