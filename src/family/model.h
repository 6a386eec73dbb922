// A family applied to one config: every parameter that the model must have, on both sides. No I/O;
// the HF names that exist come in through an inventory.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "family/spec.h"
#include "mapping/ops.h"
#include "mapping/sharding.h"
#include "mapping/transforms/transform.h"

namespace weighbridge {

enum class Dialect { kTe, kLocal };  // Megatron's module specs

// Why the tensors of MTP layers are not needed when they are left out.
inline constexpr std::string_view kWithoutMtp = "MTP layers, by --without-mtp";

// Where a parameter stands in the pipeline, in the order of a listing.
enum class Place { kFirst, kDecoder, kFinalNorm, kOutput, kMtp };

// One Megatron parameter of the whole model (global layer and expert numbers).
struct Parameter {
  const ParamRule* rule = nullptr;
  const StackRule* stack = nullptr;  // nullptr: outside of layers
  const HfStorage* storage = nullptr;
  Place place = Place::kDecoder;
  int64_t layer = 0;
  int64_t expert = 0, experts = 0;  // experts == 0: not an expert parameter
  Shape shape;                      // global, vocabulary padded
  std::vector<std::string> hf;      // names, in the transform's order
  TensorCut cut;
  Op op = Op::kNone;

  bool is_expert() const { return experts > 0; }
  // Of what chooses which keys a query sees.
  bool is_indexer() const;
};

// An HF tensor that must equal another and that no parameter reads.
struct TensorCopy {
  std::string hf, same_as, why;
  bool tied = false;  // the output layer that shares the embedding
  // Of what is not tied: the layer that holds it. Files with one such copy have all that are not
  // `optional`.
  const StackRule* stack = nullptr;
  int64_t layer = 0;
  bool optional = false;
};

// HF tensors that no Megatron parameter needs.
struct NotNeeded {
  std::string pattern;  // "vision_tower.*", "model.layers.*.rotary_emb.inv_freq"
  std::string why;

  // All names that begin so: a part of the model, not single tensors of it.
  bool is_part() const { return pattern.ends_with(".*"); }
  bool operator==(const NotNeeded&) const = default;
};

struct Field {
  std::string name;
  nlohmann::json value;
};

// True when the HF side has a tensor of that name.
using HasTensor = std::function<bool(const std::string&)>;
// The shape of the HF side's tensor of that name; nullptr when there is none.
using FindShape = std::function<const Shape*(const std::string&)>;

struct ExpandOptions {
  // Which HF storage is there; absent: each parameter's primary storage.
  HasTensor has;
  // Decides between storages of the same names; absent: the first of them.
  FindShape shape;
  int tp = 1;  // the vocabulary is padded for this size
  // --pad-vocab: at least this many rows; 0: as the grid needs. kUsage below the vocabulary and
  // above 2^24 rows (twice the vocabulary where that is more).
  int64_t pad_vocab = 0;
  bool without_mtp = false;
};

class Model {
 public:
  // `spec` must outlive the Model. Errors: kInvalid (the config lacks a key or contradicts the
  // family).
  static Result<Model> Expand(const FamilySpec& spec, const nlohmann::json& config,
                              const ExpandOptions& options);

  const FamilySpec& spec() const { return *spec_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  const std::vector<TensorCopy>& copies() const { return copies_; }
  const std::map<std::string, int64_t>& dims() const { return dims_; }
  const std::map<std::string, std::vector<std::string>>& layer_kinds() const {
    return layer_kinds_;
  }
  // Megatron config fields, sorted by name.
  const std::vector<Field>& config() const { return config_; }
  // What [effects] of the family makes of the config. None is null here.
  const std::vector<Field>& effects() const { return effects_; }
  // The config as the text model sees it.
  const nlohmann::json& hf_config() const { return hf_config_; }
  // Further fields of the class with which Megatron Bridge builds the model. None is null here.
  const std::vector<Field>& BridgeFields(Dialect dialect) const {
    return dialect == Dialect::kLocal ? local_bridge_fields_ : bridge_fields_;
  }
  int64_t layers() const { return layers_; }
  int64_t mtp_layers() const { return mtp_layers_; }
  // Layers of one stack; 0 for MTP layers that are left out.
  int64_t LayersOf(const StackRule& stack) const { return counts_.at(stack.name); }
  int64_t vocab() const { return vocab_; }
  int64_t padded_vocab() const { return padded_vocab_; }
  bool tied() const { return tied_; }
  // The config's quantization_config.quant_method ("fp8"), "unnamed" without one; empty: the
  // weights are plain.
  const std::string& quantization() const { return quantization_; }
  // The name of the output layer's copy of the tied embedding on the last of several stages.
  const std::string& tied_megatron() const { return spec_->tied->megatron; }

  // "decoder.layers.3.mlp.experts.linear_fc1.weight7" with global numbers, or with the given ones
  // (a rank's module names).
  std::string MegatronName(const Parameter& p, Dialect dialect) const;
  std::string MegatronName(const Parameter& p, Dialect dialect, int64_t layer,
                           int64_t expert) const;
  // `name` with its braces filled; as it is where one has no value.
  std::string Fill(const std::string& name, int64_t layer, int64_t expert) const;
  // "{layer}" and "{expert}" as *: one name for all layers.
  std::string MegatronPattern(const Parameter& p, Dialect dialect) const;

  // A number that the transform of `p` is given: its option of that name, else the family's dim.
  // kInvalid when there is neither.
  Result<int64_t> Dim(const Parameter& p, std::string_view name) const;
  // HF shapes and the layout.
  Result<TransformPlan> Plan(const Parameter& p) const;
  // Why an HF tensor that nothing reads is not needed; nullptr when it is not known.
  const NotNeeded* Ignored(const std::string& hf_name) const;
  // All of them, whether a checkpoint has such tensors or not.
  const std::vector<NotNeeded>& not_needed() const { return not_needed_; }

  // What the HF names of a layer begin with ("model.layers.3."), or without a layer those of all
  // layers ("model.layers."), in the spelling of the files.
  Result<std::string> HfPrefix(const StackRule& stack, int64_t layer) const;
  std::string HfPrefix(const StackRule& stack) const;

  // All HF tensors that the model must have, with shapes, in name order (tied copies left out).
  Result<std::map<std::string, Shape>> HfTensors() const;

 private:
  class Builder;
  std::optional<int64_t> OfLayer(std::string_view name, int64_t layer) const;
  Result<int64_t> Lookup(std::string_view name, int64_t layer, int64_t expert) const;
  std::string Spell(const std::string& hf_name) const;

  const FamilySpec* spec_ = nullptr;
  std::map<std::string, int64_t> dims_;                     // flags included, as 0 and 1
  std::map<std::string, std::vector<int64_t>> layer_dims_;  // one value per layer
  std::map<std::string, std::vector<std::string>> layer_kinds_;
  std::vector<Parameter> parameters_;
  std::vector<TensorCopy> copies_;
  std::vector<Field> config_, effects_, bridge_fields_, local_bridge_fields_;
  nlohmann::json hf_config_;
  std::vector<NotNeeded> not_needed_;
  std::map<std::string, size_t> ignored_, ignored_prefixes_;  // name -> index into not_needed_
  int64_t layers_ = 0, mtp_layers_ = 0, vocab_ = 0, padded_vocab_ = 0;
  bool tied_ = false;
  std::string quantization_;
  std::map<std::string, int64_t> counts_;                         // by stack
  const std::map<std::string, std::string>* spelling_ = nullptr;  // of the HF names; none: ours
};

// Whether layers choose with an indexer which keys a query sees.
bool HasIndexers(const Model& model);

}  // namespace weighbridge
