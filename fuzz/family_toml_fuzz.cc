#include <cstdint>
#include <string_view>

#include "base/json.h"
#include "expand_model.h"
#include "family/library.h"
#include "family/lint.h"

namespace {

const nlohmann::json& SmallConfig() {
  static const nlohmann::json kConfig = *weighbridge::ParseJson(
      R"({"architectures": ["TinyForCausalLM"], "num_hidden_layers": 4, "hidden_size": 8, "vocab_size": 10,
          "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2, "intermediate_size": 6,
          "num_experts": 4, "moe_intermediate_size": 2, "rope_theta": 10000.0, "hidden_act": "silu",
          "layer_types": ["a", "b", "a", "b"], "pattern": "aabb", "mlp_only_layers": [1],
          "sliding_window": 16, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}})",
      "config");
  return kConfig;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto no_parents = [](const std::vector<std::string>&) {
    return weighbridge::Result<weighbridge::FamilySpec>(weighbridge::FamilySpec());
  };
  const auto spec = weighbridge::ParseFamily(text, "fuzz.toml", no_parents);
  if (!spec) return 0;
  // The same text on top of itself: every rule overrides.
  (void)weighbridge::ParseFamily(text, "fuzz.toml", no_parents, *spec);
  if (!weighbridge::LintFamily(*spec)) return 0;
  const auto model = weighbridge::Model::Expand(*spec, SmallConfig(), {});
  if (!model) return model.error().what.empty() ? (__builtin_trap(), 0) : 0;
  weighbridge::Exercise(*model);
  return 0;
}
