#include "checks/export.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
#include <set>

#include "base/memory.h"
#include "base/threads.h"
#include "checks/moves.h"
#include "checks/parameter_source.h"
#include "mapping/boxes.h"

namespace weighbridge {
namespace {

using Chunks = std::vector<std::span<const std::byte>>;

constexpr int64_t kMaxPieceBytes = 4 << 20;  // what a thread takes at a time

// An HF tensor, or the part of it that one parameter holds.
struct Part {
  const BoundParameter* bound = nullptr;
  size_t source = 0;             // index into the transform's sources
  int64_t begin = 0, numel = 0;  // elements of the HF tensor
};

// The dtype of an HF tensor whose parameter is stored as `stored`.
DType ExportDType(const Parameter& p, DType stored, const ExportOptions& options) {
  if (p.rule->dtype == stored) return stored;
  return options.dtype.value_or(stored);
}

class Planner {
 public:
  Planner(const Model& model, const Checkpoint* like, const ExportOptions& options)
      : model_(model), like_(like), options_(options) {}

  Result<std::vector<ExportTensor>> Run(const MegatronBinding& binding) {
    for (const BoundParameter& b : binding.bound) WB_RETURN_IF_ERROR(Add(b));
    if (like_ == nullptr) return std::move(tensors_);
    return InOrderOfLike();
  }

 private:
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
    for (const TensorInfo& wanted : like_->tensors()) {
      const auto it = by_name.find(wanted.name);
      if (it != by_name.end()) {
        out.push_back(std::move(it->second));
        continue;
      }
      const auto copy = std::find_if(model_.copies().begin(), model_.copies().end(),
                                     [&](const TensorCopy& c) { return c.hf == wanted.name; });
      if (copy == model_.copies().end()) {
        if (model_.Ignored(wanted.name) != nullptr) continue;
        return Fail(ErrorKind::kInvalid, "usage",
                    "the checkpoint of --like has a tensor that the model does not", wanted.name);
      }
      out.push_back({wanted, copy->same_as});
    }
    return out;
  }

  const Model& model_;
  const Checkpoint* like_;
  const ExportOptions& options_;
  std::vector<ExportTensor> tensors_;
  std::set<std::string> known_;
};

class Exporter {
 public:
  Exporter(const Model& model, const MegatronCheckpoint& megatron, const ExportOptions& options,
           SafetensorsWriter& writer)
      : model_(model),
        megatron_(megatron),
        options_(options),
        blocks_(DivideMemory(options.memory_bytes, options.threads, 2, kMaxPieceBytes)),
        writer_(writer) {}

  Status MoveAll(const MegatronBinding& binding, const std::vector<ExportTensor>& tensors) {
    for (size_t i = 0; i < tensors.size(); ++i) targets_[tensors[i].info.name].push_back(i);
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (!tensors[i].same_as.empty()) targets_[tensors[i].same_as].push_back(i);
    }
    std::vector<Part> parts;
    for (const BoundParameter& b : binding.bound) {
      WB_TRY(const TransformPlan plan, model_.Plan(*b.parameter));
      for (size_t i = 0; i < plan.sources.size(); ++i) {
        const Part part{&b, i, plan.sources[i].begin, plan.sources[i].numel};
        if (!Targets(part).empty()) parts.push_back(part);
      }
    }
    std::stable_sort(parts.begin(), parts.end(),
                     [&](const Part& a, const Part& b) { return File(a) < File(b); });
    // Every element of every HF tensor is written exactly once; the writer counts and says so.
    WB_RETURN_IF_ERROR(TryParallelFor(parts.size(), blocks_.threads,
                                      [&](size_t i) { return Write(parts[i], tensors); }));
    return writer_.FinishFiles();
  }

 private:
  // The tensors of files in work that hold the part's bytes: more than one where some are tied.
  std::vector<size_t> Targets(const Part& part) const {
    std::vector<size_t> targets;
    const auto it = targets_.find(part.bound->parameter->hf[part.source]);
    if (it == targets_.end()) return targets;
    std::copy_if(it->second.begin(), it->second.end(), std::back_inserter(targets),
                 [&](size_t tensor) { return writer_.Writes(tensor); });
    return targets;
  }

  uint32_t File(const Part& part) const {
    return writer_.plan().tensors[Targets(part).front()].file;
  }

  // Where the elements of an HF tensor's part are in the chunks, in stored bytes.
  Result<Plan> PlanOf(const Part& part) const {
    const Parameter& p = *part.bound->parameter;
    const int64_t element = BitsOf(part.bound->tensor->dtype) / 8;
    WB_TRY(const TransformPlan transform, model_.Plan(p));
    WB_TRY(Plan by_source, CompileBySource(transform.layout, static_cast<int>(part.source),
                                           {part.begin, part.numel}, element));
    if (part.bound->chunks.size() == 1) return by_source;
    WB_TRY(const Plan join, JoinChunks(*part.bound));
    return Compose(by_source, join);
  }

  // The whole part, for layouts whose elements alternate: the chunks are walked in their order and
  // scattered. Memory is the part's size.
  Result<std::vector<std::byte>> Scatter(const Part& part, const Chunks& chunks) const {
    const Parameter& p = *part.bound->parameter;
    const int64_t element = BitsOf(part.bound->tensor->dtype) / 8;
    WB_TRY(const TransformPlan transform, model_.Plan(p));
    WB_TRY(const Plan whole, CompileByTarget(transform.layout, element));
    std::vector<std::byte> out(static_cast<size_t>(part.numel * element));
    for (size_t c = 0; c < chunks.size(); ++c) {
      const BoundChunk& chunk = part.bound->chunks[c];
      WB_TRY(const Plan box, BoxPlan(p.shape, {chunk.offsets, chunk.sizes}, element));
      const Plan plan = Compose(box, whole);
      for (const Run& run : plan.runs()) {
        if (run.other != static_cast<int>(part.source)) continue;
        ScatterRun(run, chunks[c].data() + run.offset, out.data() - part.begin * element);
      }
    }
    return out;
  }

  Status Write(const Part& part, const std::vector<ExportTensor>& tensors) {
    const BoundParameter& b = *part.bound;
    const std::vector<size_t> targets = Targets(part);
    WB_TRY(const Chunks chunks, ChunkBytes(megatron_, b));
    const Result<Plan> plan = PlanOf(part);
    if (!plan && plan.error().id != "interleaved") return Fail(plan.error());
    std::vector<std::byte> scattered;
    if (!plan) {
      WB_TRY(scattered, Scatter(part, chunks));
    }
    const DType stored = b.tensor->dtype, wanted = tensors[targets[0]].info.dtype;
    const int64_t stored_size = BitsOf(stored) / 8, wanted_size = BitsOf(wanted) / 8;
    const int64_t step = blocks_.bytes / std::max(stored_size, wanted_size);
    thread_local std::vector<std::byte> moved, cast;
    for (int64_t at = 0; at < part.numel; at += step) {
      if (options_.proceed) WB_RETURN_IF_ERROR(options_.proceed());
      const int64_t n = std::min(step, part.numel - at);
      std::span<const std::byte> out;
      if (plan) {
        moved.resize(static_cast<size_t>(n * stored_size));
        plan->Visit(at * stored_size, (at + n) * stored_size, [&](const Run& run) {
          GatherRun(run, chunks[static_cast<size_t>(run.other)].data(),
                    moved.data() + (run.offset - at * stored_size));
        });
        out = moved;
      } else {
        out = std::span(scattered).subspan(static_cast<size_t>(at * stored_size),
                                           static_cast<size_t>(n * stored_size));
      }
      if (b.parameter->op != Op::kNone || stored != wanted) {
        cast.resize(static_cast<size_t>(n * wanted_size));
        WB_RETURN_IF_ERROR(Apply(Inverse(b.parameter->op), stored, out, wanted, cast));
        out = cast;
      }
      for (size_t tensor : targets) {
        WB_RETURN_IF_ERROR(
            writer_.Write(tensor, static_cast<uint64_t>((part.begin + at) * wanted_size), out));
      }
      if (options_.progress) options_.progress(out.size());
    }
    return {};
  }

  const Model& model_;
  const MegatronCheckpoint& megatron_;
  const ExportOptions& options_;
  const BlockBudget blocks_;
  SafetensorsWriter& writer_;
  std::map<std::string, std::vector<size_t>> targets_;
};

}  // namespace

Result<ExportPlan> PlanExport(const Model& model, const MegatronCheckpoint& megatron,
                              const Checkpoint* like, const ExportOptions& options) {
  ExportPlan plan;
  WB_TRY(const MegatronParameters source,
         MegatronParameters::Create(model, megatron, options.without_mtp));
  plan.binding = source.binding();
  WB_TRY(plan.tensors, Planner(model, like, options).Run(plan.binding));
  return plan;
}

Status Export(const Model& model, const MegatronCheckpoint& megatron, const ExportPlan& plan,
              const ExportOptions& options, SafetensorsWriter& writer) {
  return Exporter(model, megatron, options, writer).MoveAll(plan.binding, plan.tensors);
}

}  // namespace weighbridge
