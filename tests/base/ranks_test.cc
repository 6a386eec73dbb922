#include "base/ranks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace weighbridge {
namespace {

using ::testing::HasSubstr;

Environment From(const std::map<std::string, std::string>& values) {
  return [values = &values](const char* name) {
    const auto it = values->find(name);
    return it == values->end() ? nullptr : it->second.c_str();
  };
}

TEST(DetectLaunch, IsAloneWithoutVariables) {
  const std::map<std::string, std::string> none;
  const auto launch = DetectLaunch("auto", From(none));
  ASSERT_TRUE(launch);
  EXPECT_EQ(launch->size, 1);
  EXPECT_EQ(launch->launcher, "");
}

TEST(DetectLaunch, OwnVariablesGoBeforeThoseOfALauncher) {
  const std::map<std::string, std::string> both = {{"RANK", "5"},
                                                   {"WORLD_SIZE", "8"},
                                                   {"WEIGHBRIDGE_RANK", "1"},
                                                   {"WEIGHBRIDGE_WORLD_SIZE", "2"},
                                                   {"WEIGHBRIDGE_JOB_ID", "mine"}};
  const auto launch = DetectLaunch("auto", From(both));
  ASSERT_TRUE(launch);
  EXPECT_EQ(launch->rank, 1);
  EXPECT_EQ(launch->size, 2);
  EXPECT_EQ(launch->job, "mine");
  EXPECT_EQ(DetectLaunch("torchrun", From(both))->rank, 5);
  EXPECT_EQ(DetectLaunch("none", From(both))->size, 1);
}

TEST(DetectLaunch, TellsTwoStepsOfOneAllocationApart) {
  const auto job = [](const char* step) {
    const std::map<std::string, std::string> slurm = {{"SLURM_PROCID", "0"},
                                                      {"SLURM_STEP_NUM_TASKS", "2"},
                                                      {"SLURM_JOB_ID", "7"},
                                                      {"SLURM_STEP_ID", step}};
    return DetectLaunch("auto", From(slurm))->job;
  };
  EXPECT_NE(job("0"), job("1"));
}

TEST(DetectLaunch, RefusesARankThatThereIsNot) {
  for (const char* rank : {"2", "-1", "one", "1x", "99999999999"}) {
    const std::map<std::string, std::string> values = {{"PMI_RANK", rank}, {"PMI_SIZE", "2"}};
    const auto launch = DetectLaunch("auto", From(values));
    ASSERT_FALSE(launch) << rank;
    EXPECT_EQ(launch.error().kind, ErrorKind::kUsage);
    EXPECT_THAT(launch.error().what, HasSubstr("PMI_RANK"));
  }
}

TEST(AssignByBytes, GivesEachRankAboutTheSame) {
  EXPECT_EQ(AssignByBytes({10, 10, 10, 30}, 2), (std::vector<int>{1, 1, 1, 0}));
  EXPECT_EQ(AssignByBytes({5, 5, 5}, 1), (std::vector<int>{0, 0, 0}));
  EXPECT_EQ(AssignByBytes({7}, 3), (std::vector<int>{0}));
  EXPECT_TRUE(AssignByBytes({}, 3).empty());
}

}  // namespace
}  // namespace weighbridge
