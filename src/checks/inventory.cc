#include "checks/inventory.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <set>

#include "checks/scales.h"
#include "formats/quantized/checkpoint.h"

namespace weighbridge {
namespace {

struct Use {
  size_t tensor;
  int64_t begin, end;
  const Parameter* parameter;
  int64_t run, stride;  // of columns
};

class Taker {
 public:
  Taker(const Model& model, const Checkpoint& hf) : model_(model), hf_(hf) {}

  Result<Inventory> Run() {
    WB_RETURN_IF_ERROR(RefuseQuantized());
    used_.assign(hf_.tensors().size(), false);
    FindEmptyLayers();
    out_.usable.reserve(model_.parameters().size());
    uses_.reserve(hf_.tensors().size());
    for (const Parameter& p : model_.parameters()) WB_RETURN_IF_ERROR(Take(p));
    Stranded();
    Coverage();
    Copies();
    Leftovers();
    Summarize();
    return std::move(out_);
  }

 private:
  // Quantized weights are judged by their values (formats/quantized/checkpoint.h), never by codes.
  Status RefuseQuantized() const {
    if (model_.quantization().empty() || &hf_.Stored() != &hf_) return {};
    return FailQuantized(fmt::format("the config says that the weights are quantized ({}), and "
                                     "they were opened as they are stored",
                                     model_.quantization()),
                         "config.json: quantization_config");
  }

  static tl::unexpected<Error> FailQuantized(std::string what, std::string at) {
    return Fail(ErrorKind::kUnsupported, "quantized", std::move(what), std::move(at),
                "a scale is never silently passed over");
  }

  // Whether Megatron can hold values of this dtype as a weight.
  Status CheckDType(const TensorInfo& info) const {
    constexpr std::array kPlain = {DType::kBF16, DType::kF16, DType::kF32, DType::kF64};
    if (std::find(kPlain.begin(), kPlain.end(), info.dtype) == kPlain.end()) {
      if (IsFloat(info.dtype)) {
        return FailQuantized(
            fmt::format("a weight of {} has no values without a scale", ShortName(info.dtype)),
            info.name);
      }
      return Fail(ErrorKind::kUnsupported, "dtype",
                  fmt::format("a weight of {}: fp64, fp32, fp16 or bf16 is expected",
                              ShortName(info.dtype)),
                  info.name, "was it quantized, or written from the wrong tensor?");
    }
    return {};
  }

  size_t IndexOf(const TensorInfo* info) const {
    return static_cast<size_t>(info - hf_.tensors().data());
  }

  // Layers of a stack of which nothing at all is there.
  void FindEmptyLayers() {
    std::map<const StackRule*, std::map<int64_t, bool>> present;
    for (const Parameter& p : model_.parameters()) {
      if (p.stack == nullptr) continue;
      bool& any = present[p.stack][p.layer];
      if (any) continue;
      any = std::any_of(p.hf.begin(), p.hf.end(),
                        [&](const std::string& name) { return hf_.Find(name) != nullptr; });
    }
    for (const auto& [stack, layers] : present) {
      for (const auto& [layer, any] : layers) {
        if (!any) empty_layers_.insert({stack, layer});
      }
    }
  }

  Status Take(const Parameter& p) {
    WB_TRY(const TransformPlan plan, model_.Plan(p));
    bool usable = true;
    const TensorInfo* first = nullptr;
    std::string why;
    for (size_t i = 0; i < p.hf.size(); ++i) {
      const Shape& expected = plan.sources[i].shape;
      const TensorInfo* info = hf_.Find(p.hf[i]);
      if (info == nullptr) {
        Missing(p, p.hf[i], expected);
        why = fmt::format("{} is missing", p.hf[i]);
        usable = false;
        continue;
      }
      used_[IndexOf(info)] = true;
      const TensorFault* fault = hf_.Fault(*info);
      if (HoldsPackedCodes(p, *info, expected, fault)) {
        why = fmt::format("{} holds packed codes", p.hf[i]);
        usable = false;
        continue;
      }
      if (fault != nullptr) {
        Faulty(p, *info, *fault);
        why = fmt::format("{} cannot be used", p.hf[i]);
        usable = false;
        continue;
      }
      WB_RETURN_IF_ERROR(CheckDType(*info));
      if (first == nullptr) first = info;
      if (first->dtype != info->dtype) {
        OtherDType(p, *info, *first);
        why = fmt::format("{} is {}", p.hf[i], ShortName(info->dtype));
        usable = false;
        continue;
      }
      if (info->shape != expected) {
        WrongShape(p, *info, expected);
        why = fmt::format("{} has another shape", p.hf[i]);
        usable = false;
        continue;
      }
      uses_.push_back({IndexOf(info), plan.sources[i].begin,
                       plan.sources[i].begin + plan.sources[i].numel, &p, plan.sources[i].run,
                       plan.sources[i].stride});
    }
    if (usable) {
      out_.usable.push_back(&p);
    } else if (first != nullptr) {
      stranded_.push_back({&p, std::move(why)});
    }
    return {};
  }

  // Packed codes and nothing else: neither scales nor a config that says of them.
  bool HoldsPackedCodes(const Parameter& p, const TensorInfo& info, const Shape& expected,
                        const TensorFault* fault) {
    if (!model_.quantization().empty() || hf_.Quantized(info) != nullptr) return false;
    if (fault != nullptr && fault->cause != "scale-missing") return false;
    const auto packed = PackedText(info.dtype, info.shape, expected);
    if (!packed) return false;
    if (!reported_.insert(info.name).second) return true;
    ResultRow row = Mismatch(p, info);
    row.why = fmt::format("packed-quantized: {}", *packed);
    out_.rows.push_back(std::move(row));
    where_["packed-quantized"].push_back(fmt::format("{}: {}", info.name, *packed));
    return true;
  }

  // What is there of a parameter that cannot be built as a whole fails with it: a tensor that no
  // check looked at must not be missing from the report.
  void Stranded() {
    for (const auto& [p, why] : stranded_) {
      for (const std::string& name : p->hf) {
        const TensorInfo* info = hf_.Find(name);
        if (info == nullptr || !reported_.insert(name).second) continue;
        ResultRow row = Row(name, info->shape, info->dtype, RowStatus::kMismatch);
        row.megatron = {model_.MegatronName(*p, Dialect::kTe), p->shape, std::nullopt};
        row.transform = p->storage->transform;
        row.why = fmt::format("its Megatron tensor cannot be built: {}", why);
        out_.rows.push_back(std::move(row));
      }
    }
  }

  std::string CauseOfAbsence(const Parameter& p, const std::string& hf_name) const {
    if (p.stack != nullptr && empty_layers_.contains({p.stack, p.layer})) {
      return p.stack->missing.empty() ? "layer-missing" : p.stack->missing;
    }
    if (!p.rule->missing.empty()) return p.rule->missing;
    if (model_.spec().tied && p.rule->megatron == model_.spec().tied->megatron)
      return "tie-mismatch";
    return hf_name.ends_with(".bias") ? "bias-missing" : "tensor-missing";
  }

  ResultRow Row(const std::string& hf_name, const Shape& shape, std::optional<DType> dtype,
                RowStatus status) const {
    ResultRow row;
    row.hf.push_back({hf_name, shape, dtype});
    row.status = status;
    row.metrics = NotCompared();
    return row;
  }

  // Of a tensor that is there and cannot be what `p` needs.
  ResultRow Mismatch(const Parameter& p, const TensorInfo& info) const {
    ResultRow row = Row(info.name, info.shape, info.dtype, RowStatus::kMismatch);
    row.megatron = {model_.MegatronName(p, Dialect::kTe), p.shape, std::nullopt};
    row.transform = p.storage->transform;
    return row;
  }

  void Missing(const Parameter& p, const std::string& name, const Shape& shape) {
    if (!reported_.insert(name).second) return;
    const std::string id = CauseOfAbsence(p, name);
    ResultRow row = Row(name, shape, std::nullopt, RowStatus::kMissing);
    row.megatron = {model_.MegatronName(p, Dialect::kTe), p.shape, std::nullopt};
    row.why = fmt::format("{}: the config asks for it, the checkpoint does not have it", id);
    out_.rows.push_back(std::move(row));
    where_[id].push_back(name);
  }

  void WrongShape(const Parameter& p, const TensorInfo& info, const Shape& expected) {
    if (!reported_.insert(info.name).second) return;
    ResultRow row = Mismatch(p, info);
    const std::string beyond = BeyondText(info, expected);
    row.why = fmt::format("shape {}, the config asks for {}{}", ToString(info.shape),
                          ToString(expected), beyond);
    out_.rows.push_back(std::move(row));
    where_["shape-mismatch"].push_back(fmt::format(
        "{}: {}, expected {}{}", info.name, ToString(info.shape), ToString(expected), beyond));
  }

  // Of a tensor with more rows than asked for: whether those are zeros. A file may be padded.
  std::string BeyondText(const TensorInfo& info, const Shape& expected) const {
    constexpr size_t kMostBytes = 64 << 20;
    if (info.shape.size() != expected.size() || expected.empty() || info.shape[0] <= expected[0] ||
        hf_.Quantized(info) != nullptr ||
        !std::equal(expected.begin() + 1, expected.end(), info.shape.begin() + 1)) {
      return "";
    }
    const auto bytes = hf_.Data(info);
    const size_t row = bytes.size() / static_cast<size_t>(info.shape[0]);
    const auto beyond = bytes.subspan(row * static_cast<size_t>(expected[0]));
    if (beyond.size() > kMostBytes) return "";
    const bool zero =
        std::all_of(beyond.begin(), beyond.end(), [](std::byte b) { return b == std::byte{0}; });
    return fmt::format("; the {} beyond {}", info.shape[0] - expected[0],
                       zero ? "are zeros, so the file is padded" : "are not all zero");
  }

  // The bits of each HF tensor count, so none of them is converted to fit the others.
  void OtherDType(const Parameter& p, const TensorInfo& info, const TensorInfo& first) {
    if (!reported_.insert(info.name).second) return;
    ResultRow row = Mismatch(p, info);
    const std::string both = fmt::format("{} is {}, {} is {}", first.name, ShortName(first.dtype),
                                         info.name, ShortName(info.dtype));
    row.why = fmt::format("mixed-dtypes: {}: one Megatron tensor cannot hold both", both);
    out_.rows.push_back(std::move(row));
    mixed_.push_back(both);
  }

  void Faulty(const Parameter& p, const TensorInfo& info, const TensorFault& fault) {
    if (!reported_.insert(info.name).second) return;
    ResultRow row = Mismatch(p, info);
    row.why = fmt::format("{}: {}", fault.cause, fault.message);
    out_.rows.push_back(std::move(row));
    faults_[fault.cause].push_back(fmt::format("{}: {}", info.name, fault.message));
    if (!fault.hint.empty()) fault_hints_[fault.cause] = fault.hint;
  }

  // Each HF element exactly once: the uses of a tensor, or its columns, must follow each other
  // without gap.
  void Coverage() {
    std::sort(uses_.begin(), uses_.end(), [](const Use& a, const Use& b) {
      return std::tie(a.tensor, a.begin) < std::tie(b.tensor, b.begin);
    });
    for (size_t i = 0; i < uses_.size();) {
      const TensorInfo& info = hf_.tensors()[uses_[i].tensor];
      int64_t at = 0;
      bool exact = true;
      const Parameter* p = uses_[i].parameter;
      const size_t tensor = uses_[i].tensor;
      const int64_t stride = uses_[i].stride;
      const int64_t all = stride == 0 ? Numel(info.shape) : stride;
      for (; i < uses_.size() && uses_[i].tensor == tensor; ++i) {
        const Use& use = uses_[i];
        exact = exact && use.stride == stride && use.begin == at;
        at = stride == 0 ? use.end : at + use.run;
      }
      if ((exact && at == all) || reported_.contains(info.name)) continue;
      ResultRow row = Row(info.name, info.shape, info.dtype, RowStatus::kMismatch);
      row.megatron = {model_.MegatronPattern(*p, Dialect::kTe), p->shape, std::nullopt};
      row.why = "not every element is used exactly once by the family's rules";
      out_.rows.push_back(std::move(row));
      partly_.push_back(info.name);
    }
  }

  void Copies() {
    std::vector<const TensorCopy*> absent;
    bool any = false;  // of those that layers hold
    for (const TensorCopy& rule : model_.copies()) {
      const TensorInfo* copy = hf_.Find(rule.hf);
      if (copy != nullptr) {
        used_[IndexOf(copy)] = true;
        out_.copies.push_back({&rule, copy, hf_.Find(rule.same_as)});
        any = any || rule.stack != nullptr;
      } else if (rule.stack != nullptr && !rule.optional &&
                 !empty_layers_.contains({rule.stack, rule.layer})) {
        absent.push_back(&rule);
      }
    }
    if (absent.empty()) return;
    if (any) return MissingCopies(absent);
    out_.notes.push_back(
        {"copies-absent",
         fmt::format("the {} copies that files may hold of tensors are not there, and are not "
                     "needed: {} ({}){}",
                     absent.size(), absent[0]->hf, absent[0]->why,
                     absent.size() > 1 ? ", ..." : "")});
  }

  // Files are written with all copies or with none.
  void MissingCopies(const std::vector<const TensorCopy*>& absent) {
    for (const TensorCopy* rule : absent) {
      const TensorInfo* original = hf_.Find(rule->same_as);
      ResultRow row = Row(rule->hf, original != nullptr ? original->shape : Shape{}, std::nullopt,
                          RowStatus::kMissing);
      row.transform = "copy";
      row.why =
          fmt::format("tensor-missing: {}, and other such copies are in the files", rule->why);
      out_.rows.push_back(std::move(row));
      where_["tensor-missing"].push_back(rule->hf);
    }
  }

  // The layer number of a name of `stack`, or -1.
  int64_t LayerOf(const std::string& name, const StackRule& stack) const {
    const std::string prefix = model_.HfPrefix(stack);
    if (prefix.empty() || !name.starts_with(prefix)) return -1;
    int64_t layer = -1;
    for (size_t i = prefix.size();
         i < name.size() && std::isdigit(static_cast<unsigned char>(name[i])); ++i) {
      if (layer > 100000000) return layer;
      layer = (layer < 0 ? 0 : layer) * 10 + (name[i] - '0');
    }
    return layer;
  }

  std::string CauseOfExtra(const std::string& name) const {
    for (const StackRule& stack : model_.spec().stacks) {
      const int64_t layers =
          stack.is_tower() ? model_.LayersOf(stack) : model_.layers() + model_.mtp_layers();
      if (LayerOf(name, stack) >= layers) return "layer-missing";
    }
    if (LooksLikeScale(name)) return "scale-ignored";
    return name.ends_with(".bias") ? "bias-missing" : "tensor-extra";
  }

  void Leftovers() {
    for (size_t i = 0; i < used_.size(); ++i) {
      if (used_[i]) continue;
      const TensorInfo& t = hf_.tensors()[i];
      if (const NotNeeded* rule = model_.Ignored(t.name)) {
        AddLeftOut(hf_, t, *rule, out_.left_out);
        continue;
      }
      const std::string id = CauseOfExtra(t.name);
      ResultRow row = Row(t.name, t.shape, t.dtype, RowStatus::kExtra);
      row.why = id == "layer-missing"
                    ? "layer-missing: the config has fewer layers"
                    : fmt::format("{}: no rule of family {} uses it", id, model_.spec().name);
      out_.rows.push_back(std::move(row));
      extra_[id].push_back(t.name);
    }
    for (const LeftOut& group : out_.left_out) out_.notes.push_back(Describe(group));
  }

  static std::vector<std::string> Some(const std::vector<std::string>& names) {
    constexpr size_t kShown = 8;
    std::vector<std::string> some(
        names.begin(), names.begin() + static_cast<std::ptrdiff_t>(std::min(kShown, names.size())));
    if (names.size() > kShown) some.push_back(fmt::format("... {} more", names.size() - kShown));
    return some;
  }

  void Summarize() {
    for (const auto& [id, where] : faults_) {
      out_.causes.push_back({id, Proof::kStructural, Origin::kCheckpoint, Some(where),
                             fmt::format("{} quantized weight(s) cannot be read", where.size()),
                             where.front(), fault_hints_[id]});
    }
    if (!mixed_.empty()) {
      out_.causes.push_back({"mixed-dtypes", Proof::kStructural, Origin::kCheckpoint, Some(mixed_),
                             fmt::format("{} tensor(s) have another dtype than those that share a "
                                         "Megatron tensor with them",
                                         mixed_.size()),
                             mixed_.front(),
                             "save the parts of a fused tensor in one dtype, or quantize all of "
                             "them"});
    }
    for (const auto& [id, names] : where_) {
      const char* what = "that the config asks for are not in the checkpoint";
      if (id == "shape-mismatch") what = "have another shape than the config asks for";
      if (id == "packed-quantized") what = "hold packed codes where values are expected";
      out_.causes.push_back({id, Proof::kStructural, Origin::kCheckpoint, Some(names),
                             fmt::format("{} tensor(s) {}", names.size(), what), names.front(),
                             Hint(id)});
    }
    if (!partly_.empty()) {
      out_.causes.push_back({"tensor-extra", Proof::kStructural, Origin::kCheckpoint, Some(partly_),
                             fmt::format("{} tensor(s) of which the family's rules use a part, or "
                                         "one part twice",
                                         partly_.size()),
                             partly_.front(), Hint("tensor-extra")});
    }
    for (const auto& [id, names] : extra_) {
      out_.causes.push_back(
          {id, Proof::kStructural, Origin::kCheckpoint, Some(names),
           id == "layer-missing"
               ? fmt::format("{} tensor(s) of layers beyond those that the config counts",
                             names.size())
           : id == "scale-ignored"
               ? fmt::format("{} scale(s) that belong to no quantized weight", names.size())
               : fmt::format("{} tensor(s) that no rule explains", names.size()),
           names.front(), Hint(id)});
    }
  }

  static std::string Hint(const std::string& id) {
    if (id == "mtp-missing") {
      return "the weights were saved without MTP layers: pass --without-mtp, or set the config's "
             "number "
             "of MTP layers to 0";
    }
    if (id == "layer-missing") return "compare num_hidden_layers with the layers in the files";
    if (id == "tie-mismatch")
      return "compare tie_word_embeddings with the output layer in the files";
    if (id == "scale-ignored")
      return "the weights beside were dequantized and the scales forgotten, or are of another file";
    if (id == "packed-quantized") return kPackedHint;
    if (id == "shape-mismatch")
      return "config.json and weights are of different models, or a size is wrong";
    if (id == "tensor-extra")
      return "the family may not be the right one; --family FILE adds rules";
    return "";
  }

  const Model& model_;
  const Checkpoint& hf_;
  Inventory out_;
  std::vector<bool> used_;
  std::vector<Use> uses_;
  std::set<std::pair<const StackRule*, int64_t>> empty_layers_;
  std::set<std::string> reported_;
  std::vector<std::pair<const Parameter*, std::string>> stranded_;  // and why
  std::vector<std::string> partly_, mixed_;
  std::map<std::string, std::vector<std::string>> where_, extra_, faults_;
  std::map<std::string, std::string> fault_hints_;
};

}  // namespace

void ChooseStorageBy(const Checkpoint& hf, ExpandOptions& options) {
  options.has = [&hf](const std::string& name) { return hf.Find(name) != nullptr; };
  options.shape = [&hf](const std::string& name) {
    const TensorInfo* info = hf.Find(name);
    return info == nullptr ? nullptr : &info->shape;
  };
}

Result<Inventory> TakeInventory(const Model& model, const Checkpoint& hf) {
  return Taker(model, hf).Run();
}

Status RequireNoCause(const std::vector<Cause>& causes, const std::string& hint) {
  if (causes.empty()) return {};
  const Cause& cause = causes.front();
  return Corrupt(cause.id, cause.message, cause.where.empty() ? "" : cause.where[0],
                 hint.empty() ? cause.hint : hint);
}

Status RequireComplete(const Model& model, const Checkpoint& hf) {
  WB_TRY(const Inventory inventory, TakeInventory(model, hf));
  return RequireNoCause(inventory.causes);
}

}  // namespace weighbridge
