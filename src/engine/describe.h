// What a model computes, as data for the component: of each stage (the embedding, a layer, the
// output) the numbers and the tensors. The Hugging Face side is described by config.json in HF's
// terms, the Megatron side by Megatron's config in Megatron's; neither sees the other's numbers. No
// I/O.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "family/effects/effects.h"
#include "family/model.h"

namespace weighbridge {

// Whether the engine knows the family's models: their configs, and the matrix that gives the
// logits.
bool HasForwardPass(const FamilySpec& spec);

// The number of tokens, at least one, up to which all blocks compute what the side's model does:
// beyond it there are chunks, temperatures, keys left out by an indexer (indexers do not run).
// nullopt: there is no such length. Errors, kUnsupported: "config-unsupported" for a limit in the
// config (`origin`) that is no whole number from 1 on, "engine-unsupported" where what follows from
// it is below 1.
Result<std::optional<int64_t>> LongestKnown(const EffectSide& side,
                                            const std::string& origin = "config.json");

// The parameters of no stage, towers and projectors, which no text reaches. Indexers and MTP layers
// are not among them.
struct OtherParts {
  int64_t tensors = 0;          // of Megatron's, of the whole model
  std::set<std::string> names;  // "audio_tower", beneath what also holds the text model
};
OtherParts OtherPartsOf(const Model& model);

enum class StageKind { kEmbedding, kLayer, kMtp, kOutput };

struct StageId {
  StageKind kind = StageKind::kEmbedding;
  int64_t layer = 0;  // of kLayer, and of kMtp among the MTP layers
  bool operator==(const StageId&) const = default;
};

// The MTP layers that the engine runs: of a model that has some, all or none.
struct MtpLayers {
  int64_t count = 0;
  std::string left_out;  // why none of them runs; empty: they do, or there are none
};
MtpLayers MtpLayersOf(const Model& model, const EffectSide& hf, const EffectSide& megatron);

// The numbers of a stage, of either side. Errors: kUnsupported "engine-unsupported" for what no
// block of the engine computes; those of LayerEffects.
Result<nlohmann::json> DescribeStage(const EffectSide& side, const Model& model, StageId stage);

// A tensor under the name by which the component's model asks for it.
struct HfUse {
  std::string role, tensor;  // "q_proj.weight", "model.layers.0.self_attn.q_proj.weight"
};
struct MegatronUse {
  std::string role;  // "self_attention.linear_qkv.weight"
  const Parameter* parameter = nullptr;
};

// The tensors of a stage. Of HF's also how its experts are stored, into `spec`. Errors:
// kUnsupported "engine-unsupported" for a parameter that no block knows.
Result<std::vector<HfUse>> HfTensorsOf(const Model& model, StageId stage, nlohmann::json& spec);
std::vector<MegatronUse> MegatronTensorsOf(const Model& model, StageId stage);

}  // namespace weighbridge
