#include "checks/toy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "base/json.h"
#include "checks/inventory.h"
#include "checks/layer_cut.h"
#include "checks/roundtrip.h"
#include "family/library.h"
#include "support/temp_dir.h"
#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

using nlohmann::ordered_json;
using testing::ReadBytes;
using testing::TempDir;
using testing::WriteBytes;
namespace fs = std::filesystem;

const FamilyLibrary& Families() {
  static const FamilyLibrary kLibrary = FamilyLibrary::BuiltIn();
  return kLibrary;
}

const FamilySpec& Family(const std::string& name) { return **Families().Find(name); }

ordered_json Config(const std::string& family, const std::vector<std::string>& edits = {},
                    DType dtype = DType::kBF16) {
  std::vector<ConfigEdit> parsed;
  for (const std::string& edit : edits) parsed.push_back(ParseConfigEdit(edit).value());
  std::vector<std::string> notes;
  auto config = ToyConfig(Family(family), {}, parsed, dtype, notes);
  EXPECT_TRUE(config) << config.error().what;
  EXPECT_TRUE(notes.empty()) << notes[0];
  return config.value_or(ordered_json());
}

Toy Make(const fs::path& out, const std::string& family, const RandomToyOptions& options = {},
         const std::vector<std::string>& edits = {}) {
  auto toy = MakeRandomToy(Family(family), Config(family, edits, options.dtype), out, options);
  EXPECT_TRUE(toy) << toy.error().what;
  return toy.value_or(Toy{});
}

std::map<std::string, std::string> FilesOf(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    files[entry.path().filename().string()] = ReadBytes(entry.path());
  }
  return files;
}

// Name -> dtype, shape and bytes.
std::map<std::string, std::string> TensorsOf(const fs::path& folder) {
  std::map<std::string, std::string> tensors;
  auto checkpoint = OpenCheckpoint(folder);
  EXPECT_TRUE(checkpoint) << checkpoint.error().what;
  if (!checkpoint) return tensors;
  for (const TensorInfo& t : (*checkpoint)->tensors()) {
    const auto bytes = (*checkpoint)->Data(t);
    tensors[t.name] = std::string(ShortName(t.dtype)) + ToString(t.shape) +
                      std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return tensors;
}

Report RoundTripOf(const fs::path& folder, const ParallelGrid& grid) {
  const auto checkpoint = OpenCheckpoint(folder).value();
  const auto config = ReadJsonFile(folder / "config.json").value();
  const FamilySpec& spec = **Families().ForConfig(config);
  ExpandOptions expand;
  ChooseStorageBy(*checkpoint, expand);
  expand.tp = grid.tp;
  const Model model = Model::Expand(spec, config, expand).value();
  RoundTripOptions options;
  options.grid = grid;
  auto report = RoundTrip(model, *checkpoint, options);
  EXPECT_TRUE(report) << report.error().what;
  if (!report) return {};
  Conclude(*report);
  return *report;
}

Result<Toy> Truncate(const fs::path& source, const fs::path& out, int64_t layers,
                     TruncateOptions options = {}, bool with_family = true) {
  const auto checkpoint = OpenCheckpoint(source).value();
  const auto config = ParseOrderedJson(ReadBytes(source / "config.json"), "config.json").value();
  const FamilySpec* spec = with_family ? *Families().ForConfig(nlohmann::json(config)) : nullptr;
  options.layers = layers;
  return MakeTruncatedToy(*checkpoint, spec, config, out, options);
}

std::vector<std::string> FamilyNames() {
  std::vector<std::string> names;
  for (const auto& [name, spec] : **Families().All()) names.push_back(name);
  return names;
}

class EveryFamily : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Toy, EveryFamily, ::testing::ValuesIn(FamilyNames()),
                         [](const auto& param_info) { return param_info.param; });

// Models that Megatron has on one pipeline stage only.
const std::set<std::string> kOneStage = {"flux"};

TEST_P(EveryFamily, ToyMakesTheRoundTripOnOneRankAndOnSeveral) {
  TempDir dir;
  Make(dir / "toy", GetParam());
  const int stages = kOneStage.contains(GetParam()) ? 1 : 2;
  for (const auto& [tp, pp] : {std::pair(1, 1), std::pair(2, stages)}) {
    ParallelGrid grid;
    grid.tp = tp;
    grid.pp = pp;
    const Report report = RoundTripOf(dir / "toy", grid);
    EXPECT_EQ(report.verdict, Verdict::kPass) << "tp " << tp << " pp " << pp;
    EXPECT_GT(report.counts.passed, 20);
  }
}

TEST_P(EveryFamily, ToyHasNoTwoTensorsWithEqualBytesAndNoConstantTensor) {
  TempDir dir;
  Make(dir / "toy", GetParam());
  std::map<std::string, std::string> seen;
  for (const auto& [name, content] : TensorsOf(dir / "toy")) {
    const std::string data = content.substr(content.find(']') + 1);
    if (data.size() <= 4) continue;  // one element, which may well be that of another tensor
    const auto [it, added] = seen.emplace(content, name);
    EXPECT_TRUE(added) << name << " equals " << it->second;
    EXPECT_NE(data, data.substr(2) + data.substr(0, 2)) << name;
  }
}

// Where the layers of a family stand in Hugging Face's names: "model.layers.{layer}." and others.
bool IsOfLayer(const std::string& name, const std::string& family, int layer) {
  const FamilySpec& spec = Family(family);
  return std::any_of(spec.stacks.begin(), spec.stacks.end(), [&](const StackRule& stack) {
    if (stack.is_tower()) return false;  // its layers are counted by themselves
    const size_t at = stack.hf.find("{layer}");
    return at != std::string::npos &&
           name.starts_with(stack.hf.substr(0, at) + std::to_string(layer) + ".");
  });
}

// Models whose tensors outside of the layers depend on how many there are, and those of which no
// one number counts the layers.
const std::set<std::string> kWholeOnly = {"flux", "gemma4", "gemma4_vl"};

TEST_P(EveryFamily, FirstTwoLayersOfAToyAreByteIdenticalAndMakeTheRoundTrip) {
  TempDir dir;
  Make(dir / "whole", GetParam());
  const auto toy = Truncate(dir / "whole", dir / "small", 2);
  if (kWholeOnly.contains(GetParam())) {
    ASSERT_FALSE(toy);
    EXPECT_EQ(toy.error().id, "layers-unknown");
    EXPECT_FALSE(fs::exists(dir / "small"));
    return;
  }
  ASSERT_TRUE(toy) << toy.error().what;
  const auto whole = TensorsOf(dir / "whole"), small = TensorsOf(dir / "small");
  size_t dropped = 0;
  for (const auto& [name, content] : whole) {
    const bool later = IsOfLayer(name, GetParam(), 2) || IsOfLayer(name, GetParam(), 3);
    dropped += later;
    EXPECT_EQ(small.contains(name), !later) << name;
    if (!later && small.contains(name)) {
      EXPECT_TRUE(small.at(name) == content) << name;
    }
  }
  EXPECT_EQ(small.size(), whole.size() - dropped);
  EXPECT_EQ(RoundTripOf(dir / "small", {}).verdict, Verdict::kPass);
}

TEST(RandomToy, BytesDependOnTheSeedAndNotOnTheThreads) {
  TempDir dir;
  // More than one block in the largest tensor.
  const std::vector<std::string> edits = {"vocab_size=9001", "hidden_size=66", "head_dim=10"};
  RandomToyOptions options;
  options.seed = 5;
  options.threads = 1;
  Make(dir / "one", "qwen3_moe", options, edits);
  options.threads = 4;
  Make(dir / "four", "qwen3_moe", options, edits);
  options.seed = 6;
  Make(dir / "other", "qwen3_moe", options, edits);
  EXPECT_TRUE(FilesOf(dir / "one") == FilesOf(dir / "four"));
  EXPECT_FALSE(FilesOf(dir / "one") == FilesOf(dir / "other"));
}

TEST(RandomToy, ValuesAreAFunctionOfTheElementsNumber) {
  std::vector<float> whole(1001), part(500);
  FillRandom("a", 7, DType::kF32, 0, 1, 0, 1001, reinterpret_cast<std::byte*>(whole.data()));
  FillRandom("a", 7, DType::kF32, 0, 1, 300, 500, reinterpret_cast<std::byte*>(part.data()));
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 300));
  FillRandom("b", 7, DType::kF32, 0, 1, 300, 500, reinterpret_cast<std::byte*>(part.data()));
  EXPECT_FALSE(std::equal(part.begin(), part.end(), whole.begin() + 300));
}

TEST(RandomToy, ValuesHaveTheStatedMeanSpreadAndBounds) {
  constexpr size_t kCount = 200000;
  std::vector<float> values(kCount);
  FillRandom("w", 0, DType::kF32, 1, 0.25f, 0, kCount, reinterpret_cast<std::byte*>(values.data()));
  double sum = 0, squares = 0;
  for (float v : values) {
    ASSERT_GE(v, 0.75f);
    ASSERT_LE(v, 1.25f);
    sum += v - 1.0;
    squares += (v - 1.0) * (v - 1.0);
  }
  EXPECT_NEAR(sum / kCount, 0, 0.002);
  EXPECT_NEAR(std::sqrt(squares / kCount), 0.25 / std::sqrt(3.0), 0.002);
}

TEST(RandomToy, NarrowTypesHoldTheCorrectlyRoundedFloat) {
  constexpr size_t kCount = 50000;
  std::vector<float> exact(kCount);
  std::vector<uint16_t> narrow(kCount);
  for (const auto& [centre, scale] :
       {std::pair(0.0f, 0.03f), std::pair(1.0f, 0.25f), std::pair(0.0f, 1e-4f)}) {
    FillRandom("w", 1, DType::kF32, centre, scale, 0, kCount,
               reinterpret_cast<std::byte*>(exact.data()));
    for (DType dtype : {DType::kBF16, DType::kF16}) {
      FillRandom("w", 1, dtype, centre, scale, 0, kCount,
                 reinterpret_cast<std::byte*>(narrow.data()));
      for (size_t i = 0; i < kCount; ++i) {
        ASSERT_EQ(narrow[i], RoundToBits(dtype, static_cast<double>(exact[i])).value()) << exact[i];
      }
    }
  }
}

TEST(RandomToy, NormWeightsLieAroundOneAndAroundZeroWhereTheFamilyStoresThemSo) {
  TempDir dir;
  RandomToyOptions options;
  options.dtype = DType::kF32;
  for (const auto& [family, centre] : {std::pair("llama", 1.0), std::pair("gemma2", 0.0)}) {
    Make(dir / family, family, options);
    const auto checkpoint = OpenCheckpoint(dir / family).value();
    const TensorInfo* norm = checkpoint->Find("model.norm.weight");
    ASSERT_NE(norm, nullptr);
    double sum = 0;
    for (size_t i = 0; i < 48; ++i)
      sum += ElementToDouble(DType::kF32, checkpoint->Data(*norm).data(), i);
    EXPECT_NEAR(sum / 48, centre, 0.1) << family;
  }
}

TEST(RandomToy, TensorsThatHfKeepsInFloat32AreFloat32) {
  TempDir dir;
  Make(dir / "toy", "deepseek_v3");
  const auto checkpoint = OpenCheckpoint(dir / "toy").value();
  EXPECT_EQ(checkpoint->Find("model.layers.1.mlp.gate.e_score_correction_bias")->dtype,
            DType::kF32);
  EXPECT_EQ(checkpoint->Find("model.layers.1.mlp.gate.weight")->dtype, DType::kBF16);
}

TEST(RandomToy, TiedHeadIsNotWritten) {
  TempDir dir;
  Make(dir / "toy", "llama", {}, {"tie_word_embeddings=true"});
  EXPECT_FALSE(TensorsOf(dir / "toy").contains("lm_head.weight"));
}

TEST(RandomToy, MtpLayersRepeatTheEmbeddingAndTheHead) {
  TempDir dir;
  Make(dir / "toy", "deepseek_v3", {}, {"num_nextn_predict_layers=1"});
  const auto tensors = TensorsOf(dir / "toy");
  EXPECT_TRUE(tensors.at("model.layers.4.embed_tokens.weight") ==
              tensors.at("model.embed_tokens.weight"));
  EXPECT_TRUE(tensors.at("model.layers.4.shared_head.head.weight") == tensors.at("lm_head.weight"));
  EXPECT_EQ(RoundTripOf(dir / "toy", {}).verdict, Verdict::kPass);
}

TEST(RandomToy, ShardsAreNoLargerThanAskedFor) {
  TempDir dir;
  RandomToyOptions options;
  options.max_shard_bytes = 50000;
  const Toy toy = Make(dir / "toy", "llama", options);
  EXPECT_GT(toy.files, 3u);
  EXPECT_TRUE(fs::exists(dir / "toy/model.safetensors.index.json"));
  const auto checkpoint = OpenCheckpoint(dir / "toy").value();
  std::map<uint32_t, uint64_t> sizes;
  for (const TensorInfo& t : checkpoint->tensors()) sizes[t.file] += t.nbytes;
  for (const auto& [file, bytes] : sizes) EXPECT_LE(bytes, 50000u) << file;
  EXPECT_EQ(RoundTripOf(dir / "toy", {}).verdict, Verdict::kPass);
}

TEST(RandomToy, ConfigThatDoesNotFitLeavesNothingBehind) {
  TempDir dir;
  const auto toy =
      MakeRandomToy(Family("llama"), Config("llama", {"num_key_value_heads=4"}), dir / "toy", {});
  ASSERT_FALSE(toy);
  EXPECT_NE(toy.error().what.find("6 heads"), std::string::npos) << toy.error().what;
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(ToyConfig, EditReplacesTheOtherSpellingOfASize) {
  const ordered_json config = Config("qwen3_moe", {"num_local_experts=6"});
  EXPECT_EQ(config["num_local_experts"], 6);
  EXPECT_FALSE(config.contains("num_experts"));
  // intermediate_size is a size of its own beside moe_intermediate_size.
  EXPECT_EQ(Config("qwen3_moe", {"intermediate_size=96"})["moe_intermediate_size"], 40);
}

TEST(ToyConfig, EditsAreJsonPythonWordsOrPlainText) {
  EXPECT_EQ(ParseConfigEdit("a=3")->value, 3);
  EXPECT_EQ(ParseConfigEdit("a=[1,2]")->value, ordered_json::array({1, 2}));
  EXPECT_EQ(ParseConfigEdit("a=True")->value, true);
  EXPECT_TRUE(ParseConfigEdit("a=None")->value.is_null());
  EXPECT_EQ(ParseConfigEdit("a=gelu")->value, "gelu");
  EXPECT_EQ(ParseConfigEdit("a=b=c")->value, "b=c");
  for (const char* bad : {"a", "=1", ".a=1", "a.=1", "a..b=1", "a=[1", ""}) {
    const auto edit = ParseConfigEdit(bad);
    ASSERT_FALSE(edit) << bad;
    EXPECT_EQ(edit.error().kind, ErrorKind::kUsage);
  }
}

TEST(ToyConfig, LayersAreSetUnderTheKeyThatTheFamilyReads) {
  EXPECT_EQ(LayersEdit(Family("llama"), 2)->key, "num_hidden_layers");
  EXPECT_EQ(LayersEdit(Family("wan"), 2)->key, "num_layers");
  EXPECT_EQ(LayersEdit(Family("flux"), 2).error().kind, ErrorKind::kUsage);
}

TEST(ToyConfig, DottedEditMakesTheObjectsOnItsWay) {
  const ordered_json config =
      Config("llama", {"rope_scaling.rope_type=llama3", "rope_scaling.factor=8.0"});
  EXPECT_EQ(nlohmann::json(config["rope_scaling"]),
            nlohmann::json({{"rope_type", "llama3"}, {"factor", 8.0}}));
  std::vector<std::string> notes;
  const auto bad = ToyConfig(Family("llama"), {}, {{"hidden_size.x", 1}}, DType::kBF16, notes);
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().kind, ErrorKind::kUsage);
}

TEST(ToyConfig, KeyThatNobodyReadsIsNoted) {
  std::vector<std::string> notes;
  ASSERT_TRUE(ToyConfig(Family("llama"), {}, {{"hiden_size", 3}}, DType::kBF16, notes));
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("did you mean 'hidden_size'"), std::string::npos) << notes[0];
}

TEST(TruncatedToy, MtpLayersFollowTheNewLastLayer) {
  TempDir dir;
  Make(dir / "whole", "deepseek_v3", {}, {"num_nextn_predict_layers=1"});
  const auto whole = TensorsOf(dir / "whole");
  ASSERT_TRUE(Truncate(dir / "whole", dir / "small", 2));
  const auto small = TensorsOf(dir / "small");
  EXPECT_TRUE(small.at("model.layers.2.eh_proj.weight") ==
              whole.at("model.layers.4.eh_proj.weight"));
  EXPECT_TRUE(small.at("model.layers.2.mlp.gate.weight") ==
              whole.at("model.layers.4.mlp.gate.weight"));
  EXPECT_EQ(RoundTripOf(dir / "small", {}).verdict, Verdict::kPass);

  TruncateOptions options;
  options.without_mtp = true;
  ASSERT_TRUE(Truncate(dir / "whole", dir / "without", 2, options));
  EXPECT_FALSE(TensorsOf(dir / "without").contains("model.layers.2.eh_proj.weight"));
  EXPECT_EQ(ReadJsonFile(dir / "without/config.json").value()["num_nextn_predict_layers"], 0);
  EXPECT_EQ(RoundTripOf(dir / "without", {}).verdict, Verdict::kPass);
}

TEST(TruncatedToy, ConfigKeepsItsKeysTheirOrderAndWhatIsNotPerLayer) {
  TempDir dir;
  Make(dir / "whole", "gemma2");
  const std::string text = R"({
  "zeta": [1.5, Infinity, 1e-06],
  "num_hidden_layers": 4,
  "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
  "eos_token_id": [1, 2, 3, 4],
  "alpha": "\u00e9")";
  ordered_json config = ParseOrderedJson(ReadBytes(dir / "whole/config.json"), "").value();
  config.erase("num_hidden_layers");
  config.erase("eos_token_id");
  WriteBytes(dir / "whole/config.json", text + "," + config.dump().substr(1));
  ASSERT_TRUE(Truncate(dir / "whole", dir / "small", 3));
  const std::string small = ReadBytes(dir / "small/config.json");
  const auto read = ParseOrderedJson(small, "").value();
  EXPECT_EQ(read.items().begin().key(), "zeta");
  EXPECT_EQ(read["num_hidden_layers"], 3);
  EXPECT_EQ(read["layer_types"],
            ordered_json::array({"sliding_attention", "full_attention", "sliding_attention"}));
  EXPECT_EQ(read["eos_token_id"].size(), 4u);
  EXPECT_NE(small.find("    Infinity,\n    1e-06\n"), std::string::npos) << small;
  EXPECT_NE(small.find(R"("alpha": "\u00e9")"), std::string::npos) << small;
}

TEST(TruncatedToy, LayerNumbersBeyondTheEndLeaveTheLists) {
  const auto config = ordered_json::parse(
      R"({"num_hidden_layers": 4, "mlp_only_layers": [0, 1, 2, 3], "first_k_dense_replace": 3})");
  const auto small = TruncateConfig(&Family("qwen3_moe"), config, {"num_hidden_layers", 4}, 2,
                                    /*without_mtp=*/false);
  EXPECT_EQ(small["mlp_only_layers"], ordered_json::array({0, 1}));
  EXPECT_EQ(small["first_k_dense_replace"], 2);
}

TEST(TruncatedToy, OtherFilesGoAlongAndWeightsOfOtherFormatsDoNot) {
  TempDir dir;
  Make(dir / "whole", "llama");
  WriteBytes(dir / "whole/tokenizer.json", std::string("{\0}", 3));
  WriteBytes(dir / "whole/pytorch_model.bin", "old");
  WriteBytes(dir / "whole/original/params.json", "{}");
  fs::create_symlink(dir / "whole/tokenizer.json", dir / "whole/link.json");
  const auto toy = Truncate(dir / "whole", dir / "small", 1);
  ASSERT_TRUE(toy) << toy.error().what;
  EXPECT_EQ(toy->copied,
            (std::vector<std::string>{"generation_config.json", "link.json", "tokenizer.json"}));
  EXPECT_EQ(ReadBytes(dir / "small/link.json"), std::string("{\0}", 3));
  EXPECT_FALSE(fs::exists(dir / "small/pytorch_model.bin"));
  ASSERT_EQ(toy->notes.size(), 1u);
  EXPECT_NE(toy->notes[0].find("original"), std::string::npos);
}

TEST(TruncatedToy, ModelOfNoKnownFamilyIsCutByTheNamesOfItsLayers) {
  TempDir dir;
  Make(dir / "whole", "mixtral");
  ASSERT_TRUE(Truncate(dir / "whole", dir / "known", 2));
  const auto toy = Truncate(dir / "whole", dir / "unknown", 2, {}, /*with_family=*/false);
  ASSERT_TRUE(toy) << toy.error().what;
  EXPECT_EQ(toy->notes.size(), 1u);
  EXPECT_TRUE(FilesOf(dir / "known") == FilesOf(dir / "unknown"));
}

TEST(TruncatedToy, MtpLayersOfNoKnownFamilyAreLeftOutOnRequestOnly) {
  TempDir dir;
  Make(dir / "whole", "deepseek_v3", {}, {"num_nextn_predict_layers=1"});
  const auto toy = Truncate(dir / "whole", dir / "small", 2, {}, /*with_family=*/false);
  ASSERT_FALSE(toy);
  EXPECT_NE(toy.error().hint.find("--without-mtp"), std::string::npos) << toy.error().hint;
  TruncateOptions options;
  options.without_mtp = true;
  ASSERT_TRUE(Truncate(dir / "whole", dir / "unknown", 2, options, /*with_family=*/false));
  ASSERT_TRUE(Truncate(dir / "whole", dir / "known", 2, options));
  EXPECT_TRUE(FilesOf(dir / "known") == FilesOf(dir / "unknown"));
}

TEST(TruncatedToy, LayersThatTheConfigDoesNotCountAreLeftOutAndNoted) {
  TempDir dir;
  Make(dir / "whole", "llama");
  ordered_json config = ParseOrderedJson(ReadBytes(dir / "whole/config.json"), "").value();
  config["num_hidden_layers"] = 3;
  WriteBytes(dir / "whole/config.json", config.dump());
  const auto toy = Truncate(dir / "whole", dir / "small", 2);
  ASSERT_TRUE(toy) << toy.error().what;
  ASSERT_EQ(toy->notes.size(), 1u);
  EXPECT_NE(toy->notes[0].find("model.layers.3."), std::string::npos) << toy->notes[0];
  EXPECT_EQ(RoundTripOf(dir / "small", {}).verdict, Verdict::kPass);
}

TEST(TruncatedToy, RefusesMoreLayersThanThereAreAndNone) {
  TempDir dir;
  Make(dir / "whole", "llama");
  for (int64_t layers : {int64_t{0}, int64_t{-1}, int64_t{5}}) {
    const auto toy = Truncate(dir / "whole", dir / "small", layers);
    ASSERT_FALSE(toy) << layers;
    EXPECT_EQ(toy.error().kind, ErrorKind::kUsage);
    EXPECT_FALSE(fs::exists(dir / "small"));
  }
}

TEST(TruncatedToy, FamilyWithoutOneNumberOfLayersIsSaidSo) {
  const auto count = FindLayerCount(&Family("flux"), Config("flux"));
  ASSERT_FALSE(count);
  EXPECT_EQ(count.error().kind, ErrorKind::kUnsupported);
  EXPECT_NE(count.error().what.find("family flux"), std::string::npos) << count.error().what;
}

TEST(TruncatedToy, NeverReplacesTheModelThatItIsMadeFrom) {
  TempDir dir;
  Make(dir / "whole", "llama");
  const auto before = FilesOf(dir / "whole");
  TruncateOptions options;
  options.overwrite = true;
  for (const fs::path& target :
       {dir / "whole", dir.path(), dir / "whole/../whole", dir / "whole/"}) {
    const auto toy = Truncate(dir / "whole", target, 1, options);
    ASSERT_FALSE(toy) << target;
    EXPECT_EQ(toy.error().kind, ErrorKind::kUsage);
  }
  EXPECT_TRUE(FilesOf(dir / "whole") == before);
}

}  // namespace
}  // namespace weighbridge
