#include "engine/recorded_cause.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace weighbridge {
namespace {

using nlohmann::json;

json Spec(const json& window) {
  return {{"attention", {{"window", window}, {"scale", 0.25}}},
          {"rope", {{"base", 10000.0}}},
          {"norm", {{"epsilon", {{"input", 1e-6}, {"pre_mlp", 1e-6}, {"qk", nullptr}}}}}};
}

std::vector<Hypothesis> Of(const json& spec, const std::vector<std::vector<int64_t>>& ids,
                           const std::vector<std::optional<int64_t>>& first) {
  RecordedStage stage{{StageKind::kLayer, 0}, spec, {}, ids};
  stage.modules = {"input_layernorm", "pre_mlp_layernorm", "self_attention.core_attention"};
  if (!spec.at("rope").is_null()) stage.modules.insert("self_attention.rotary_pos_emb");
  return HypothesesOf(stage, first);
}

const Hypothesis* Find(const std::vector<Hypothesis>& all, const std::string& what) {
  const auto it = std::find_if(all.begin(), all.end(), [&](const Hypothesis& one) {
    return one.what.find(what) != std::string::npos;
  });
  return it == all.end() ? nullptr : &*it;
}

TEST(Hypotheses, PositionsStartAgainWhereARowPartsOrAfterEachTokenLikeTheOneBefore) {
  const auto all = Of(Spec(nullptr), {{5, 9, 4, 5, 9, 1, 2}}, {2});
  const Hypothesis* once = Find(all, "start again at token 2");
  ASSERT_NE(once, nullptr);
  EXPECT_EQ(once->cause, "position-ids");
  EXPECT_EQ(once->trial.at("patch").at("rope").at("positions"), json({{0, 1, 0, 1, 2, 3, 4}}));
  const Hypothesis* each = Find(all, "start again after each token like the one before 2");
  ASSERT_NE(each, nullptr);
  EXPECT_EQ(each->trial.at("patch").at("rope").at("positions"), json({{0, 1, 0, 1, 2, 0, 1}}));
}

TEST(Hypotheses, AWindowIsAsWideAsTheFirstTokenThatMissesOne) {
  const auto all = Of(Spec(nullptr), {{1, 2, 3, 4, 5, 6}, {1, 2, 3, 4, 5, 6}}, {4, 3});
  const Hypothesis* window = Find(all, "a window of 3");
  ASSERT_NE(window, nullptr);
  EXPECT_EQ(window->trial.at("patch").at("attention").at("window"), 3);
}

TEST(Hypotheses, AWindowOfTheConfigIsTriedWiderNarrowerAndNotAtAll) {
  const auto all = Of(Spec(16), {{1, 2, 3}}, {std::nullopt});
  for (const char* what : {"a window of 17", "a window of 15", "no window"}) {
    EXPECT_NE(Find(all, what), nullptr) << what;
  }
}

TEST(Hypotheses, TokensAlikeAtTheBeginOfARowMayBePadding) {
  const auto all = Of(Spec(nullptr), {{3, 3, 4, 5}, {1, 2, 4, 5}}, {0, std::nullopt});
  const Hypothesis* padding = Find(all, "at the begin of a row hidden");
  ASSERT_NE(padding, nullptr);
  EXPECT_EQ(padding->trial.at("patch").at("attention").at("mask").at("hidden"),
            json({{1, 1, 0, 0}, {0, 0, 0, 0}}));
  EXPECT_EQ(Find(all, "at the end of a row hidden"), nullptr);
}

TEST(Hypotheses, OnlyConstantsThatTheLayerHasAreTried) {
  json spec = Spec(nullptr);
  spec["rope"] = nullptr;
  const auto all = Of(spec, {{1, 2}}, {0});
  EXPECT_EQ(Find(all, "the base of RoPE"), nullptr);
  EXPECT_EQ(Find(all, "the routed experts' multiplier"), nullptr);
  const Hypothesis* epsilons = Find(all, "the epsilon of all norms");
  ASSERT_NE(epsilons, nullptr);
  EXPECT_EQ(epsilons->trial.at("scales"), json({"/norm/epsilon/input", "/norm/epsilon/pre_mlp"}));
}

}  // namespace
}  // namespace weighbridge
