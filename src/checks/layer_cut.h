// Which tensors and config values a model has after its layers from the N-th on are taken away.
// Pure.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "family/model.h"
#include "formats/checkpoint.h"

namespace weighbridge {

// The names of the smaller model.
class LayerCut {
 public:
  // By the family's stacks: layer i of each stack that `small` still has keeps its tensors, under
  // the prefix that it has there. Both models are of one family.
  static Result<LayerCut> ByFamily(const Model& whole, const Model& small);
  // By name: of the prefixes before `layers.I.` (also `layer`, `h`, `blocks`) under which exactly
  // `whole` layers stand; with `without_mtp` and no such prefix, those under which more stand, and
  // the others are left out. kUnsupported when there is none.
  static Result<LayerCut> ByName(std::span<const TensorInfo> tensors, int64_t whole, int64_t small,
                                 bool without_mtp);

  // The tensor's name in the smaller model; nullopt: it is not there. A tensor outside of layers
  // keeps its name.
  std::optional<std::string> NewName(const std::string& name) const;
  // True when the tensor stands under a layer number that the config does not count.
  bool Stray(const std::string& name) const;

 private:
  const std::optional<std::string>* Find(const std::string& name, size_t& length) const;

  std::unordered_map<std::string, std::optional<std::string>>
      prefixes_;                    // "model.layers.3." -> new
  std::vector<std::string> heads_;  // "model.layers."
};

// Where the config says how many layers there are.
struct LayerCount {
  std::string key;  // dotted
  int64_t layers = 0;
};

// `spec` may be nullptr: then the usual keys. kUnsupported when none is there, or the family has no
// one number of layers.
Result<LayerCount> FindLayerCount(const FamilySpec* spec, const nlohmann::ordered_json& config);

// The config of the first `layers` layers; keys keep their order.
nlohmann::ordered_json TruncateConfig(const FamilySpec* spec, nlohmann::ordered_json config,
                                      const LayerCount& count, int64_t layers, bool without_mtp);

}  // namespace weighbridge
