#include "base/pattern.h"

#include <gtest/gtest.h>

#include <string>

namespace weighbridge {
namespace {

bool Matches(std::string_view pattern, std::string_view text) {
  const auto parsed = Pattern::Parse(pattern);
  EXPECT_TRUE(parsed) << pattern;
  return parsed && parsed->MatchesStart(text);
}

TEST(Pattern, MatchesFromTheBeginningAndNotToTheEnd) {
  EXPECT_TRUE(Matches("lm_head", "lm_head.weight"));
  EXPECT_FALSE(Matches("head", "lm_head"));
  EXPECT_TRUE(Matches(".*head", "lm_head"));
  EXPECT_FALSE(Matches("lm_head$", "lm_head.weight"));
  EXPECT_TRUE(Matches("^lm_head$", "lm_head"));
  EXPECT_TRUE(Matches("", "anything"));
}

TEST(Pattern, ReadsWhatRecipesWrite) {
  const char* mlp = ".*mlp\\.(gate|up|gate_up|down)_proj.*";
  EXPECT_TRUE(Matches(mlp, "model.layers.0.mlp.gate_up_proj"));
  EXPECT_FALSE(Matches(mlp, "model.layers.0.mlp.experts.3.gate_proj"));
  EXPECT_TRUE(Matches("model\\.layers\\.[0-3]\\..*", "model.layers.2.mlp"));
  EXPECT_FALSE(Matches("model\\.layers\\.[0-3]\\..*", "model.layers.22.mlp"));
  EXPECT_TRUE(Matches("(?:a|b)+c?\\d+$", "abba17"));
  EXPECT_FALSE(Matches("[^.]+$", "a.b"));
  EXPECT_TRUE(Matches("a.*?b$", "a.b.b"));
}

TEST(Pattern, WhatItDoesNotKnowIsNone) {
  for (const char* text :
       {"(?!x)", "a{2}", "(a", "a)", "[a", "*a", "\\1", "\\bx", "a\\", "[z-a]"}) {
    EXPECT_FALSE(Pattern::Parse(text)) << text;
  }
  EXPECT_FALSE(Pattern::Parse(std::string(1 << 20, 'a')));
  EXPECT_FALSE(Pattern::Parse(std::string(500, '(') + std::string(500, ')')));
}

TEST(Pattern, RepeatsOfRepeatsEndInTime) {
  EXPECT_FALSE(Matches("(((a*)*)*)*b", std::string(20000, 'a')));
  EXPECT_FALSE(Matches("(a|a|a|aa)*$", std::string(20000, 'a') + "b"));
}

}  // namespace
}  // namespace weighbridge
