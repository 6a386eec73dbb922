// Under which keys, and where in the tensor, a parameter may stand in a distributed checkpoint of
// Megatron-Core. Three things vary apart from each other: layers stacked along a leading axis or
// numbered in the key, the module spec whose names the writer used, and the experts' axis.
// Source: megatron-core 0.19 sharded_state_dict (reference: docs/megatron-names.md).
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "family/model.h"

namespace weighbridge {

struct DiskName {
  std::string key;
  // The parameter is tensor[index...]: layer and expert, as far as they are axes. `extents` are
  // those axes' sizes.
  std::vector<int64_t> index, extents;

  bool operator==(const DiskName&) const = default;
};

// A component of a packed parameter that is a tensor of its own on disk: rows [begin, begin + rows)
// of the parameter, under the parameter's key + "." + name.
struct DiskPart {
  std::string name;
  int64_t begin = 0, rows = 0;
};

// Empty: the parameter is one tensor.
std::vector<DiskPart> DiskParts(const Parameter& p);

// Every name under which readers look, the most usual first; last those of the modules themselves,
// with the model's numbers (files of ranks, joined). Never empty.
std::vector<DiskName> DiskNames(const Model& model, const Parameter& p);

// A norm's key in each way of naming norms: that of Transformer Engine's modules, of files of the
// local modules, and of those modules themselves (in files of ranks).
using NormKeySet = std::array<std::string, 3>;
// nullopt: `p` is no norm, or one of a family that names it by itself.
std::optional<NormKeySet> NormKeys(const Model& model, const Parameter& p, bool stacked);

// Where a norm may stand that is not where any reader looks: under the layer that other modules
// fuse it into, or by itself where readers look for a fused one.
struct NormAlias {
  DiskName found;
  std::string expected;  // the key
};
std::vector<NormAlias> NormAliases(const Model& model, const Parameter& p);

// The name that Megatron-Core itself writes for a model of this config with modules of `dialect`:
// layers are stacked unless the config lists kinds of layers (moe_layer_freq or
// linear_attention_freq is a list or above 1), asks for numbers (hetereogenous_dist_checkpoint) or
// the model is a HybridModel; those of a tower as its stack says.
DiskName WrittenName(const Model& model, const Parameter& p, Dialect dialect);

}  // namespace weighbridge
