#include <array>

#include "mapping/transforms/transform.h"

namespace weighbridge {

Result<TransformPlan> PlanColumns(const TransformRequest& request);
Result<TransformPlan> PlanExpert(const TransformRequest& request);
Result<TransformPlan> PlanExpertGatedMlp(const TransformRequest& request);
Result<TransformPlan> PlanExpertGateUp(const TransformRequest& request);
Result<TransformPlan> PlanGatedMlp(const TransformRequest& request);
Result<TransformPlan> PlanGdnInProj(const TransformRequest& request);
Result<TransformPlan> PlanGdnInProjFlat(const TransformRequest& request);
Result<TransformPlan> PlanIdentity(const TransformRequest& request);
Result<TransformPlan> PlanKv(const TransformRequest& request);
Result<TransformPlan> PlanPadVocab(const TransformRequest& request);
Result<TransformPlan> PlanQkv(const TransformRequest& request);
Result<TransformPlan> PlanQkvConcat(const TransformRequest& request);
Result<TransformPlan> PlanQkvGated(const TransformRequest& request);
Result<TransformPlan> PlanQkvHeadGate(const TransformRequest& request);
Result<TransformPlan> PlanQkvKeysAsValues(const TransformRequest& request);
Result<TransformPlan> PlanQkvQuery(const TransformRequest& request);
Result<TransformPlan> PlanQkvUnequal(const TransformRequest& request);
Result<TransformPlan> PlanRows(const TransformRequest& request);
Result<TransformPlan> PlanSwapHalves(const TransformRequest& request);

namespace {
constexpr std::array<std::string_view, 3> kHeadOptions = {"groups", "head_dim", "heads"};
constexpr std::array<std::string_view, 4> kQkvOptions = {"groups", "head_dim", "heads",
                                                         "v_head_dim"};
constexpr std::array<std::string_view, 4> kGdnOptions = {"key_dim", "key_heads", "value_dim",
                                                         "value_heads"};
constexpr std::array<std::string_view, 3> kRowsOptions = {"begin", "of", "squeeze"};
constexpr std::array<std::string_view, 2> kColumnsOptions = {"begin", "of"};
constexpr std::array<std::string_view, 1> kExpertOptions = {"transposed"};
constexpr std::array<std::string_view, 2> kExpertGatedOptions = {"interleaved", "transposed"};
constexpr std::array<std::string_view, 2> kIdentityOptions = {"squeeze", "transposed"};
}  // namespace

std::span<const Transform> AllTransforms() {
  static const std::array<Transform, 19> kAll = {{
      {"columns", kColumnsOptions, 1, PlanColumns},
      {"expert", kExpertOptions, 1, PlanExpert},
      {"expert_gate_up", {}, 2, PlanExpertGateUp},
      {"expert_gated_mlp", kExpertGatedOptions, 1, PlanExpertGatedMlp},
      {"gated_mlp", {}, 2, PlanGatedMlp},
      {"gdn_in_proj", kGdnOptions, 2, PlanGdnInProj},
      {"gdn_in_proj_flat", kGdnOptions, 4, PlanGdnInProjFlat},
      {"identity", kIdentityOptions, 1, PlanIdentity},
      {"kv", kHeadOptions, 2, PlanKv},
      {"pad_vocab", {}, 1, PlanPadVocab},
      {"qkv", kHeadOptions, 3, PlanQkv},
      {"qkv_concat", kHeadOptions, 1, PlanQkvConcat},
      {"qkv_gated", kHeadOptions, 3, PlanQkvGated},
      {"qkv_head_gate", kHeadOptions, 4, PlanQkvHeadGate},
      {"qkv_keys_as_values", kHeadOptions, 2, PlanQkvKeysAsValues},
      {"qkv_query", kHeadOptions, 1, PlanQkvQuery},
      {"qkv_unequal", kQkvOptions, 3, PlanQkvUnequal},
      {"rows", kRowsOptions, 1, PlanRows},
      {"swap_halves", {}, 1, PlanSwapHalves},
  }};
  return kAll;
}

const Transform* FindTransform(std::string_view name) {
  for (const Transform& transform : AllTransforms()) {
    if (transform.name == name) return &transform;
  }
  return nullptr;
}

}  // namespace weighbridge
