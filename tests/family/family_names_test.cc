// The families against the names and shapes that the real libraries have: what transformers saves
// (testdata/hf_names, tools/dump_hf_names.py) and what Megatron models hold (testdata/known/names).
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "family/library.h"
#include "family/model.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

const fs::path kTestData = fs::path(WEIGHBRIDGE_SOURCE_DIR) / "tests/testdata";

nlohmann::json ReadJson(const fs::path& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
}

// The names without ending of the JSON files in a folder of the test data.
std::vector<std::string> FilesIn(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kTestData / folder)) {
    if (entry.path().extension() == ".json") names.push_back(entry.path().stem().string());
  }
  return names;
}

const FamilyLibrary& Library() {
  static const FamilyLibrary kLibrary = FamilyLibrary::BuiltIn();
  return kLibrary;
}

// The family is found by the config, not by its name.
Model ExpandConfig(const nlohmann::json& config, const HasTensor& has = {}) {
  const Result<const FamilySpec*> spec = Library().ForConfig(config);
  EXPECT_TRUE(spec) << spec.error().what;
  Result<Model> model = Model::Expand(*spec.value(), config, {.has = has});
  EXPECT_TRUE(model) << model.error().what << " " << model.error().at;
  return std::move(model).value();  // throws, which ends the test
}

std::set<std::string> Lines(const std::map<std::string, Shape>& tensors) {
  std::set<std::string> lines;
  for (const auto& [name, shape] : tensors) {
    lines.insert(fmt::format("{} [{}]", name, fmt::join(shape, ", ")));
  }
  return lines;
}

std::set<std::string> HfLines(const Model& model) {
  const auto tensors = model.HfTensors();
  EXPECT_TRUE(tensors) << tensors.error().what;
  return Lines(*tensors);
}

// The HF side: what transformers saves, but for the families that it does not know, each with the
// reason. The Megatron side: a dump of the modules, or the registry of Megatron Bridge
// (tests/python/test_bridge_names.py).
TEST(FamilyNames, EveryFamilyHasGroundTruthOfBothSides) {
  std::vector<std::string> families;
  for (const auto& [name, spec] : **Library().All()) families.push_back(name);
  std::vector<std::string> hf = FilesIn("hf_names"), megatron = FilesIn("known/names");
  const nlohmann::json without = ReadJson(kTestData / "without_transformers.json");
  for (const auto& [name, reason] : without.items()) {
    EXPECT_FALSE(reason.get<std::string>().empty());
    hf.push_back(name);
  }
  for (const std::string& name : FilesIn("bridge_names")) megatron.push_back(name);
  EXPECT_THAT(hf, testing::UnorderedElementsAreArray(families));
  EXPECT_THAT(std::set(megatron.begin(), megatron.end()),
              testing::UnorderedElementsAreArray(families));
}

TEST(FamilyNames, VariantsAreOfFamiliesThatAreNoVariants) {
  const auto& families = **Library().All();
  int variants = 0;
  for (const auto& [name, spec] : families) {
    if (spec.variant_of.empty()) continue;
    ++variants;
    const auto original = families.find(spec.variant_of);
    ASSERT_NE(original, families.end()) << name;
    EXPECT_EQ(original->second.variant_of, "") << name;
  }
  EXPECT_GE(variants, 3);
}

TEST(FamilyNames, HfTensorsAreThoseThatTransformersSaves) {
  int compared = 0;
  for (const std::string& family : FilesIn("hf_names")) {
    const nlohmann::json truth = ReadJson(kTestData / "hf_names" / (family + ".json"));
    for (const auto& [variant, rows] : truth["variants"].items()) {
      std::map<std::string, Shape> saved;
      for (const auto& row : rows) saved[row[0]] = row[1].get<Shape>();
      const auto has = [&](const std::string& name) { return saved.contains(name); };
      for (const char* version : {"v4", "v5"}) {
        const std::string file = fmt::format("{}_{}.{}.json", family, variant, version);
        SCOPED_TRACE(file);
        const Model model = ExpandConfig(ReadJson(kTestData / "family_configs" / file), has);
        EXPECT_EQ(model.spec().name, family);
        EXPECT_EQ(HfLines(model), Lines(saved));
        ++compared;
      }
    }
  }
  EXPECT_GE(compared, 60);
}

TEST(FamilyNames, ConfigKeysOfTransformers4And5MeanTheSame) {
  for (const std::string& family : FilesIn("hf_names")) {
    const nlohmann::json truth = ReadJson(kTestData / "hf_names" / (family + ".json"));
    for (const auto& [variant, rows] : truth["variants"].items()) {
      const auto fields = [&](const char* version) {
        const std::string file = fmt::format("{}_{}.{}.json", family, variant, version);
        const Model model = ExpandConfig(ReadJson(kTestData / "family_configs" / file));
        nlohmann::json object;
        for (const Field& f : model.config()) object[f.name] = f.value;
        return object;
      };
      EXPECT_EQ(fields("v4"), fields("v5")) << family << " " << variant;
    }
  }
}

TEST(FamilyNames, PublicModelsHaveTheirNamesShapesAndParameterCounts) {
  for (const std::string& family : FilesIn("hf_names")) {
    const nlohmann::json truth = ReadJson(kTestData / "hf_names" / (family + ".json"));
    for (const auto& [name, model_truth] : truth["models"].items()) {
      SCOPED_TRACE(name);
      const Model model = ExpandConfig(model_truth["config"]);
      const auto tensors = model.HfTensors();
      ASSERT_TRUE(tensors) << tensors.error().what;
      int64_t parameters = 0;
      for (const auto& [tensor, shape] : *tensors) {
        parameters += std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
      }
      EXPECT_EQ(static_cast<int64_t>(tensors->size()), model_truth["tensors"].get<int64_t>());
      EXPECT_EQ(parameters, model_truth["parameters"].get<int64_t>());
      const std::string text = fmt::format("{}", fmt::join(Lines(*tensors), "\n"));
      EXPECT_EQ(Xxh3Hex(std::as_bytes(std::span(text))), model_truth["xxh3_128"]);
    }
  }
}

// One line per in-memory tensor: name, shape, the axis that tensor parallelism cuts, dtype.
std::set<std::string> MegatronLines(const Model& model, const std::string& spec, bool experts_cut) {
  std::set<std::string> lines;
  for (const Parameter& p : model.parameters()) {
    const bool local = spec.starts_with("local") || (spec.ends_with("sequential") && p.is_expert());
    const int axis = p.is_expert() && !experts_cut ? -1 : p.cut.axis;
    lines.insert(fmt::format(
        "{} [{}] cut {} {}", model.MegatronName(p, local ? Dialect::kLocal : Dialect::kTe),
        fmt::join(p.shape, ", "), axis, p.rule->dtype ? ShortName(*p.rule->dtype) : "bf16"));
  }
  return lines;
}

TEST(FamilyNames, MegatronParametersAreThoseOfTheRealModels) {
  int compared = 0;
  for (const std::string& family : FilesIn("known/names")) {
    const nlohmann::json truth = ReadJson(kTestData / "known/names" / (family + ".json"));
    const Model model =
        ExpandConfig(ReadJson(kTestData / "family_configs" / fmt::format("known_{}.json", family)));
    std::map<std::string, std::set<std::string>> real;
    for (const auto& t : truth["tensors"]) {
      const int cut = t["cut"].is_null() ? -1 : t["cut"].get<int>();
      real[t["spec"]].insert(fmt::format("{} [{}] cut {} {}", t["name"].get<std::string>(),
                                         fmt::join(t["shape"].get<Shape>(), ", "), cut,
                                         t["dtype"].get<std::string>()));
    }
    for (const auto& [spec, lines] : real) {
      // The bridge cannot load gpt-oss with expert tensor parallelism: recorded with 1.
      EXPECT_EQ(MegatronLines(model, spec, family != "gpt_oss"), lines) << family << " " << spec;
      ++compared;
    }
  }
  EXPECT_GE(compared, 28);
}

// DeepSeek's own description of its weights: the MTP module is layer 61, built like the other
// layers, with enorm, hnorm, eh_proj and the head's norm, and repeats the embedding and the head.
TEST(FamilyNames, DeepSeekV3MtpLayerIsTheHfLayerAfterTheLast) {
  nlohmann::json config =
      ReadJson(kTestData / "hf_names/deepseek_v3.json")["models"]["DeepSeek-V3"]["config"];
  config["num_nextn_predict_layers"] = 1;
  const Model model = ExpandConfig(config);
  const auto tensors = model.HfTensors();
  ASSERT_TRUE(tensors) << tensors.error().what;
  std::set<std::string> last, mtp;
  for (const auto& [name, shape] : *tensors) {
    if (name.starts_with("model.layers.60.")) last.insert(name.substr(16));
    if (name.starts_with("model.layers.61.")) mtp.insert(name.substr(16));
  }
  last.insert({"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight"});
  EXPECT_EQ(mtp, last);
  std::vector<std::string> copies;
  for (const TensorCopy& copy : model.copies()) copies.push_back(copy.hf + " = " + copy.same_as);
  EXPECT_THAT(copies, testing::UnorderedElementsAre(
                          "model.layers.61.embed_tokens.weight = model.embed_tokens.weight",
                          "model.layers.61.shared_head.head.weight = lm_head.weight"));
}

// What model.state_dict() of transformers 5 holds, before save_pretrained splits it.
TEST(FamilyNames, FusedExpertsAreFoundUnderTheirOwnNames) {
  for (const char* family : {"qwen3_moe", "mixtral", "olmoe", "deepseek_v2", "deepseek_v3"}) {
    SCOPED_TRACE(family);
    const nlohmann::json config =
        ReadJson(kTestData / "family_configs" / fmt::format("known_{}.json", family));
    const auto spec = Library().ForConfig(config);
    ASSERT_TRUE(spec);
    ExpandOptions options;
    options.has = [](const std::string& name) {
      return name.find("experts.0.") == std::string::npos &&
             name.find("experts.1.") == std::string::npos &&
             name.find("block_sparse_moe") == std::string::npos;
    };
    const auto model = Model::Expand(*spec.value(), config, options);
    ASSERT_TRUE(model) << model.error().what;
    const auto tensors = model->HfTensors();
    ASSERT_TRUE(tensors) << tensors.error().what;
    const int64_t hidden = model->dims().at("hidden"), ffn = model->dims().at("moe_ffn");
    const int64_t experts = model->dims().at("experts");
    EXPECT_EQ(tensors->at("model.layers.1.mlp.experts.gate_up_proj"),
              (Shape{experts, 2 * ffn, hidden}));
    EXPECT_EQ(tensors->at("model.layers.1.mlp.experts.down_proj"), (Shape{experts, hidden, ffn}));
    EXPECT_TRUE(tensors->contains("model.layers.1.mlp.gate.weight"));
  }
}

// The value of a run_config.yaml field: a class or function stands for itself by its last name.
nlohmann::json YamlValue(const YAML::Node& node) {
  if (!node.IsDefined()) return "absent";
  if (node.IsNull()) return "none";
  if (node.IsMap()) {
    const auto target = node["_target_"].as<std::string>("");
    return target.substr(target.rfind('.') + 1);
  }
  if (node.IsSequence()) {
    nlohmann::json list = nlohmann::json::array();
    for (const YAML::Node& entry : node) list.push_back(YamlValue(entry));
    return list;
  }
  nlohmann::json number = nlohmann::json::parse(node.Scalar(), nullptr, false);
  return number.is_discarded() ? nlohmann::json(node.Scalar()) : number;
}

// Fields that the bridge spells otherwise with the same effect: every other layer has a window (2,
// or in Gemma2's code), mscale of a RoPE that is not scaled.
bool SpelledOtherwise(const std::string& field, const nlohmann::json& ours,
                      const nlohmann::json& bridge) {
  if (field == "window_attn_skip_freq") {
    return (bridge == 2 || bridge == "none") && ours.dump().starts_with("[1,0");
  }
  return field == "mscale_all_dim" && ours == 0.0 && bridge == 1.0;
}

TEST(FamilyNames, ConfigFieldsAreThoseThatTheBridgeWrites) {
  const fs::path goldens = fs::path(WEIGHBRIDGE_SOURCE_DIR) / "../shared/goldens";
  if (!fs::is_directory(goldens)) GTEST_SKIP() << "the golden checkpoints are not on this machine";
  for (const char* golden : {"llama_tied", "llama_untied", "qwen2", "qwen3", "qwen3_moe", "olmoe",
                             "gemma2", "gpt_oss_ns", "deepseek_v3", "deepseek_v3_nomtp", "glm4_moe",
                             "ernie4_5_moe", "exaone4", "nemotron_h", "qwen3_next"}) {
    const Model model = ExpandConfig(ReadJson(goldens / golden / "hf_fp32/config.json"));
    const YAML::Node yaml = YAML::LoadFile(
        (goldens / golden / "meg_te_fp32/iter_0000000/run_config.yaml").string())["model"];
    std::map<std::string, nlohmann::json> fields;
    for (const Field& f : model.config()) fields[f.name] = f.value;
    // What the bridge is known to write otherwise.
    for (const Field& f : model.BridgeFields(Dialect::kTe)) {
      if (fields.contains(f.name)) fields[f.name] = f.value.is_null() ? "none" : f.value;
    }
    const auto& faults = model.spec().bridge.faults;
    for (const auto& [name, value] : fields) {
      const nlohmann::json bridge = YamlValue(yaml[name]);
      if (SpelledOtherwise(name, value, bridge)) continue;
      const auto fault = faults.find(name);
      const bool known =
          fault != faults.end() && bridge == (fault->second.is_null() ? "none" : fault->second);
      if (known) continue;
      EXPECT_EQ(value, bridge) << golden << " " << name;
    }
  }
}

}  // namespace
}  // namespace weighbridge
