#include "engine/forward/module.h"

#include <deque>

namespace weighbridge::engine {

std::span<const ModuleInfo> EmbeddingModules() {
  static const std::array<ModuleInfo, 1> kModules = {{
      {ModuleId::kEmbedding, "embedding", {Slot::kIds}, {Slot::kOut}, Reach::kAll},
  }};
  return kModules;
}

std::span<const ModuleInfo> LayerModules() {
  using enum Slot;
  using enum ModuleId;
  static const std::array<ModuleInfo, 18> kModules = {{
      {kInputNorm, "input_layernorm", {kX}, {kNormed}},
      {kQkv, "self_attention.linear_qkv", {kNormed}, {kQ, kK, kV, kGate}},
      {kQkNorm, "self_attention.q_layernorm", {kQ, kK}, {kQNormed, kKNormed}},
      {kRope,
       "self_attention.rotary_pos_emb",
       {kQNormed, kKNormed},
       {kQRotated, kKRotated},
       Reach::kAll},
      {kCoreAttention,
       "self_attention.core_attention",
       {kQRotated, kKRotated, kV},
       {kContext},
       Reach::kAll},
      {kDeltaNet, "self_attention.gated_delta_net", {kNormed}, {kContext}, Reach::kPast},
      {kMamba, "mixer", {kNormed}, {kContext}, Reach::kPast},
      {kProjection, "self_attention.linear_proj", {kContext, kGate}, {kAttention}},
      {kMambaBeside, "mamba_mixer", {kAttention, kNormed}, {kMixed}, Reach::kPast},
      {kPostAttentionNorm,
       "self_attention.linear_proj.post_layernorm",
       {kMixed},
       {kAttentionNormed}},
      {kAttentionResidual, "self_attn_bda", {kX, kAttentionNormed}, {kMiddle}},
      {kPreMlpNorm, "pre_mlp_layernorm", {kMiddle}, {kMlpIn}},
      {kRouter, "mlp.router", {kMlpIn}, {kRouting, kScores}, Reach::kAll},
      {kExperts, "mlp.experts", {kMlpIn, kRouting}, {kMlpOut}},
      {kMlp, "mlp", {kMlpIn}, {kMlpOut}},
      {kSharedExperts, "mlp.shared_experts", {kMlpOut, kMlpIn}, {kMlpShared}},
      {kPostMlpNorm, "mlp.linear_fc2.post_layernorm", {kMlpShared}, {kMlpNormed}},
      {kMlpResidual, "mlp_bda", {kMiddle, kMlpNormed}, {kOut}},
  }};
  return kModules;
}

std::span<const ModuleInfo> OutputModules() {
  static const std::array<ModuleInfo, 2> kModules = {{
      {ModuleId::kFinalNorm, "decoder.final_layernorm", {Slot::kX}, {Slot::kFinal}},
      {ModuleId::kLogits, "output_layer", {Slot::kFinal}, {Slot::kVocabulary}},
  }};
  return kModules;
}

std::span<const ModuleInfo> MtpModules() {
  using enum Slot;
  using enum ModuleId;
  static std::deque<std::string> names;
  static const std::vector<ModuleInfo> kModules = [] {
    std::vector<ModuleInfo> modules = {
        {kNextNorm, "enorm", {kNext}, {kNextNormed}},
        {kBeforeNorm, "hnorm", {kBefore}, {kBeforeNormed}},
        {kMtpProjection, "eh_proj", {kNextNormed, kBeforeNormed}, {kX}},
    };
    for (ModuleInfo module : LayerModules()) {
      module.name = names.emplace_back(std::string("mtp_model_layer.") + module.name).c_str();
      modules.push_back(std::move(module));
    }
    modules.push_back({kMtpNorm, "final_layernorm", {kOut}, {kFinal}});
    return modules;
  }();
  return kModules;
}

}  // namespace weighbridge::engine
