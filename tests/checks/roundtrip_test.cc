#include "checks/roundtrip.h"

#include <cstring>
#include <functional>
#include <optional>
#include <set>

#include "checks/shard_plan.h"
#include "golden_models.h"
#include "memory_checkpoint.h"
#include "report/json.h"
#include "report/rows.h"
#include "report/terminal.h"

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
  std::set<std::string> documents;
  for (int threads : {1, 3}) {
    for (int64_t memory : {int64_t{1}, int64_t{64} << 20}) {
      RoundTripOptions options{
          .grid = {.tp = 2, .ep = 2}, .threads = threads, .memory_bytes = memory};
      auto report = RoundTrip(*opened->model, *opened->hf, options);
      ASSERT_TRUE(report) << report.error().what;
      Conclude(*report);
      EXPECT_EQ(report->counts.passed, static_cast<int64_t>(opened->hf->tensors().size()));
      EXPECT_EQ(report->counts.failed, 0);
      report->wall_s = 0;
      documents.insert(RenderToString([&](const Sink& sink) { WriteJson(*report, sink); }));
    }
  }
  EXPECT_EQ(documents.size(), 1u);
}

TEST(ShardPlan, CountsTheFaultsOfEachSourceWhateverTheBlocks) {
  const auto opened = OpenGolden(TestData() / "hf/qwen2", {});
  ASSERT_NE(opened, nullptr);
  const auto placement = Placement::Create(*opened->model, {});
  ASSERT_TRUE(placement);
  const Parameter* qkv = nullptr;
  for (const Parameter& p : opened->model->parameters()) {
    if (p.rule->megatron == "self_attention.linear_qkv.weight") qkv = &p;
  }
  ASSERT_NE(qkv, nullptr);
  const auto plan = ShardPlan::Create(*opened->model, *placement, *qkv, *opened->hf);
  ASSERT_TRUE(plan) << plan.error().what;
  std::vector<std::byte> whole(static_cast<size_t>(plan->local_numel()) * 2), scratch;
  ASSERT_TRUE(plan->Gather(0, 0, whole, scratch));
  for (size_t i = 0; i < whole.size(); i += 2) whole[i] ^= std::byte{1};
  for (const size_t step : {size_t{2}, size_t{130}, whole.size()}) {
    std::vector<int64_t> covered(3), rounded(3), mismatched(3);
    for (size_t at = 0; at < whole.size(); at += step) {
      const auto part = std::span(whole).subspan(at, std::min(step, whole.size() - at));
      const auto d =
          plan->Compare(0, static_cast<int64_t>(at / 2), part, covered, rounded, scratch);
      ASSERT_TRUE(d);
      for (const auto& s : d->by_source) mismatched[s.source] += s.mismatched;
    }
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(mismatched[i], Numel(plan->sources()[i]->shape));
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

// Fails whoever reads a byte.
class HeadersOnly : public MemoryCheckpoint {
 public:
  explicit HeadersOnly(const Checkpoint& of) : of_(of) {}
  const std::vector<FileInfo>& files() const override { return of_.files(); }
  const std::vector<TensorInfo>& tensors() const override { return of_.tensors(); }
  std::span<const std::byte> Data(const TensorInfo& tensor) const override {
    ADD_FAILURE() << "the bytes of " << tensor.name << " were asked for";
    return of_.Data(tensor);
  }

 private:
  const Checkpoint& of_;
};

TEST(RoundTrip, ReadsNoDataAtLevelL0AndSaysNothingOfValues) {
  for (const char* name : {"qwen3_moe", "llama_tied"}) {
    const auto opened = OpenGolden(TestData() / "hf" / name, {});
    ASSERT_NE(opened, nullptr);
    const HeadersOnly headers(*opened->hf);
    auto report = RoundTrip(*opened->model, headers, {.headers_only = true});
    ASSERT_TRUE(report) << report.error().what;
    Conclude(*report);
    EXPECT_EQ(ExitStatus(*report), 0);
    EXPECT_EQ(report->bytes, 0u);
    EXPECT_EQ(report->level, "L0");
    for (const ResultRow& row : report->results) {
      EXPECT_FALSE(HasMetrics(row)) << row.hf[0].name;
      const auto json = nlohmann::json::parse(RowJson(row));
      for (const char* key : {"max_diff", "cosine", "mismatched"}) EXPECT_TRUE(json[key].is_null());
    }
    const std::string text =
        RenderToString([&](const Sink& sink) { WriteTerminal(*report, {.verbose = 1}, sink); });
    EXPECT_NE(text.find("tensors fit (headers only)"), std::string::npos) << text;
    EXPECT_EQ(text.find("match"), std::string::npos) << text;
  }
}

// A golden model whose tensors can be changed.
struct Copy {
  std::unique_ptr<OpenedModel> opened;
  MemoryCheckpoint hf;

  explicit Copy(const std::string& name) : opened(OpenGolden(TestData() / "hf" / name, {})) {}
  // `change` gives the dtype of the copy, nullopt to leave the tensor out.
  void Fill(const std::function<std::optional<DType>(const TensorInfo&)>& change) {
    for (const TensorInfo& t : opened->hf->tensors()) {
      const auto dtype = change(t);
      if (!dtype) continue;
      std::vector<std::byte> bytes(opened->hf->Data(t).begin(), opened->hf->Data(t).end());
      bytes.resize(*BytesFor(*dtype, Numel(t.shape)));
      hf.Add(t.name, *dtype, t.shape, bytes);
    }
  }
  Result<Report> RoundTripped(bool headers_only = false) {
    auto report = RoundTrip(*opened->model, hf, {.headers_only = headers_only, .threads = 1});
    if (report) Conclude(*report);
    return report;
  }
};

TEST(RoundTrip, KeepsEveryTensorInTheReportWhenOneOfThemIsMissing) {
  Copy copy("llama_untied");
  uint64_t bytes = 0;
  copy.Fill([&](const TensorInfo& t) -> std::optional<DType> {
    if (t.name == "model.layers.1.self_attn.q_proj.weight") return std::nullopt;
    if (t.name.find("layers.1.self_attn.") == std::string::npos ||
        t.name.find("o_proj") != std::string::npos) {
      bytes += t.nbytes;
    }
    return t.dtype;
  });
  auto report = copy.RoundTripped();
  ASSERT_TRUE(report);
  std::set<std::string> names;
  for (const ResultRow& row : report->results) {
    names.insert(row.hf[0].name);
    if (row.hf[0].name.ends_with("layers.1.self_attn.k_proj.weight")) {
      EXPECT_EQ(row.status, RowStatus::kMismatch);
      EXPECT_NE(row.why.find("cannot be built"), std::string::npos) << row.why;
      EXPECT_NE(row.why.find("q_proj.weight is missing"), std::string::npos) << row.why;
    }
  }
  for (const TensorInfo& t : copy.hf.tensors()) EXPECT_TRUE(names.contains(t.name)) << t.name;
  EXPECT_EQ(report->counts.failed, 3);
  EXPECT_EQ(report->bytes, bytes) << "bytes that were not compared are not counted";
}

TEST(RoundTrip, RefusesWeightsThatAreNoPlainFloatsAtEveryLevel) {
  const std::pair<DType, const char*> cases[] = {
      {DType::kI16, "dtype"},        {DType::kBool, "dtype"},       {DType::kU8, "dtype"},
      {DType::kF8E4M3, "quantized"}, {DType::kF8E5M2, "quantized"}, {DType::kF4, "quantized"}};
  for (const auto& [dtype, id] : cases) {
    for (const bool headers_only : {true, false}) {
      Copy copy("llama_untied");
      copy.Fill([&](const TensorInfo& t) {
        return std::optional(t.name.ends_with("down_proj.weight") ? dtype : t.dtype);
      });
      const auto report = copy.RoundTripped(headers_only);
      ASSERT_FALSE(report) << ShortName(dtype);
      EXPECT_EQ(report.error().id, id) << ShortName(dtype);
      EXPECT_EQ(report.error().kind, ErrorKind::kUnsupported);
    }
  }
}

TEST(RoundTrip, NamesTwoDTypesOfOneMegatronTensorAtLevelL0) {
  Copy copy("llama_untied");
  copy.Fill([&](const TensorInfo& t) {
    return std::optional(t.name.ends_with("q_proj.weight") ? DType::kF16 : t.dtype);
  });
  const auto report = copy.RoundTripped(true);
  ASSERT_TRUE(report);
  ASSERT_EQ(report->causes.size(), 1u);
  EXPECT_EQ(report->causes[0].id, "mixed-dtypes");
  EXPECT_NE(report->causes[0].evidence.find("q_proj.weight is fp16"), std::string::npos);
}

TEST(RoundTrip, RefusesAConfigThatSaysThatWeightsAreQuantized) {
  auto opened = OpenGolden(TestData() / "hf/llama_untied", {});
  ASSERT_NE(opened, nullptr);
  opened->config["quantization_config"] = {{"quant_method", "fp8"}};
  const auto family = opened->library.ForConfig(opened->config);
  const auto model = Model::Expand(**family, opened->config, {});
  ASSERT_TRUE(model);
  const auto report = RoundTrip(*model, *opened->hf, {});
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().id, "quantized");
  EXPECT_EQ(report.error().kind, ErrorKind::kUnsupported);
}

TEST(RoundTrip, SaysWhyTheVocabularyIsPadded) {
  const auto note = [](int tp, int64_t pad) {
    const auto opened = OpenGolden(TestData() / "hf/olmoe", {.tp = tp, .pad_vocab = pad});
    const auto report = RoundTrip(*opened->model, *opened->hf, {.grid = {.tp = tp}});
    EXPECT_TRUE(report) << report.error().what;
    for (const Note& n : report->notes) {
      if (n.id == "vocab-padded") return n.message;
    }
    return std::string();
  };
  EXPECT_NE(note(3, 0).find("the grid needs it"), std::string::npos);
  EXPECT_NE(note(1, 512).find("as --pad-vocab asks"), std::string::npos);
  EXPECT_EQ(note(1, 0), "");
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

// A tree to spoil, of a model whose float32 router bias is bf16 in the file: two bytes of each of
// its values are zeros that no comparison in bf16 would see.
class SpoiledTree : public testing::Test {
 protected:
  void SetUp() override {
    opened_ = OpenGolden(TestData() / "hf/deepseek_v3_nomtp", {.tp = 2});
    ASSERT_NE(opened_, nullptr);
    for (const TensorInfo& t : opened_->hf->tensors()) {
      const auto bytes = opened_->hf->Data(t);
      const bool bias = t.name.ends_with("e_score_correction_bias");
      std::vector<uint16_t> values(bytes.size() / (bias && t.dtype == DType::kF32 ? 4 : 2));
      for (size_t i = 0; i < values.size(); ++i) {
        const size_t at = values.size() * 2 == bytes.size() ? i * 2 : i * 4 + 2;
        std::memcpy(&values[i], bytes.data() + at, 2);
      }
      hf_.Add(t.name, DType::kBF16, t.shape, values);
    }
    auto placement = Placement::Create(*opened_->model, {.tp = 2});
    ASSERT_TRUE(placement) << placement.error().what;
    placement_.emplace(std::move(*placement));
    auto tree = ImportTree(*opened_->model, *placement_, hf_, Dialect::kTe);
    ASSERT_TRUE(tree) << tree.error().what;
    tree_ = std::move(*tree);
  }

  Report Verified() {
    auto report = VerifyTree(*opened_->model, *placement_, hf_, tree_, Dialect::kTe);
    EXPECT_TRUE(report);
    return report ? std::move(*report) : Report();
  }

  std::unique_ptr<OpenedModel> opened_;
  MemoryCheckpoint hf_;
  std::optional<Placement> placement_;
  MegatronTree tree_;
};

TEST_F(SpoiledTree, SeesEveryChangedByteOfAWidenedTensor) {
  EXPECT_EQ(Verified().counts.failed, 0);
  int widened = 0;
  for (MegatronTensor& t : tree_.tensors) {
    if (t.name.find("expert_bias") == std::string::npos) continue;
    ++widened;
    ASSERT_EQ(t.dtype, DType::kF32);
    for (size_t i = 0; i < t.bytes.size(); ++i) {
      t.bytes[i] ^= std::byte{1};
      const Report report = Verified();
      EXPECT_EQ(report.counts.failed, 1) << t.name << " byte " << i;
      for (const ResultRow& row : report.results) {
        if (Passed(row.status)) continue;
        ASSERT_TRUE(row.first);
        EXPECT_EQ(row.first->megatron_index, std::vector<int64_t>{static_cast<int64_t>(i / 4)});
        EXPECT_EQ(row.first->hf_index, std::vector<int64_t>{static_cast<int64_t>(i / 4)});
      }
      t.bytes[i] ^= std::byte{1};
    }
  }
  EXPECT_GT(widened, 0);
}

TEST_F(SpoiledTree, FailsATensorWithoutItsBytes) {
  const int64_t total = Verified().counts.total;
  std::vector<std::byte> last = tree_.tensors.back().bytes;
  tree_.tensors.back().bytes.pop_back();
  EXPECT_EQ(Verified().counts.failed, 1);
  tree_.tensors.back().bytes = last;
  tree_.tensors.back().bytes.push_back(std::byte{0});
  EXPECT_EQ(Verified().counts.failed, 1);
  for (MegatronTensor& t : tree_.tensors) t.bytes.clear();
  EXPECT_EQ(Verified().counts.failed, total);
}

TEST_F(SpoiledTree, FailsATensorThatIsThereTwice) {
  const MegatronTensor good = tree_.tensors[3];
  MegatronTensor bad = good;
  std::fill(bad.bytes.begin(), bad.bytes.end(), std::byte{0x11});
  tree_.tensors.push_back(good);
  EXPECT_EQ(Verified().counts.failed, 1);
  EXPECT_EQ(Ids(Verified()), std::vector<std::string>{"duplicate-name"});
  tree_.tensors.back() = bad;
  EXPECT_EQ(Verified().counts.failed, 2);
  tree_.tensors.back() = good;
  tree_.tensors[3] = bad;
  EXPECT_EQ(Verified().counts.failed, 2);
}

}  // namespace
}  // namespace weighbridge
