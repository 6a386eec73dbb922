// What both models have in common: which modules a layer has and what they take and give, so that
// either can be given the other's inputs. How a module computes is each side's own (engine/hf,
// engine/megatron); nothing of that is shared.
//
// Activations are batch first: hidden states [b, s, h]; q, k and v [b, s, heads, channels] with the
// heads in Hugging Face's order, a gate of attention like q; RoPE's channels in the order of halves
// where MLA reorders them; routing [b, s, experts], the weight of each expert, 0 where it is not
// chosen.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/forward/weights.h"
#include "engine/parallel/place.h"

namespace weighbridge::engine {

enum class ModuleId {
  kEmbedding,
  kInputNorm,
  kQkv,
  kQkNorm,
  kRope,
  kCoreAttention,
  kDeltaNet,
  kMamba,
  kProjection,
  kMambaBeside,
  kPostAttentionNorm,
  kAttentionResidual,
  kPreMlpNorm,
  kRouter,
  kExperts,
  kSharedExperts,
  kMlp,
  kPostMlpNorm,
  kMlpResidual,
  kFinalNorm,
  kLogits,
  kNextNorm,
  kBeforeNorm,
  kMtpProjection,
  kMtpNorm,
};

enum class Slot {
  kIds,
  kX,
  kNormed,
  kQ,
  kK,
  kV,
  kGate,
  kQNormed,
  kKNormed,
  kQRotated,
  kKRotated,
  kContext,
  kAttention,
  kMixed,
  kAttentionNormed,
  kMiddle,
  kMlpIn,
  kRouting,
  kScores,  // of the router, by which the experts were chosen; not compared
  kMlpOut,
  kMlpShared,
  kMlpNormed,
  kOut,
  kFinal,
  kVocabulary,
  kNext,    // of an MTP layer: the embedding of the tokens that it sees beside the states
  kBefore,  // the states, after the norm at the end of the model or of the MTP layer before
  kNextNormed,
  kBeforeNormed,
  kCount,
};

using Activations = std::array<at::Tensor, static_cast<size_t>(Slot::kCount)>;

// What an output depends on, and so on how few tokens it can be computed as on all of them.
enum class Reach {
  kToken,  // its own token
  kPast,   // tokens before it: a prefix gives the same
  kAll,    // cheap enough to be computed whole
};

struct ModuleInfo {
  ModuleId id;
  const char* name;  // as Megatron-Core calls it, beneath its layer
  std::vector<Slot> in, out;
  Reach reach = Reach::kToken;
};

// In the order of computation. A module that neither side has is passed over; one that a single
// side has hands its first inputs on as they are on the other.
std::span<const ModuleInfo> EmbeddingModules();
std::span<const ModuleInfo> LayerModules();
std::span<const ModuleInfo> OutputModules();
// From kNext and kBefore to kFinal, around a whole layer.
std::span<const ModuleInfo> MtpModules();

// One layer, or the embedding, or the output, of one side. It computes in the dtype of its inputs:
// float32, float64 for the truth, or a narrow dtype, of which what its library computes in float32
// is computed so. Throws Unsupported and c10::Error.
class Stage {
 public:
  virtual ~Stage() = default;
  virtual bool Has(ModuleId id) const = 0;
  // All but kLogits.
  virtual std::vector<at::Tensor> Run(ModuleId id, std::span<const at::Tensor> in) const = 0;
  // Of the output's stage: rows of its matrix, and the logits of tokens [begin, begin + count).
  virtual int64_t vocabulary() const = 0;
  virtual at::Tensor Logits(const at::Tensor& x, int64_t begin, int64_t count) const = 0;
};

// In which sums, norms and softmaxes run when the rest is in `dtype`.
inline at::ScalarType Wide(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

// What a description asks for and no block computes. Its text goes to the user.
class Unsupported : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// `spec` is what engine/describe.h says of the stage; `weights` must outlive it.
std::unique_ptr<Stage> MakeHfStage(const nlohmann::json& spec, const Weights& weights);
// `place`: of a rank that holds a part of the stage, whose weights are shards of it. "cuts" of
// `spec` then says along which axis each matrix is cut ({"self_attention.linear_qkv.weight": 0});
// inputs and outputs are this rank's (parallel/distribution.h), rows of Logits() those of its
// shard.
std::unique_ptr<Stage> MakeMegatronStage(const nlohmann::json& spec, const Weights& weights,
                                         const Place& place = {});

}  // namespace weighbridge::engine
