// How ranks hold a tensor: the parallel grid, which layers a pipeline stage owns, how a global
// tensor is cut, and, written apart, how Megatron's gathers join the pieces again. Formulas:
// megatron-core 0.19 (get_transformer_layer_offset, PipelineParallelLayerLayout, gated and packed
// column-parallel layers).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "mapping/layout.h"

namespace weighbridge {

struct ParallelGrid {
  int tp = 1, pp = 1, vpp = 1, ep = 1, etp = 1;
  // Layers of the first and last pipeline stage; -1: even.
  int64_t first_stage_layers = -1, last_stage_layers = -1;
  // Megatron's layout string ("Et*3|(tt|)*2,m|L"); empty: none. Its stages run over pp, then vpp.
  std::string pp_layout;
  // The embedding (the loss) counts as one layer of the even split.
  bool account_for_embedding = false, account_for_loss = false;
  bool operator==(const ParallelGrid&) const = default;
};

// "TP 2 x PP 2 x EP 1 x ETP 1", VPP only when it is not 1.
std::string ToString(const ParallelGrid& grid);

// One model chunk: pipeline rank `pp`, virtual stage `vpp`.
struct Stage {
  int pp = 0, vpp = 0;
  std::vector<int64_t> decoder_layers, mtp_layers;  // global indexes, ascending
  bool has_embedding = false;                       // the input embedding
  bool has_final_norm = false;                      // decoder.final_layernorm
  bool has_output = false;                          // the output layer and the loss
};

// The stages in layer order: vpp outer, pp inner. Error kUsage "grid" when the layers cannot be
// placed (not divisible, a layout string that does not parse or has other counts).
Result<std::vector<Stage>> PlaceLayers(const ParallelGrid& grid, int64_t layers,
                                       int64_t mtp_layers);

// Expands a layout string into stages of 'E', 't', 'm', 'L' ("Et|tt|L" -> {"Et", "tt", "L"}):
// commas are ignored, x*3 repeats a letter, (...)*3 a group without nesting, | ends a stage.
Result<std::vector<std::string>> ParsePipelineLayout(std::string_view text);

// How one parameter is cut over the ranks of its tensor-parallel group.
struct TensorCut {
  int axis = -1;  // 0: column parallel, 1: row parallel, -1: replicated
  // Packed parts along axis 0 (gate and up; z, x, B, C, dt), each cut on its own. Empty: one part.
  std::vector<int64_t> components;

  bool replicated() const { return axis < 0; }
};

// kUsage "grid" when `size` ranks cannot cut `shape` evenly.
Status CheckCut(const Shape& shape, const TensorCut& cut, int size);

// What rank `rank` of `size` holds. Target: the rank's tensor; source 0: the global tensor.
Layout CutLayout(const Shape& shape, const TensorCut& cut, int size, int rank);
Shape CutShape(const Shape& shape, const TensorCut& cut, int size);

// How the ranks' tensors form the global one. Target: the global tensor; source r: rank r's tensor.
// A replicated tensor is rank 0's. As Megatron gathers: written from the ranks' side, not as the
// inverse of CutLayout, which the property tests prove it to be.
Layout JoinLayout(const Shape& shape, const TensorCut& cut, int size);

// Megatron's padded vocabulary: `vocab` itself where tp divides it, else up to a multiple of
// divisor * tp, divisor being the largest power of two up to 128 that divides `vocab`.
int64_t PaddedVocab(int64_t vocab, int tp);

}  // namespace weighbridge
