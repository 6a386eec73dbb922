#include "checks/megatron_binding.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "checks/legacy_view.h"
#include "checks/scales.h"
#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

// What a checkpoint holds beside weights: counted, never a row.
struct Passed {
  std::string_view prefix, infix, what;
  const char* note = "not-weights";
};
constexpr Passed kPassedOver[] = {
    {"", "_extra_state", "extra state of modules"},
    {"optimizer.", "", "optimizer state", "optimizer-state"},
    {"rng_state", "", "random number state", "optimizer-state"},
    {"common_state/", "", "common state"},
    {"train_state", "", "training state"},
    {"rerun_state_machine", "", "rerun state"},
    {"opt_param_scheduler", "", "scheduler state", "optimizer-state"},
};
constexpr Passed kOtherObjects = {"", "", "objects that hold no tensor"};

const Passed* PassedOver(const std::string& key) {
  for (const Passed& p : kPassedOver) {
    if (key.starts_with(p.prefix) && key.find(p.infix) != std::string::npos) return &p;
  }
  return nullptr;
}

class Binder {
 public:
  Binder(const Model& model, const DistMetadata& metadata, bool without_mtp)
      : model_(model), metadata_(metadata), without_mtp_(without_mtp) {}

  MegatronBinding Run() {
    for (const Parameter& p : model_.parameters()) Bind(p);
    TellMissing();
    JudgeNormNames();
    FindTiedCopy();
    Leftovers();
    Summarize();
    return std::move(out_);
  }

 private:
  void Bind(const Parameter& p) {
    for (const DiskName& name : DiskNames(model_, p)) {
      const DistTensor* tensor = metadata_.Find(name.key);
      if (tensor == nullptr) {
        if (BindParts(p, name)) return;
        continue;
      }
      used_.insert(tensor);
      if (!InRange(*tensor, name)) continue;
      BoundParameter bound{&p, tensor, name.index, {}};
      if (Append(bound, *tensor, name, 0, p.shape)) out_.bound.push_back(std::move(bound));
      TakeNormName(p, name);
      return;
    }
    Missing(p);
  }

  // A packed parameter whose components are tensors of their own. False: none of them is there.
  bool BindParts(const Parameter& p, const DiskName& name) {
    BoundParameter bound{&p, nullptr, name.index, {}};
    std::vector<std::string> absent;
    bool fits = true;
    for (const DiskPart& part : DiskParts(p)) {
      const std::string key = name.key + "." + part.name;
      const DistTensor* tensor = metadata_.Find(key);
      if (tensor == nullptr || !InRange(*tensor, name)) {
        absent.push_back(key);
        continue;
      }
      used_.insert(tensor);
      if (bound.tensor == nullptr) bound.tensor = tensor;
      if (tensor->dtype != bound.tensor->dtype) {
        if (fits) WrongDType(p, *tensor, *bound.tensor);
        fits = false;
        continue;
      }
      Shape shape = p.shape;
      shape[0] = part.rows;
      fits = fits && Append(bound, *tensor, name, part.begin, shape);
    }
    if (bound.tensor == nullptr) return false;
    if (!absent.empty()) {
      Missing(p, absent);
    } else if (fits) {
      out_.bound.push_back(std::move(bound));
    }
    return true;
  }

  // The layer or expert is there at all; a shorter axis means that it is missing.
  static bool InRange(const DistTensor& tensor, const DiskName& name) {
    if (tensor.shape.size() < name.index.size()) return true;  // another shape: said by BindTo
    for (size_t i = 0; i < name.index.size(); ++i) {
      if (name.index[i] >= tensor.shape[i]) return false;
    }
    return true;
  }

  // The chunks of `tensor`, which is rows [row, row + shape[0]) of the parameter. False, with a row
  // that says so: it has another shape.
  bool Append(BoundParameter& bound, const DistTensor& tensor, const DiskName& name, int64_t row,
              const Shape& shape) {
    Shape expected = name.extents;
    expected.insert(expected.end(), shape.begin(), shape.end());
    // Axes of layers and experts that are longer are extra layers, told below.
    Shape found = tensor.shape;
    for (size_t i = 0; i < std::min(name.extents.size(), found.size()); ++i) {
      if (found[i] > name.extents[i]) {
        longer_[tensor.key] =
            fmt::format("{}, expected {}", ToString(tensor.shape), ToString(expected));
        found[i] = name.extents[i];
      } else if (found[i] < name.extents[i]) {
        found[i] = name.extents[i];  // the missing ones are rows of their own
      }
    }
    if (found != expected || !HasBytes(tensor)) {
      WrongShape(*bound.parameter, tensor, expected);
      return false;
    }
    if (!RoundToBits(tensor.dtype, 0)) {
      NoValues(*bound.parameter, tensor);
      return false;
    }
    auto [it, added] = leading_.try_emplace(&tensor, tensor, name.index.size());
    for (BoundChunk& chunk : it->second.At(name.index)) {
      chunk.row = row;
      if (row > 0) chunk.offsets[0] += row;
      bound.chunks.push_back(std::move(chunk));
    }
    return true;
  }

  // False for what the ranks hold in shapes that do not fit together.
  static bool HasBytes(const DistTensor& tensor) {
    return !tensor.chunks.empty() || Numel(tensor.shape) == 0;
  }

  ResultRow Row(const Parameter& p, RowStatus status) const {
    ResultRow row;
    for (const std::string& name : p.hf) row.hf.push_back({name, {}, std::nullopt});
    row.megatron = {model_.MegatronName(p, Dialect::kTe), p.shape, std::nullopt};
    row.status = status;
    row.transform = p.storage->transform;
    row.metrics = NotCompared();
    return row;
  }

  // `absent`: the keys that are not there of a parameter that is stored as several tensors.
  void Missing(const Parameter& p, std::vector<std::string> absent = {}) {
    missing_.push_back({&p, std::move(absent)});
  }

  void TellMissing() {
    using Layer = std::pair<const StackRule*, int64_t>;
    std::map<Layer, int64_t> left;
    for (const Parameter& p : model_.parameters()) ++left[{p.stack, p.layer}];
    for (const auto& [p, absent] : missing_) --left[{p->stack, p->layer}];
    for (const auto& [p, absent] : missing_) {
      if (FindAlias(*p)) continue;
      const bool whole_layer =
          p->stack != nullptr && p->place != Place::kMtp && left[{p->stack, p->layer}] == 0;
      ResultRow row = Row(*p, RowStatus::kMissing);
      const std::string id = whole_layer ? "layer-missing" : CauseOfAbsence(*p);
      row.why =
          fmt::format("{}: the config asks for it, the Megatron checkpoint does not have {}", id,
                      absent.empty() ? "it" : fmt::format("'{}'", fmt::join(absent, "', '")));
      where_[id].push_back(row.megatron.name);
      out_.rows.push_back(std::move(row));
    }
  }

  std::string CauseOfAbsence(const Parameter& p) const {
    if (p.stack != nullptr && !p.stack->missing.empty()) return p.stack->missing;
    if (!p.rule->missing.empty()) return p.rule->missing;
    if (p.place == Place::kOutput) return "tie-mismatch";
    if (p.rule->megatron.find("bias") != std::string::npos) return "bias-missing";
    return p.is_expert() ? "expert-missing" : "tensor-missing";
  }

  void WrongShape(const Parameter& p, const DistTensor& tensor, const Shape& expected) {
    const auto packed = PackedText(tensor.dtype, tensor.shape, expected);
    if (packed) return Unusable(p, tensor, "packed-quantized", *packed);
    Unusable(p, tensor, "shape-mismatch",
             fmt::format("has shape {}, the config asks for {}", ToString(tensor.shape),
                         ToString(expected)));
  }

  void NoValues(const Parameter& p, const DistTensor& tensor) {
    Unusable(p, tensor, "scale-missing",
             fmt::format("is {}: codes without a scale are no weights", ShortName(tensor.dtype)));
  }

  // `why` goes on after the key.
  void Unusable(const Parameter& p, const DistTensor& tensor, const char* cause,
                const std::string& why) {
    ResultRow row = Row(p, RowStatus::kMismatch);
    row.megatron.dtype = tensor.dtype;
    row.why = fmt::format("'{}' {}", tensor.key, why);
    where_[cause].push_back(row.megatron.name);
    evidence_.try_emplace(cause, row.why);
    out_.rows.push_back(std::move(row));
  }

  // A norm that is there under a name that other modules give it.
  bool FindAlias(const Parameter& p) {
    for (const NormAlias& alias : NormAliases(model_, p)) {
      const DistTensor* tensor = metadata_.Find(alias.found.key);
      if (tensor == nullptr || !InRange(*tensor, alias.found)) continue;
      Shape tail = tensor->shape;
      tail.erase(tail.begin(), tail.begin() + static_cast<std::ptrdiff_t>(
                                                  std::min(tail.size(), alias.found.index.size())));
      if (tail != p.shape) continue;
      used_.insert(tensor);
      ResultRow row = Row(p, RowStatus::kMissing);
      row.why = fmt::format("layernorm-alias: expected as '{}', there as '{}'", alias.expected,
                            tensor->key);
      where_["layernorm-alias"].push_back(row.megatron.name);
      evidence_.try_emplace("layernorm-alias", row.why);
      out_.rows.push_back(std::move(row));
      return true;
    }
    return false;
  }

  void TakeNormName(const Parameter& p, const DiskName& name) {
    const auto keys = NormKeys(model_, p, !name.index.empty());
    if (!keys) return;
    FoundNorm norm{name.key, *keys, {}};
    bool any = false, all = true;
    for (size_t i = 0; i < keys->size(); ++i) {
      norm.fits[i] = (*keys)[i] == name.key;
      any = any || norm.fits[i];
      all = all && norm.fits[i];
    }
    if (any && !all) norms_.push_back(std::move(norm));
  }

  // All norms are named in one of the ways: those of Transformer Engine's modules, those of files
  // of the local modules, or those of the local modules themselves.
  void JudgeNormNames() {
    std::array<size_t, std::tuple_size_v<NormKeySet>> counts{};
    for (const FoundNorm& norm : norms_) {
      for (size_t i = 0; i < counts.size(); ++i) counts[i] += norm.fits[i];
    }
    const auto way =
        static_cast<size_t>(std::max_element(counts.begin(), counts.end()) - counts.begin());
    if (counts[way] == norms_.size()) return;
    std::map<std::string, std::string> others;  // key -> what it is called in the usual way
    for (const FoundNorm& norm : norms_) {
      if (!norm.fits[way]) others.emplace(norm.key, norm.keys[way]);
    }
    Cause cause;
    cause.id = "layernorm-alias";
    for (const auto& [key, usual] : others) {
      if (cause.where.size() == kShown) break;
      cause.where.push_back(key);
      cause.evidence += fmt::format("{}'{}' is '{}' in the module spec of the other norms",
                                    cause.evidence.empty() ? "" : "; ", key, usual);
    }
    cause.message = fmt::format("{} norm(s) stand under the names of another module spec",
                                norms_.size() - counts[way]);
    cause.hint = kAliasHint;
    out_.mixed_names.push_back(std::move(cause));
  }

  void WrongDType(const Parameter& p, const DistTensor& tensor, const DistTensor& first) {
    ResultRow row = Row(p, RowStatus::kMismatch);
    row.megatron.dtype = tensor.dtype;
    row.why = fmt::format("'{}' is {}, '{}' is {}", tensor.key, ShortName(tensor.dtype), first.key,
                          ShortName(first.dtype));
    where_["dtype-rounded"].push_back(row.megatron.name);
    out_.rows.push_back(std::move(row));
  }

  void FindTiedCopy() {
    if (!model_.tied()) return;
    out_.tied_copy = metadata_.Find(model_.tied_megatron());
    if (out_.tied_copy != nullptr) used_.insert(out_.tied_copy);
  }

  void Leftovers() {
    std::map<const Passed*, int64_t> passed;
    for (const DistObject& object : metadata_.objects) {
      const Passed* rule = PassedOver(object.key);
      ++passed[rule != nullptr ? rule : &kOtherObjects];
    }
    for (const DistTensor& tensor : metadata_.tensors) {
      if (used_.contains(&tensor)) continue;
      if (const Passed* rule = PassedOver(tensor.key)) {
        ++passed[rule];
      } else if (without_mtp_ && IsMtp(tensor.key)) {
        const std::string pattern = tensor.key.substr(0, tensor.key.find("mtp.")) + "mtp.*";
        AddLeftOut("Megatron", {pattern, std::string(kWithoutMtp)},
                   static_cast<uint64_t>(Numel(tensor.shape) * BitsOf(tensor.dtype) / 8),
                   out_.left_out);
      } else {
        Extra(tensor);
      }
    }
    for (const auto& [rule, count] : passed) {
      out_.notes.push_back({rule->note, fmt::format("{} entries are {}", count, rule->what)});
    }
    for (const LeftOut& group : out_.left_out) out_.notes.push_back(Describe(group));
    for (const auto& [key, text] : longer_) {
      ResultRow row;
      row.megatron = {key, metadata_.Find(key)->shape, metadata_.Find(key)->dtype};
      row.status = RowStatus::kExtra;
      row.why = fmt::format("it holds more layers or experts than the config has: {}", text);
      row.metrics = NotCompared();
      where_["layer-missing"].push_back(key);
      out_.rows.push_back(std::move(row));
    }
  }

  // "mtp.layers.0...", also within "language_model.".
  static bool IsMtp(const std::string& key) {
    return key.starts_with("mtp.") || key.find(".mtp.") != std::string::npos;
  }

  void Extra(const DistTensor& tensor) {
    ResultRow row;
    row.megatron = {tensor.key, tensor.shape, tensor.dtype};
    row.status = RowStatus::kExtra;
    row.metrics = NotCompared();
    const bool head = model_.spec().tied && tensor.key == model_.tied_megatron();
    const bool bias = tensor.key.find(".bias") != std::string::npos;
    const std::string id = head                ? "tie-mismatch"
                           : IsMtp(tensor.key) ? "mtp-missing"
                           : bias              ? "bias-missing"
                                               : "tensor-extra";
    row.why = fmt::format("{}: no rule of family {} explains it", id, model_.spec().name);
    where_[id].push_back(tensor.key);
    out_.rows.push_back(std::move(row));
  }

  void Summarize() {
    for (auto& [id, names] : where_) {
      const size_t count = names.size();
      if (count > kShown) {
        names.resize(kShown);
        names.push_back(fmt::format("... {} more", count - kShown));
      }
      out_.causes.push_back(
          {id, Proof::kStructural, Origin::kCheckpoint, names,
           fmt::format("{} tensor(s) of the Megatron checkpoint are not what the config asks for",
                       count),
           evidence_.contains(id) ? evidence_[id] : names.front(), Hint(id)});
    }
  }

  static std::string Hint(const std::string& id) {
    if (id == "packed-quantized") return kPackedHint;
    return id == "layernorm-alias" ? kAliasHint : "";
  }

  struct FoundNorm {
    std::string key;
    NormKeySet keys;
    std::array<bool, std::tuple_size_v<NormKeySet>> fits;
  };
  static constexpr size_t kShown = 8;
  static constexpr const char* kAliasHint =
      "Megatron loads by name: a strict load refuses it, another leaves the norm as it was; save "
      "all "
      "layers with one module spec (Transformer Engine or local), or rename";

  const Model& model_;
  const DistMetadata& metadata_;
  const bool without_mtp_;
  MegatronBinding out_;
  std::set<const DistTensor*> used_;
  std::vector<std::pair<const Parameter*, std::vector<std::string>>> missing_;
  std::map<const DistTensor*, LeadingAxes> leading_;
  std::map<std::string, std::string> longer_;  // key -> shapes
  std::map<std::string, std::vector<std::string>> where_;
  std::map<std::string, std::string> evidence_;  // by cause
  std::vector<FoundNorm> norms_;                 // those whose name says how they are named
};

}  // namespace

MegatronBinding BindMegatron(const Model& model, const DistMetadata& metadata, bool without_mtp) {
  return Binder(model, metadata, without_mtp).Run();
}

const BoundChunk* ChunkWith(const BoundParameter& bound, const std::vector<int64_t>& index) {
  for (const BoundChunk& chunk : bound.chunks) {
    bool inside = true;
    for (size_t axis = 0; axis < index.size(); ++axis) {
      const int64_t at = index[axis] - chunk.offsets[axis];
      inside = inside && at >= 0 && at < chunk.sizes[axis];
    }
    if (inside) return &chunk;
  }
  return nullptr;
}

int64_t StoredVocab(const Model& model, const DistMetadata& metadata) {
  for (const Parameter& p : model.parameters()) {
    if (p.place != Place::kFirst || p.shape.size() != 2 || p.shape[0] != model.padded_vocab()) {
      continue;
    }
    for (const DiskName& name : DiskNames(model, p)) {
      const DistTensor* tensor = metadata.Find(name.key);
      if (tensor != nullptr && tensor->shape.size() == 2) return tensor->shape[0];
    }
  }
  return 0;
}

Result<StoredModel> ExpandAsStored(const FamilySpec& family, const nlohmann::json& config,
                                   ExpandOptions options,
                                   std::shared_ptr<const MegatronCheckpoint> checkpoint) {
  StoredModel stored;
  const auto expand = [&]() -> Status {
    WB_TRY(stored.model, Model::Expand(family, config, options));
    if (checkpoint->rank_files() != nullptr) {
      WB_TRY(stored.view, ViewAsGlobal(stored.model, checkpoint));
    }
    return {};
  };
  WB_RETURN_IF_ERROR(expand());
  const MegatronCheckpoint& seen = stored.view != nullptr ? *stored.view : *checkpoint;
  options.pad_vocab = StoredVocab(stored.model, seen.metadata());
  if (options.pad_vocab > stored.model.padded_vocab()) WB_RETURN_IF_ERROR(expand());
  return stored;
}

Result<Model> ExpandAsStored(const FamilySpec& family, const nlohmann::json& config,
                             ExpandOptions options,
                             std::unique_ptr<MegatronCheckpoint>& checkpoint) {
  const bool rank_files = checkpoint->rank_files() != nullptr;
  std::shared_ptr<const MegatronCheckpoint> files =
      rank_files ? std::shared_ptr<const MegatronCheckpoint>(std::move(checkpoint))
                 : Borrowed(*checkpoint);
  WB_TRY(StoredModel stored, ExpandAsStored(family, config, std::move(options), std::move(files)));
  if (rank_files) checkpoint = std::move(stored.view);
  return std::move(stored.model);
}

std::shared_ptr<const MegatronCheckpoint> Borrowed(const MegatronCheckpoint& checkpoint) {
  return {std::shared_ptr<const MegatronCheckpoint>(), &checkpoint};
}

}  // namespace weighbridge
