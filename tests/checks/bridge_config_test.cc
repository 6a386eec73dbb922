// run_config.yaml: what import writes is what the bridge wrote for the same models, and what a
// checkpoint's own one contradicts is a cause.
#include "checks/bridge_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "checks/megatron_config_check.h"
#include "formats/megatron_config/run_config.h"
#include "formats/megatron_config/yaml.h"
#include "golden_models.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;

RunConfig Parsed(const std::string& text) {
  auto config = ParseRunConfig(text, "run_config.yaml");
  EXPECT_TRUE(config) << config.error().what;
  return std::move(*config);
}

json ModelSection(const Model& model, const BridgeConfigOptions& options) {
  const auto config = BridgeRunConfig(model, options);
  EXPECT_TRUE(config) << config.error().what;
  return config ? Parsed(DumpYaml(*config)).model() : json();
}

// Fields that stand for the same in another spelling.
std::string WhyOtherwise(const std::string& field, const json& ours, const json& theirs,
                         const json& model) {
  if (field == "hf_model_id") return "another path of the same model";
  if (field == "window_attn_skip_freq" && ours.dump().starts_with("[1,0")) {
    if (theirs == 2) return "every other layer, as a list";
    if (model["_target_"].get<std::string>().ends_with("Gemma2ModelProvider") && theirs.is_null()) {
      return "Gemma 2's own attention has the pattern in its code and does not look at the field";
    }
  }
  if (field == "mscale_all_dim" && model["rotary_scaling_factor"] == 1.0) {
    return "no effect on a RoPE that is not scaled";
  }
  return "";
}

int Size(const RunConfig& config, const char* field) {
  return static_cast<int>(config.Integer(field).value().value_or(1));
}

void ExpectSharedFieldsAreEqual(const OpenedModel& golden, const fs::path& file) {
  SCOPED_TRACE(file.string());
  const auto read = ReadRunConfig(file);
  ASSERT_TRUE(read && *read) << (read ? "absent" : read.error().what);
  const RunConfig& theirs = **read;
  BridgeConfigOptions options;
  options.grid.tp = Size(theirs, "tensor_model_parallel_size");
  options.grid.pp = Size(theirs, "pipeline_model_parallel_size");
  options.grid.ep = Size(theirs, "expert_model_parallel_size");
  options.grid.etp = Size(theirs, "expert_tensor_parallel_size");
  options.dtype = theirs.model()["bf16"] == true ? DType::kBF16 : DType::kF32;
  const json ours = ModelSection(*golden.model, options);
  size_t shared = 0;
  for (const auto& [field, value] : ours.items()) {
    const auto it = theirs.model().find(field);
    if (it == theirs.model().end()) continue;
    ++shared;
    if (*it == value || !WhyOtherwise(field, value, *it, ours).empty()) continue;
    ADD_FAILURE() << field << ": " << value << ", the bridge has " << *it;
  }
  EXPECT_GT(shared, 50u);
}

TEST(BridgeConfig, EveryFieldThatTheBridgeWritesTooIsEqual) {
  const fs::path goldens = fs::path(WEIGHBRIDGE_SOURCE_DIR) / "../shared/goldens";
  if (!fs::is_directory(goldens)) GTEST_SKIP() << "the golden checkpoints are not on this machine";
  for (const std::string& name : GoldenNames()) {
    const auto golden = OpenGolden(TestData() / "hf" / name, {});
    ASSERT_NE(golden, nullptr);
    for (const fs::directory_entry& entry : fs::directory_iterator(goldens / name)) {
      const std::string folder = entry.path().filename().string();
      // The local ones were made with a layer spec of a script.
      if (!folder.starts_with("meg_") || folder.starts_with("meg_local")) continue;
      ExpectSharedFieldsAreEqual(*golden, entry.path() / "iter_0000000" / kRunConfigName);
    }
  }
}

TEST(BridgeConfig, SaysDTypeGridSourceAndWhatIsReallyThere) {
  const auto golden =
      OpenGolden(TestData() / "hf/deepseek_v3", {.pad_vocab = 512, .without_mtp = true});
  ASSERT_NE(golden, nullptr);
  BridgeConfigOptions options{.dtype = DType::kF16, .hf_model = "org/name@abc"};
  options.grid = {.tp = 2, .pp = 2, .vpp = 2, .ep = 4, .etp = 1, .first_stage_layers = 1};
  const json model = ModelSection(*golden->model, options);
  EXPECT_EQ(model["_target_"], "megatron.bridge.models.mla_provider.MLAModelProvider");
  EXPECT_EQ(model["vocab_size"], 512);
  EXPECT_EQ(model["should_pad_vocab"], false);
  EXPECT_TRUE(model["mtp_num_layers"].is_null());
  EXPECT_EQ(model["fp16"], true);
  EXPECT_EQ(model["params_dtype"],
            json::parse(R"({"_call_": false, "_target_": "torch.float16"})"));
  EXPECT_EQ(model["virtual_pipeline_model_parallel_size"], 2);
  EXPECT_EQ(model["num_layers_in_first_pipeline_stage"], 1);
  EXPECT_TRUE(model["num_layers_in_last_pipeline_stage"].is_null());
  EXPECT_EQ(model["hf_model_id"], "org/name");
  EXPECT_EQ(model["hf_model_revision"], "abc");
  EXPECT_EQ(model["transformer_layer_spec"]["_partial_"], true);
}

// "none" is Megatron's None, but the word itself for gpt-oss' load balancing.
TEST(BridgeConfig, NoneIsNullAndTheWordNoneIsAWord) {
  const auto golden = OpenGolden(TestData() / "hf/gpt_oss_ns", {});
  ASSERT_NE(golden, nullptr);
  const json model = ModelSection(*golden->model, {});
  EXPECT_EQ(model["moe_router_load_balancing_type"], "none");
  EXPECT_TRUE(model["seq_len_interpolation_factor"].is_null());
}

TEST(BridgeConfig, LocalDialectHasItsOwnSpecWhereThereIsOne) {
  const auto moe = OpenGolden(TestData() / "hf/qwen3_moe", {});
  const auto gemma = OpenGolden(TestData() / "hf/gemma2", {});
  ASSERT_TRUE(moe && gemma);
  const json model = ModelSection(*moe->model, {.dialect = Dialect::kLocal});
  EXPECT_EQ(model["transformer_layer_spec"]["_target_"],
            "megatron.bridge.models.gpt_provider.local_layer_spec");
  EXPECT_EQ(model["moe_grouped_gemm"], false);
  EXPECT_EQ(model["transformer_impl"], "local");
  const auto refused = BridgeRunConfig(*gemma->model, {.dialect = Dialect::kLocal});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kUnsupported);
}

// megatron-core numbers layers in its keys when moe_layer_freq is a list, and the bridge's spec for
// one layer makes each of them MoE.
TEST(BridgeConfig, LayersOfTwoKindsHaveABlockSpec) {
  const auto golden = OpenGolden(TestData() / "hf/qwen3_moe", {});
  ASSERT_NE(golden, nullptr);
  EXPECT_EQ(ModelSection(*golden->model, {})["moe_layer_freq"], 1);
  json config = golden->config;
  config["mlp_only_layers"] = {0};
  const auto mixed = Model::Expand(golden->model->spec(), config, {});
  ASSERT_TRUE(mixed) << mixed.error().what;
  const json model = ModelSection(*mixed, {});
  EXPECT_EQ(model["moe_layer_freq"], json({0, 1}));
  EXPECT_EQ(model["transformer_layer_spec"]["_target_"],
            "megatron.core.models.gpt.gpt_layer_specs.get_gpt_decoder_block_spec");
}

TEST(MegatronConfigCheck, SizesThatContradictTheHfConfigAreCauses) {
  const auto golden = OpenGolden(TestData() / "hf/qwen3_moe", {});
  ASSERT_NE(golden, nullptr);
  Report report;
  CheckMegatronConfig(
      *golden->model,
      ConfigOfRunConfig(Parsed("model: {num_layers: 3, hidden_size: 64, num_attention_heads: 8, "
                               "num_moe_experts: 8, ffn_hidden_size: null, seq_length: 1}")),
      /*by_effect=*/false, report);
  ASSERT_EQ(report.causes.size(), 2u);
  EXPECT_THAT(report.causes,
              ElementsAre(Field(&Cause::id, "size-mismatch"), Field(&Cause::id, "head-geometry")));
  EXPECT_THAT(report.causes[0].where, ElementsAre("num_layers", "num_moe_experts"));
  EXPECT_EQ(report.causes[0].origin, Origin::kConfig);
  EXPECT_THAT(report.causes[0].message, HasSubstr("num_layers is 3"));
}

TEST(MegatronConfigCheck, WhatIsNotSaidIsNoFault) {
  const auto golden = OpenGolden(TestData() / "hf/llama_tied", {});
  ASSERT_NE(golden, nullptr);
  Report report;
  CheckMegatronConfig(
      *golden->model,
      ConfigOfRunConfig(Parsed("model: {tensor_model_parallel_size: 2, vocab_size: 384}")),
      /*by_effect=*/false, report);
  EXPECT_THAT(report.causes, IsEmpty());
  EXPECT_THAT(report.details, testing::Contains(std::pair<std::string, std::string>(
                                  "saved grid", "TP 2 x PP 1 x EP 1 x ETP 1")));
}

TEST(MegatronConfigCheck, ValuesOfTheWrongKindAreCorrupt) {
  const auto golden = OpenGolden(TestData() / "hf/llama_tied", {});
  ASSERT_NE(golden, nullptr);
  Report report;
  CheckMegatronConfig(*golden->model,
                      ConfigOfRunConfig(Parsed("model: {num_layers: two, vocab_size: [1]}")),
                      /*by_effect=*/false, report);
  ASSERT_EQ(report.causes.size(), 1u);
  EXPECT_EQ(report.causes[0].id, "header-corrupt");
  EXPECT_THAT(report.causes[0].where, ElementsAre("vocab_size", "num_layers"));
}

}  // namespace
}  // namespace weighbridge
