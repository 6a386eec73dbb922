#include "formats/megatron_config/megatron_config.h"

#include <array>
#include <string_view>
#include <utility>

namespace weighbridge {
namespace {

using nlohmann::json;

constexpr int64_t kMostRows = int64_t{1} << 40, kMostDivisor = int64_t{1} << 20;

// Megatron-LM's argument and the field of Megatron-Core that it becomes.
constexpr std::array<std::pair<const char*, const char*>, 6> kRenamed = {{
    {"norm_epsilon", "layernorm_epsilon"},
    {"apply_layernorm_1p", "layernorm_zero_centered_gamma"},
    {"num_experts", "num_moe_experts"},
    {"use_rope_scaling", "rope_scaling"},
    {"rotary_seq_len_interpolation_factor", "seq_len_interpolation_factor"},
    {"max_position_embeddings", "seq_length"},
}};

// nullopt: absent, None, or no size.
std::optional<int64_t> SizeOf(const json& fields, const char* field) {
  const auto it = fields.find(field);
  if (it == fields.end() || !it->is_number_integer() || *it < 0 || *it > kMostRows) {
    return std::nullopt;
  }
  return it->get<int64_t>();
}

bool IsTrue(const json& args, const char* name) {
  const auto it = args.find(name);
  return it != args.end() && *it == true;
}

// The function's name alone: "torch.nn.functional.silu" -> "silu".
void NameActivation(json& fields) {
  const auto it = fields.find("activation_func");
  if (it == fields.end()) return;
  const json& target = it->is_object() && it->contains("_target_") ? (*it)["_target_"] : *it;
  if (!target.is_string()) return;
  const auto text = target.get<std::string>();
  *it = text.substr(text.rfind('.') + 1);
}

// calculate_padded_vocab_size of Megatron Bridge.
std::optional<int64_t> DeclaredRows(const json& fields) {
  const auto vocab = SizeOf(fields, "vocab_size");
  if (!vocab || !IsTrue(fields, "should_pad_vocab")) return vocab;
  const int64_t by = SizeOf(fields, "make_vocab_size_divisible_by").value_or(1);
  const int64_t tp = SizeOf(fields, "tensor_model_parallel_size").value_or(1);
  if (by < 1 || by > kMostDivisor || tp < 1 || tp > kMostDivisor) return std::nullopt;
  return (*vocab + by * tp - 1) / (by * tp) * (by * tp);
}

// Arguments that stand for an activation with and without a gate.
void AddActivation(const json& args, json& fields) {
  if (!args.contains("swiglu")) return;
  const bool swiglu = IsTrue(args, "swiglu"), quick = IsTrue(args, "quick_geglu");
  fields["gated_linear_unit"] = swiglu || quick;
  fields["activation_func"] = swiglu                         ? "silu"
                              : quick                        ? "quick_gelu"
                              : IsTrue(args, "squared_relu") ? "squared_relu"
                              : IsTrue(args, "openai_gelu")  ? "fast_gelu"
                                                             : "gelu";
  fields["bias_activation_fusion"] =
      args.value(swiglu ? "bias_swiglu_fusion" : "bias_gelu_fusion", json(true));
}

// What TransformerConfig makes of a None. A field that is not recorded stays so, unless `absent`:
// arguments that a version did not have yet.
void FillDefaults(json& fields, bool absent) {
  const auto none = [&](const char* field) {
    const auto it = fields.find(field);
    return it == fields.end() || it->is_null();
  };
  const auto fill = [&](const char* field) {
    return none(field) && (absent || fields.contains(field));
  };
  const auto take = [&](const char* field, const char* from) {
    if (fill(field) && !none(from)) fields[field] = fields[from];
  };
  take("num_query_groups", "num_attention_heads");
  if (!none("num_moe_experts")) take("moe_ffn_hidden_size", "ffn_hidden_size");
  const bool heads = !none("hidden_size") && fields["hidden_size"].is_number_integer() &&
                     !none("num_attention_heads") &&
                     fields["num_attention_heads"].is_number_integer() &&
                     fields["num_attention_heads"] > 0;
  if (fill("kv_channels") && heads) {
    fields["kv_channels"] =
        fields["hidden_size"].get<int64_t>() / fields["num_attention_heads"].get<int64_t>();
  }
  if (absent && none("rotary_interleaved")) fields["rotary_interleaved"] = false;
}

}  // namespace

MegatronConfig ConfigOfRunConfig(const RunConfig& run_config) {
  MegatronConfig config;
  config.fields = run_config.model();
  config.origin = kRunConfigName;
  config.provider = run_config.provider();
  config.hf_model = run_config.HfModel();
  NameActivation(config.fields);
  FillDefaults(config.fields, /*absent=*/false);
  config.embedding_rows = DeclaredRows(config.fields);
  return config;
}

MegatronConfig ConfigOfArguments(const json& args) {
  MegatronConfig config;
  config.origin = "the args of the common state";
  config.fields = args;
  for (const auto& [argument, field] : kRenamed) {
    if (args.contains(argument)) config.fields[field] = args[argument];
  }
  if (args.contains("untie_embeddings_and_output_weights")) {
    config.fields["share_embeddings_and_output_weights"] =
        !IsTrue(args, "untie_embeddings_and_output_weights");
  }
  if (args.contains("group_query_attention") && !IsTrue(args, "group_query_attention")) {
    config.fields["num_query_groups"] = nullptr;
  }
  AddActivation(args, config.fields);
  FillDefaults(config.fields, /*absent=*/true);
  config.embedding_rows = SizeOf(args, "padded_vocab_size");
  // The tokenizer's size is not always among the arguments.
  if (!SizeOf(args, "vocab_size") && config.embedding_rows) {
    config.fields["vocab_size"] = *config.embedding_rows;
  }
  return config;
}

Result<std::optional<MegatronConfig>> ReadMegatronConfig(const MegatronCheckpoint& checkpoint) {
  WB_TRY(const auto run_config, ReadRunConfig(checkpoint.path() / kRunConfigName));
  if (run_config) return ConfigOfRunConfig(*run_config);
  WB_TRY(const json state, checkpoint.CommonState());
  const auto args = state.find("args");
  if (args == state.end() || !args->is_object()) return std::nullopt;
  return ConfigOfArguments(*args);
}

}  // namespace weighbridge
