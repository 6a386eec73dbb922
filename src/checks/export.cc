#include "checks/export.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "base/memory.h"
#include "base/threads.h"
#include "checks/hf_part.h"

namespace weighbridge {
namespace {

constexpr int64_t kMaxPieceBytes = 4 << 20;  // what a thread takes at a time

// The dtype of an HF tensor whose parameter is stored as `stored`.
DType ExportDType(const Parameter& p, DType stored, const ExportOptions& options) {
  if (p.rule->dtype == stored) return stored;
  return options.dtype.value_or(stored);
}

class Planner {
 public:
  Planner(const Model& model, const Checkpoint* like, const ExportOptions& options)
      : model_(model), like_(like), options_(options) {}

  Status Run(ExportPlan& plan) {
    for (const BoundParameter& b : plan.source.binding().bound) WB_RETURN_IF_ERROR(Add(b));
    if (like_ == nullptr) {
      plan.tensors = std::move(tensors_);
      plan.left_out = PartsNotMade(model_);
      return {};
    }
    WB_TRY(plan.tensors, InOrderOfLike());
    for (const TensorInfo& t : like_->tensors()) {
      const NotNeeded* rule = known_.contains(t.name) ? nullptr : model_.Ignored(t.name);
      if (rule != nullptr) AddLeftOut(*like_, t, *rule, plan.left_out);
    }
    return {};
  }

 private:
  // A tensor of the files of `like`: the codes of values, or what belongs to them.
  struct Stored {
    const TensorInfo* values = nullptr;
    const QuantizedTensor* quantized = nullptr;
  };

  std::map<std::string, Stored> StoredParts() const {
    std::map<std::string, Stored> parts;
    for (const TensorInfo& t : like_->tensors()) {
      const QuantizedTensor* q = like_->Quantized(t);
      if (q == nullptr) continue;
      for (const std::string& name : q->stored) parts[name] = {&t, q};
    }
    return parts;
  }

  Status Add(const BoundParameter& b) {
    WB_TRY(const TransformPlan plan, model_.Plan(*b.parameter));
    for (size_t i = 0; i < plan.sources.size(); ++i) {
      const std::string& name = b.parameter->hf[i];
      if (!known_.insert(name).second) continue;
      const TensorInfo* wanted = like_ != nullptr ? like_->Find(name) : nullptr;
      if (like_ != nullptr && wanted == nullptr) {
        return Fail(ErrorKind::kInvalid, "usage", "the checkpoint of --like does not have it",
                    name);
      }
      if (const TensorFault* fault = wanted != nullptr ? like_->Fault(*wanted) : nullptr) {
        return Corrupt(fault->cause, fault->message, name, fault->hint);
      }
      if (wanted != nullptr && wanted->shape != plan.sources[i].shape) {
        return Fail(ErrorKind::kInvalid, "usage",
                    fmt::format("the checkpoint of --like has {}, the model {}",
                                ToString(wanted->shape), ToString(plan.sources[i].shape)),
                    name);
      }
      ExportTensor tensor;
      tensor.info.name = name;
      tensor.info.shape = plan.sources[i].shape;
      tensor.info.dtype = wanted != nullptr && !options_.dtype
                              ? wanted->dtype
                              : ExportDType(*b.parameter, b.tensor->dtype, options_);
      tensors_.push_back(std::move(tensor));
    }
    return {};
  }

  // `like` names the copies of tied tensors that are wanted; what it has beside is an error only
  // where no rule passes it over.
  Result<std::vector<ExportTensor>> InOrderOfLike() {
    std::map<std::string, ExportTensor> by_name;
    for (ExportTensor& t : tensors_) by_name.emplace(t.info.name, std::move(t));
    std::vector<ExportTensor> out;
    const std::map<std::string, Stored> parts = StoredParts();
    for (const TensorInfo& wanted : like_->Stored().tensors()) {
      const auto part = parts.find(wanted.name);
      if (part != parts.end()) {
        WB_RETURN_IF_ERROR(AddStored(wanted, part->second, by_name, out));
        continue;
      }
      const auto it = by_name.find(wanted.name);
      if (it != by_name.end()) {
        out.push_back(std::move(it->second));
        continue;
      }
      const auto copy = std::find_if(model_.copies().begin(), model_.copies().end(),
                                     [&](const TensorCopy& c) { return c.hf == wanted.name; });
      if (copy == model_.copies().end()) {
        if (model_.Ignored(wanted.name) != nullptr) continue;
        if (like_->Find(wanted.name) == nullptr) {  // scales of activations
          out.push_back({.info = wanted, .copied = &wanted});
          continue;
        }
        return Fail(ErrorKind::kInvalid, "usage",
                    "the checkpoint of --like has a tensor that the model does not", wanted.name);
      }
      out.push_back({.info = wanted, .same_as = copy->same_as});
    }
    return out;
  }

  // The values may be asked for by any of their parts.
  Status AddStored(const TensorInfo& wanted, const Stored& part,
                   const std::map<std::string, ExportTensor>& by_name,
                   std::vector<ExportTensor>& out) const {
    const std::string& values = part.values->name;
    if (!by_name.contains(values)) {
      if (model_.Ignored(values) != nullptr) return {};
      return Fail(ErrorKind::kInvalid, "usage",
                  "the checkpoint of --like has a quantized tensor that the model does not",
                  values);
    }
    const bool codes = wanted.name == part.quantized->stored[0];
    ExportTensor tensor{.info = wanted};
    if (codes) {
      tensor.quantized = part.quantized;
      tensor.values = values;
    } else {
      tensor.copied = &wanted;
    }
    out.push_back(std::move(tensor));
    return {};
  }

  const Model& model_;
  const Checkpoint* like_;
  const ExportOptions& options_;
  std::vector<ExportTensor> tensors_;
  std::set<std::string> known_;
};

class Exporter {
 public:
  Exporter(const Model& model, const ExportPlan& plan, const ExportOptions& options,
           SafetensorsWriter& writer)
      : model_(model),
        plan_(plan),
        options_(options),
        blocks_(DivideMemory(options.memory_bytes, options.threads, 2, kMaxPieceBytes)),
        writer_(writer) {}

  Result<RequantizeCounts> MoveAll() {
    const std::vector<ExportTensor>& tensors = plan_.tensors;
    for (size_t i = 0; i < tensors.size(); ++i) {
      const ExportTensor& t = tensors[i];
      if (t.copied != nullptr) {
        if (writer_.Writes(i)) WB_RETURN_IF_ERROR(Copy(i, plan_.like->Stored().Data(*t.copied)));
      } else {
        targets_[t.quantized != nullptr ? t.values : t.info.name].push_back(i);
      }
    }
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (!tensors[i].same_as.empty()) targets_[tensors[i].same_as].push_back(i);
    }
    std::vector<Part> parts;
    for (const BoundParameter& b : plan_.source.binding().bound) {
      for (size_t i = 0; i < b.parameter->hf.size(); ++i) {
        const Part part{b.parameter, i};
        if (!Targets(part).empty()) parts.push_back(part);
      }
    }
    std::stable_sort(parts.begin(), parts.end(),
                     [&](const Part& a, const Part& b) { return File(a) < File(b); });
    // Every element of every HF tensor is written exactly once; the writer counts and says so.
    WB_RETURN_IF_ERROR(
        TryParallelFor(parts.size(), blocks_.threads, [&](size_t i) { return Write(parts[i]); }));
    WB_RETURN_IF_ERROR(writer_.FinishFiles());
    return counts_;
  }

 private:
  // An HF tensor, or the part of it that one parameter holds.
  struct Part {
    const Parameter* parameter = nullptr;
    size_t source = 0;  // index into the transform's sources
  };

  // The tensors of files in work that hold the part's bytes: more than one where some are tied.
  std::vector<size_t> Targets(const Part& part) const {
    std::vector<size_t> targets;
    const auto it = targets_.find(part.parameter->hf[part.source]);
    if (it == targets_.end()) return targets;
    std::copy_if(it->second.begin(), it->second.end(), std::back_inserter(targets),
                 [&](size_t tensor) { return writer_.Writes(tensor); });
    return targets;
  }

  uint32_t File(const Part& part) const {
    return writer_.plan().tensors[Targets(part).front()].file;
  }

  Status WriteStretches(const HfPart& part, int64_t at, size_t tensor, int64_t size,
                        std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const auto length = std::min(bytes.size(), static_cast<size_t>(part.Following(at) * size));
      WB_RETURN_IF_ERROR(writer_.Write(tensor, static_cast<uint64_t>(part.ElementAt(at) * size),
                                       bytes.first(length)));
      bytes = bytes.subspan(length);
      at += static_cast<int64_t>(length) / size;
    }
    return {};
  }

  Status Copy(size_t tensor, std::span<const std::byte> bytes) {
    WB_RETURN_IF_ERROR(writer_.Write(tensor, 0, bytes));
    if (options_.progress) options_.progress(bytes.size());
    return {};
  }

  // The codes of whole rows of values, which begin at `element`.
  Status WriteCodes(size_t tensor, const QuantizedTensor& q, int64_t element,
                    std::span<const std::byte> values) {
    const int64_t count = static_cast<int64_t>(values.size()) * 8 / BitsOf(q.dtype);
    const auto begin = static_cast<size_t>(CodeByte(q, element));
    const auto end = static_cast<size_t>(CodeByte(q, element + count));
    const auto source = q.codes.subspan(begin, end - begin);
    std::vector<std::byte> codes(source.begin(), source.end());
    const RequantizeCounts counts = Requantize(q, element, count, values, codes);
    WB_RETURN_IF_ERROR(writer_.Write(tensor, begin, codes));
    if (options_.progress) options_.progress(codes.size());
    const std::lock_guard lock(mutex_);
    counts_ += counts;
    return {};
  }

  Status Write(const Part& of) {
    const std::vector<size_t> targets = Targets(of);
    WB_TRY(const ParameterBytes bytes, plan_.source.Open(*of.parameter));
    WB_TRY(const HfPart part, HfPart::Open(model_, *of.parameter, of.source, bytes));
    const ExportTensor& target = plan_.tensors[targets[0]];
    const QuantizedTensor* quantized = target.quantized;
    const DType wanted = quantized != nullptr ? quantized->dtype : target.info.dtype;
    const int64_t size = BitsOf(wanted) / 8;
    int64_t step = blocks_.bytes / std::max<int64_t>(BitsOf(part.stored()) / 8, size);
    if (quantized != nullptr) {
      WB_TRY(step, WholeRows(*quantized, part, step));
    }
    thread_local std::vector<std::byte> out, scratch;
    for (int64_t at = 0; at < part.numel(); at += step) {
      if (options_.proceed) WB_RETURN_IF_ERROR(options_.proceed());
      out.resize(static_cast<size_t>(std::min(step, part.numel() - at) * size));
      WB_RETURN_IF_ERROR(part.Read(at, wanted, out, scratch));
      if (quantized != nullptr) {
        WB_RETURN_IF_ERROR(WriteCodes(targets[0], *quantized, part.ElementAt(at), out));
        continue;
      }
      for (size_t tensor : targets) WB_RETURN_IF_ERROR(WriteStretches(part, at, tensor, size, out));
      if (options_.progress) options_.progress(out.size());
    }
    return {};
  }

  // About `step` values of a quantized tensor: codes of several values share a byte, never of two
  // rows.
  static Result<int64_t> WholeRows(const QuantizedTensor& q, const HfPart& part, int64_t step) {
    const int64_t columns = q.columns();
    const int64_t begin = part.ElementAt(0);
    const bool one_piece = part.Following(0) >= part.numel();
    if (!one_piece || begin % columns != 0 || part.numel() % columns != 0) {
      return Fail(ErrorKind::kUnsupported, "quantized",
                  "a part of a row of a quantized tensor cannot be written", q.stored[0]);
    }
    return std::max<int64_t>(1, step / columns) * columns;
  }

  const Model& model_;
  const ExportPlan& plan_;
  const ExportOptions& options_;
  const BlockBudget blocks_;
  SafetensorsWriter& writer_;
  std::mutex mutex_;
  RequantizeCounts counts_;  // guarded by mutex_
  std::map<std::string, std::vector<size_t>> targets_;
};

}  // namespace

Result<ExportPlan> PlanExport(const Model& model, const MegatronCheckpoint& megatron,
                              const Checkpoint* like, const ExportOptions& options) {
  WB_TRY(MegatronParameters source,
         MegatronParameters::Create(model, megatron, options.without_mtp));
  ExportPlan plan{std::move(source), {}, like, {}};
  WB_RETURN_IF_ERROR(Planner(model, like, options).Run(plan));
  return plan;
}

Result<RequantizeCounts> Export(const Model& model, const ExportPlan& plan,
                                const ExportOptions& options, SafetensorsWriter& writer) {
  return Exporter(model, plan, options, writer).MoveAll();
}

}  // namespace weighbridge
