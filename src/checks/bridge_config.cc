#include "checks/bridge_config.h"

#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <string_view>
#include <utility>

#include "base/strings.h"
#include "checks/megatron_config_check.h"
#include "family/effects/effects.h"
#include "formats/megatron_config/megatron_config.h"
#include "formats/megatron_config/run_config.h"

namespace weighbridge {
namespace {

using nlohmann::json;

constexpr char kOwnModules[] = "default";  // the provider knows its modules, no field says them

// A class, function or dtype itself, not what it returns.
json Reference(std::string_view target) { return {{"_target_", target}, {"_call_", false}}; }

// Where Python finds the activation functions of [config].
std::string_view ActivationTarget(std::string_view name) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 8> kTargets = {{
      {"silu", "torch.nn.functional.silu"},
      {"gelu", "torch.nn.functional.gelu"},
      {"relu", "torch.nn.functional.relu"},
      {"sigmoid", "torch.nn.functional.sigmoid"},
      {"tanh", "torch.nn.functional.tanh"},
      {"fast_gelu", "megatron.core.activations.fast_gelu"},
      {"squared_relu", "megatron.core.activations.squared_relu"},
      {"quick_gelu", "megatron.core.fusions.fused_bias_geglu.quick_gelu"},
  }};
  for (const auto& [known, target] : kTargets) {
    if (known == name) return target;
  }
  return "";
}

json FieldValue(const Field& field) {
  if (field.value == "none") return nullptr;
  if (field.name == "activation_func" && field.value.is_string()) {
    const std::string_view target = ActivationTarget(field.value.get_ref<const std::string&>());
    return target.empty() ? field.value : Reference(target);
  }
  return field.value;
}

bool HasSeveralLayerKinds(const Model& model) {
  for (const Field& field : model.config()) {
    if (field.name == "moe_layer_freq") return field.value.is_array();
  }
  return false;
}

// "$field" is that field of the model's config.
json Argument(const Model& model, const json& value) {
  if (!value.is_string() || !value.get_ref<const std::string&>().starts_with('$')) return value;
  const std::string name = value.get_ref<const std::string&>().substr(1);
  for (const Field& field : model.config()) {
    if (field.name == name) return field.value;
  }
  return nullptr;
}

Result<json> LayerSpec(const Model& model, Dialect dialect) {
  const auto& specs = model.spec().bridge.layer_specs;
  const std::string plain = dialect == Dialect::kLocal ? "local" : "te";
  const auto it = specs.find(plain);
  if (it == specs.end() || it->second == "") {
    return Fail(ErrorKind::kUnsupported, "dialect",
                fmt::format("Megatron Bridge has no modules of the {} spec for {}", plain,
                            model.spec().name),
                "", dialect == Dialect::kLocal ? "leave --dialect local out" : "");
  }
  json spec = it->second;
  // A function for one layer cannot give layers of two kinds.
  if (const auto mixed = specs.find(plain + "_mixed");
      mixed != specs.end() && spec.is_string() && HasSeveralLayerKinds(model)) {
    spec = mixed->second;
  }
  if (spec == kOwnModules) return spec;
  if (spec.is_string()) return Reference(spec.get_ref<const std::string&>());
  json partial = {{"_partial_", true}, {"_args_", json::array()}};
  for (const auto& [key, value] : spec.items()) {
    partial[key == "function" ? "_target_" : key] = Argument(model, value);
  }
  return partial;
}

void AddGrid(const ParallelGrid& grid, bool has_experts, json& out) {
  const auto layers = [](int64_t n) { return n < 0 ? json() : json(n); };
  out["tensor_model_parallel_size"] = grid.tp;
  out["pipeline_model_parallel_size"] = grid.pp;
  out["virtual_pipeline_model_parallel_size"] = grid.vpp == 1 ? json() : json(grid.vpp);
  out["expert_model_parallel_size"] = grid.ep;
  // Megatron's own default, which it keeps where nothing is cut by it.
  out["expert_tensor_parallel_size"] = has_experts ? grid.etp : grid.tp;
  out["context_parallel_size"] = 1;
  out["sequence_parallel"] = false;
  out["num_layers_in_first_pipeline_stage"] = layers(grid.first_stage_layers);
  out["num_layers_in_last_pipeline_stage"] = layers(grid.last_stage_layers);
  out["pipeline_model_parallel_layout"] = grid.pp_layout.empty() ? json() : json(grid.pp_layout);
  out["account_for_embedding_in_pipeline_split"] = grid.account_for_embedding;
  out["account_for_loss_in_pipeline_split"] = grid.account_for_loss;
}

void AddDType(DType dtype, json& out) {
  const std::string_view name = dtype == DType::kBF16  ? "torch.bfloat16"
                                : dtype == DType::kF16 ? "torch.float16"
                                                       : "torch.float32";
  out["bf16"] = dtype == DType::kBF16;
  out["fp16"] = dtype == DType::kF16;
  for (const char* field : {"params_dtype", "pipeline_dtype", "autocast_dtype"}) {
    out[field] = Reference(name);
  }
}

// The bridge keeps a revision apart; a path may hold an @ of its own.
void AddSource(const std::string& hf_model, json& out) {
  std::error_code error;
  if (std::filesystem::exists(hf_model, error)) {
    // Whoever reads it may stand in another folder.
    const auto path = std::filesystem::absolute(hf_model, error).lexically_normal();
    out["hf_model_id"] = error ? hf_model : path.string();
    out["hf_model_revision"] = json();
    return;
  }
  const size_t at = hf_model.rfind('@');
  const bool revision = at != std::string::npos;
  out["hf_model_id"] = revision ? hf_model.substr(0, at) : hf_model;
  out["hf_model_revision"] = revision ? json(hf_model.substr(at + 1)) : json();
}

void AddVocabulary(const Model& model, json& out) {
  // What is really in the checkpoint counts: padded rows, MTP layers that were left out.
  out["vocab_size"] = model.padded_vocab();
  out["should_pad_vocab"] = false;
  if (out.contains("mtp_num_layers") && model.mtp_layers() == 0) out["mtp_num_layers"] = nullptr;
}

bool HasExperts(const json& model) {
  const auto it = model.find("num_moe_experts");
  return it != model.end() && !it->is_null();
}

Status AddSpec(const Model& model, Dialect dialect, json& out) {
  WB_TRY(json spec, LayerSpec(model, dialect));
  if (spec != kOwnModules) out["transformer_layer_spec"] = std::move(spec);
  out["transformer_impl"] = dialect == Dialect::kLocal ? "local" : "transformer_engine";
  return {};
}

}  // namespace

Result<nlohmann::json> BridgeRunConfig(const Model& model, const BridgeConfigOptions& options) {
  const BridgeRule& rule = model.spec().bridge;
  if (rule.provider.empty()) {
    return Fail(ErrorKind::kUnsupported, "provider",
                fmt::format("family {} names no provider of Megatron Bridge", model.spec().name),
                model.spec().origin, "docs/families.md describes [bridge]");
  }
  json out = {{"_target_", rule.provider}};
  WB_RETURN_IF_ERROR(AddSpec(model, options.dialect, out));
  for (const Field& field : model.config()) out[field.name] = FieldValue(field);
  for (const Field& field : model.BridgeFields(options.dialect)) out[field.name] = field.value;
  AddVocabulary(model, out);
  AddGrid(options.grid, HasExperts(out), out);
  AddDType(options.dtype, out);
  AddSource(options.hf_model, out);
  // Without these the bridge's training does not resume from a checkpoint.
  json checkpoint = {{"_target_", "megatron.bridge.training.config.CheckpointConfig"},
                     {"ckpt_format", options.ckpt_format},
                     {"save_optim", false},
                     {"save_rng", false},
                     {"fully_parallel_save", true}};
  return json{{"_target_", "megatron.bridge.training.config.ConfigContainer"},
              {"model", std::move(out)},
              {"checkpoint", std::move(checkpoint)},
              {"tokenizer", nullptr}};
}

Status CheckRunConfigValues(const Model& model, const nlohmann::json& run_config) {
  const auto refuse = [](const std::string& what) {
    return Fail(ErrorKind::kUnsupported, "config-unsupported", ToPrintable(what), "config.json");
  };
  WB_TRY(const EffectSide side, HfSide(model));
  const auto odd = OddFields(side);
  if (!odd.empty()) return refuse(odd.begin()->second + ", no value of its kind");
  WB_TRY(const RunConfig document, RunConfigOf(run_config, kRunConfigName));
  const MegatronConfig config = ConfigOfRunConfig(document);
  for (const auto& [field, value] : config.fields.items()) {
    const std::string why = ImpossibleNumber(field, config);
    if (why.empty()) continue;
    const auto keys = side.keys.find(field);
    return refuse(keys == side.keys.end() ? why : keys->second.front() + ": " + why);
  }
  return {};
}

Status UpdateRunConfig(const Model& model, const BridgeConfigOptions& options,
                       nlohmann::json& config) {
  const auto section = config.is_object() ? config.find("model") : config.end();
  if (section == config.end() || !section->is_object()) {
    return Corrupt("header-corrupt", "there is no table `model` in it", "run_config.yaml");
  }
  json& out = *section;
  const char* spec = options.dialect == Dialect::kLocal ? "local" : "transformer_engine";
  if (out.value("transformer_impl", json()) != spec) {
    WB_RETURN_IF_ERROR(AddSpec(model, options.dialect, out));
    for (const Field& field : model.BridgeFields(options.dialect)) out[field.name] = field.value;
  }
  AddVocabulary(model, out);
  const json sequence_parallel = out.value("sequence_parallel", json(false));
  const json context = out.value("context_parallel_size", json(1));
  AddGrid(options.grid, HasExperts(out), out);
  // How it is trained, not how it is cut; Megatron refuses the first one without ranks.
  if (options.grid.tp > 1) out["sequence_parallel"] = sequence_parallel;
  out["context_parallel_size"] = context;
  AddDType(options.dtype, out);
  const auto checkpoint = config.find("checkpoint");
  if (checkpoint != config.end() && checkpoint->is_object()) {
    (*checkpoint)["ckpt_format"] = options.ckpt_format;
  }
  return {};
}

}  // namespace weighbridge
