// From the names in the modules of a rank to those of the whole model, without a family: global
// numbers of layers and experts, read off what the ranks hold.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "formats/torch_legacy/reader.h"

namespace weighbridge {

// Immutable; may be used from any thread.
class RankNames {
 public:
  // Stages hold the layers in Megatron's order: virtual stages outer, pipeline ranks inner.
  explicit RankNames(const TorchLegacyCheckpoint& ranks);

  // "decoder.layers.0.mlp.experts.local_experts.1.linear_fc1.weight" on the second of two stages
  // and expert ranks -> "decoder.layers.2.mlp.experts.linear_fc1.weight3".
  std::string Global(const RankFile& rank, size_t part, const std::string& name) const;

  // Names under which a whole checkpoint may have it, the same one first: a norm's name in the
  // other module spec; the embedding for an output layer that may be tied to it.
  static std::vector<std::string> Spellings(const std::string& name);

 private:
  std::map<std::pair<int, size_t>, int64_t> first_layer_;  // by pipeline rank and part
  std::map<std::pair<int, size_t>, int64_t> experts_;      // of one expert rank
};

}  // namespace weighbridge
