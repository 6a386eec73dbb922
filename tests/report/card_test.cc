#include "report/card.h"

#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include "report/sample.h"

namespace weighbridge {
namespace {

using testing::FailingReport;
using testing::PassingReport;
using testing::UndecidedReport;

std::string Card(const Report& report) {
  return RenderToString([&](const Sink& sink) { WriteCard(report, sink); });
}

TEST(VerificationCard, SaysWhatWasVerifiedAndHow) {
  const YAML::Node card = YAML::Load(Card(PassingReport()));
  EXPECT_EQ(card["title"].as<std::string>(), "my model");
  EXPECT_EQ(card["model"]["architecture"].as<std::string>(), "llama");
  EXPECT_EQ(card["precision"].as<std::string>(), "bf16");
  const YAML::Node item = card["items"]["weighbridge_roundtrip"];
  EXPECT_EQ(item["status"].as<std::string>(), "verified");
  EXPECT_EQ(item["command"].as<std::string>(), "weighbridge roundtrip 'my model' --tp 2");
  EXPECT_EQ(item["counts"]["passed"].as<int>(), 3);
  EXPECT_EQ(item["unproven"][0].as<std::string>(), "no foreign Megatron byte was read");
  EXPECT_EQ(card["environment"]["weighbridge"].as<std::string>(), "0.1.0 (abc)");
  EXPECT_EQ(card["environment"]["grid"].as<std::string>(), "tp 2, pp 1");
  EXPECT_EQ(card["inputs"][0]["header_xxh3"].as<std::string>(), "00ff");
}

TEST(VerificationCard, VerifiesNothingUnlessTheVerdictIsPass) {
  const YAML::Node failed = YAML::Load(Card(FailingReport()))["items"]["weighbridge_roundtrip"];
  EXPECT_EQ(failed["status"].as<std::string>(), "unverified");
  EXPECT_EQ(failed["verdict"].as<std::string>(), "fail");
  EXPECT_EQ(failed["causes"][0]["id"].as<std::string>(), "qkv-concatenated");
  const YAML::Node nothing = YAML::Load(Card(UndecidedReport()))["items"]["weighbridge_roundtrip"];
  EXPECT_EQ(nothing["status"].as<std::string>(), "unverified");
}

TEST(VerificationCard, DoesNotDependOnTimeOrMemory) {
  Report other = PassingReport();
  other.wall_s = 77;
  other.peak_anonymous_bytes = 1;
  EXPECT_EQ(Card(PassingReport()), Card(other));
}

TEST(VerificationCard, QuotesWhatYamlWouldMisread) {
  Report report = PassingReport();
  report.argv = {"weighbridge", "roundtrip", "no"};
  report.details = {{"family", "null"}, {"a: b", "x\n- \xff\"'#"}};
  const YAML::Node card = YAML::Load(Card(report));
  EXPECT_EQ(card["title"].as<std::string>(), "no");
  EXPECT_EQ(card["model"]["architecture"].as<std::string>(), "null");
  EXPECT_EQ(card["environment"]["a: b"].as<std::string>(), "x\n- \xef\xbf\xbd\"'#");
}

}  // namespace
}  // namespace weighbridge
