#include "checks/roundtrip.h"

#include "golden_models.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> Ids(const Report& report) {
  std::vector<std::string> ids;
  for (const Cause& cause : report.causes) ids.push_back(cause.id);
  return ids;
}

// Both dtypes where the golden folders are beside the project; the project itself has bf16.
std::vector<fs::path> FoldersOf(const std::string& name) {
  std::vector<fs::path> folders = {TestData() / "hf" / name};
  const fs::path goldens = fs::path(WEIGHBRIDGE_SOURCE_DIR) / "../shared/goldens" / name;
  for (const char* kind : {"hf_fp32", "hf_bf16"}) {
    if (fs::exists(goldens / kind)) folders.push_back(goldens / kind);
  }
  return folders;
}

class GoldenRoundTrip : public testing::TestWithParam<std::string> {};

TEST_P(GoldenRoundTrip, RestoresEveryByteOnEveryGridThatTheDimsAllow) {
  const bool mtp_missing = GetParam() == "deepseek_v3";
  int ran = 0;
  for (const fs::path& folder : FoldersOf(GetParam())) {
    for (int tp : {1, 2, 4}) {
      for (int pp : {1, 2, 3}) {
        for (int ep : {1, 2}) {
          for (int etp : {1, 2}) {
            const auto opened = OpenGolden(folder, {.tp = tp});
            ASSERT_NE(opened, nullptr);
            RoundTripOptions options;
            options.grid = {.tp = tp, .pp = pp, .ep = ep, .etp = etp};
            if (opened->model->layers() % pp != 0) options.grid.first_stage_layers = 1;
            options.threads = 2;
            auto report = RoundTrip(*opened->model, *opened->hf, options);
            if (!report) {
              EXPECT_EQ(report.error().id, "grid") << report.error().what;
              continue;
            }
            Conclude(*report);
            ++ran;
            EXPECT_EQ(ExitStatus(*report), mtp_missing ? 1 : 0) << folder << ToString(options.grid);
            if (mtp_missing) {
              EXPECT_EQ(Ids(*report), std::vector<std::string>{"mtp-missing"});
            }
            EXPECT_EQ(report->counts.passed + report->counts.failed + report->counts.skipped,
                      report->counts.total);
          }
        }
      }
    }
  }
  EXPECT_GE(ran, 8);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenRoundTrip, testing::ValuesIn(GoldenNames()));

TEST(RoundTrip, PassesDeepSeekWithoutMtpWhenAsked) {
  const auto opened = OpenGolden(TestData() / "hf/deepseek_v3", {.without_mtp = true});
  ASSERT_NE(opened, nullptr);
  auto report = RoundTrip(*opened->model, *opened->hf, {});
  ASSERT_TRUE(report) << report.error().what;
  Conclude(*report);
  EXPECT_EQ(ExitStatus(*report), 0);
}

TEST(RoundTrip, GivesTheSameReportForAnyNumberOfThreadsAndBlockSizes) {
  const auto opened = OpenGolden(TestData() / "hf/gpt_oss_ns", {.tp = 2});
  ASSERT_NE(opened, nullptr);
  for (int threads : {1, 3}) {
    for (int64_t memory : {int64_t{1}, int64_t{64} << 20}) {
      RoundTripOptions options{
          .grid = {.tp = 2, .ep = 2}, .threads = threads, .memory_bytes = memory};
      auto report = RoundTrip(*opened->model, *opened->hf, options);
      ASSERT_TRUE(report) << report.error().what;
      Conclude(*report);
      EXPECT_EQ(report->counts.passed, static_cast<int64_t>(opened->hf->tensors().size()));
      EXPECT_EQ(report->counts.failed, 0);
    }
  }
}

TEST(RoundTrip, RefusesAGridThatCannotCutTheModelAsAUsageError) {
  const auto opened = OpenGolden(TestData() / "hf/llama_tied", {.tp = 3});
  ASSERT_NE(opened, nullptr);
  const auto report = RoundTrip(*opened->model, *opened->hf, {.grid = {.tp = 3}});
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().kind, ErrorKind::kUsage);
  EXPECT_EQ(report.error().id, "grid");
}

TEST(RoundTrip, ReadsNoDataAtLevelL0) {
  const auto opened = OpenGolden(TestData() / "hf/qwen3_moe", {});
  ASSERT_NE(opened, nullptr);
  auto report = RoundTrip(*opened->model, *opened->hf, {.headers_only = true});
  ASSERT_TRUE(report) << report.error().what;
  Conclude(*report);
  EXPECT_EQ(ExitStatus(*report), 0);
  EXPECT_EQ(report->bytes, 0u);
  EXPECT_EQ(report->level, "L0");
}

TEST(VerifyTree, NamesTensorRankAndBothCoordinatesOfOneChangedByte) {
  const auto opened = OpenGolden(TestData() / "hf/qwen2", {.tp = 2});
  ASSERT_NE(opened, nullptr);
  const auto placement = Placement::Create(*opened->model, {.tp = 2, .pp = 2});
  ASSERT_TRUE(placement);
  auto tree = ImportTree(*opened->model, *placement, *opened->hf, Dialect::kTe);
  ASSERT_TRUE(tree) << tree.error().what;
  auto clean = VerifyTree(*opened->model, *placement, *opened->hf, *tree, Dialect::kTe);
  ASSERT_TRUE(clean);
  EXPECT_EQ(clean->verdict, Verdict::kPass);
  // qwen2: hidden 64, 4 heads of 16 in 2 groups. At TP 2 rank 1 holds group 1: query rows 32-63 of
  // HF as rows 0-31, its key as 32-47, its value as 48-63.
  for (MegatronTensor& t : tree->tensors) {
    if (t.name == "decoder.layers.0.self_attention.linear_qkv.weight" && t.rank.tp == 1 &&
        t.rank.pp == 1) {
      t.bytes[static_cast<size_t>((32 + 3) * 64 + 5) * 2] ^= std::byte{1};
    }
  }
  auto report = VerifyTree(*opened->model, *placement, *opened->hf, *tree, Dialect::kTe);
  ASSERT_TRUE(report);
  EXPECT_EQ(report->verdict, Verdict::kFail);
  EXPECT_EQ(report->counts.failed, 1);
  for (const ResultRow& row : report->results) {
    if (row.status == RowStatus::kMatch) continue;
    ASSERT_TRUE(row.first);
    EXPECT_EQ(row.first->megatron_tensor, "decoder.layers.0.self_attention.linear_qkv.weight");
    EXPECT_EQ(row.first->rank, (RankId{1, 1, 0, 0, 0}));
    EXPECT_EQ(row.first->megatron_index, (std::vector<int64_t>{35, 5}));
    // The first layer of the second stage is layer 1; key head 1 begins at HF row 16.
    EXPECT_EQ(row.first->hf_tensor, "model.layers.1.self_attn.k_proj.weight");
    EXPECT_EQ(row.first->hf_index, (std::vector<int64_t>{19, 5}));
    EXPECT_NE(row.first->expected, row.first->actual);
  }
}

TEST(VerifyTree, FindsEveryChangedByteOfEveryTensor) {
  const auto opened = OpenGolden(TestData() / "hf/gpt_oss_ns", {.tp = 2});
  ASSERT_NE(opened, nullptr);
  const auto placement = Placement::Create(*opened->model, {.tp = 2, .ep = 2});
  ASSERT_TRUE(placement);
  auto tree = ImportTree(*opened->model, *placement, *opened->hf, Dialect::kTe);
  ASSERT_TRUE(tree) << tree.error().what;
  size_t at = 17;
  for (MegatronTensor& t : tree->tensors) {
    t.bytes[at % t.bytes.size()] ^= std::byte{0x40};
    at = at * 31 + 7;
  }
  auto report = VerifyTree(*opened->model, *placement, *opened->hf, *tree, Dialect::kTe);
  ASSERT_TRUE(report);
  EXPECT_EQ(report->counts.failed, report->counts.total);
}

TEST(VerifyTree, ReportsMissingAndExtraTensorsOfARank) {
  const auto opened = OpenGolden(TestData() / "hf/llama_tied", {});
  ASSERT_NE(opened, nullptr);
  const auto placement = Placement::Create(*opened->model, {.pp = 2});
  ASSERT_TRUE(placement);
  auto tree = ImportTree(*opened->model, *placement, *opened->hf, Dialect::kTe);
  ASSERT_TRUE(tree);
  tree->tensors.front().name = "embedding.word_embedding.weight";
  auto report = VerifyTree(*opened->model, *placement, *opened->hf, *tree, Dialect::kTe);
  ASSERT_TRUE(report);
  EXPECT_EQ(Ids(*report), (std::vector<std::string>{"tensor-missing", "tensor-extra"}));
}

}  // namespace
}  // namespace weighbridge
