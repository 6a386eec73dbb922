#include "checks/import.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/memory.h"
#include "base/threads.h"
#include "checks/rank_import.h"
#include "formats/torch_dist/run_files.h"
#include "mapping/boxes.h"

namespace weighbridge {
namespace {

constexpr int64_t kMaxPieceBytes = 2 << 20;

class Planner {
 public:
  Planner(const Model& model, const Placement& placement, const ParameterSource& source,
          const ImportOptions& options)
      : model_(model), placement_(placement), source_(source), options_(options) {}

  Result<ImportPlan> Run() {
    for (const PlacedParameter& placed : placement_.parameters()) {
      if (!placed.is_copy()) WB_RETURN_IF_ERROR(Add(placed));
    }
    std::vector<TorchDistBytes> entries;
    if (options_.extra_state) entries = ExtraStates();
    entries.push_back(CommonStateEntry({}));
    if (!options_.common_state.empty()) entries.back().content = options_.common_state;
    WB_TRY(plan_.disk, PlanTorchDist(std::move(tensors_), std::move(entries)));
    return std::move(plan_);
  }

 private:
  Status Add(const PlacedParameter& placed) {
    const Parameter& p = *placed.parameter;
    const DiskName name = WrittenName(model_, p, options_.dialect);
    const std::vector<DiskPart> parts = DiskParts(p);
    const int ranks = p.cut.replicated() ? 1 : placement_.GroupSize(p);
    WB_RETURN_IF_ERROR(CheckCut(p.shape, p.cut, ranks));
    for (int rank = 0; rank < ranks; ++rank) {
      for (const TensorBox& box : RankBoxes(p.shape, p.cut, ranks, rank)) {
        const DiskPart part = PartWith(parts, box);
        WB_TRY(const size_t tensor, TensorOf(p, name, part));
        AddChunk(placed, name, rank, box, part.begin, tensor);
      }
    }
    AddExtraState(p, name);
    return {};
  }

  // A box lies in one component. No name: the parameter is one tensor.
  static DiskPart PartWith(const std::vector<DiskPart>& parts, const TensorBox& box) {
    for (const DiskPart& part : parts) {
      if (box.offsets[0] >= part.begin && box.offsets[0] < part.begin + part.rows) return part;
    }
    return {};
  }

  // The tensor on disk of a parameter, or of a part of it.
  Result<size_t> TensorOf(const Parameter& p, const DiskName& name, const DiskPart& part) {
    const DType dtype = WrittenDType(p, source_, options_);
    const std::string key = part.name.empty() ? name.key : name.key + "." + part.name;
    const auto [it, added] = index_.emplace(key, tensors_.size());
    if (added) {
      TorchDistTensor tensor;
      tensor.key = key;
      tensor.dtype = dtype;
      tensor.shape = name.extents;
      tensor.shape.insert(tensor.shape.end(), p.shape.begin(), p.shape.end());
      if (!part.name.empty()) tensor.shape[name.extents.size()] = part.rows;
      tensors_.push_back(std::move(tensor));
      plan_.sources.emplace_back();
    }
    if (tensors_[it->second].dtype == dtype) return it->second;
    return Fail(ErrorKind::kUnsupported, "mixed-dtypes",
                fmt::format("'{}' is stacked from layers of {} and {}", key,
                            ShortName(tensors_[it->second].dtype), ShortName(dtype)),
                model_.MegatronName(p, options_.dialect), "give one dtype with --dtype");
  }

  // `row`: where in the parameter the tensor on disk begins.
  void AddChunk(const PlacedParameter& placed, const DiskName& name, int rank, const TensorBox& box,
                int64_t row, size_t tensor) {
    TorchDistChunk chunk;
    chunk.offsets = name.index;
    chunk.sizes.assign(name.index.size(), 1);
    chunk.offsets.insert(chunk.offsets.end(), box.offsets.begin(), box.offsets.end());
    chunk.sizes.insert(chunk.sizes.end(), box.sizes.begin(), box.sizes.end());
    if (row > 0) chunk.offsets[name.index.size()] -= row;
    chunk.writer = WriterOf(placed, rank);
    tensors_[tensor].chunks.push_back(std::move(chunk));
    plan_.sources[tensor].push_back({placed.parameter, box.offsets, box.sizes});
  }

  // The first process of Megatron's smallest launch that holds it: ranks of one stage, then stages.
  uint32_t WriterOf(const PlacedParameter& placed, int rank) const {
    const ParallelGrid& grid = placement_.grid();
    const int stage = std::max(grid.tp, grid.ep * grid.etp);
    const int in_stage = placed.parameter->is_expert() ? placed.ep * grid.etp + rank : rank;
    return static_cast<uint32_t>(placed.pp * stage + in_stage);
  }

  // What megatron-core asks for when it loads: one `_extra_state` for each linear layer, an empty
  // tensor from Transformer Engine's and None from its own, and one for an attention of Transformer
  // Engine that has a parameter (gpt-oss' sinks).
  bool KeepsExtraState(const Parameter& p, const std::string& module) const {
    if (HoldsExtraState(p, module)) return true;
    return module.ends_with(".core_attention") && options_.dialect == Dialect::kTe;
  }

  void AddExtraState(const Parameter& p, const DiskName& name) {
    const size_t dot = name.key.rfind('.');
    if (!options_.extra_state || dot == std::string::npos) return;
    const std::string module = name.key.substr(0, dot);
    // The local spec writes a norm under the name of a linear layer that need not be there.
    if (!KeepsExtraState(p, module) || name.key.substr(dot + 1).starts_with("layer_norm_")) return;
    std::string index, extents;
    for (size_t i = 0; i < name.index.size(); ++i) {
      index += fmt::format("{}{}", i == 0 ? "" : ".", name.index[i]);
      extents += fmt::format("{}{}", i == 0 ? "" : ".", name.extents[i]);
    }
    if (name.index.empty()) index = "0", extents = "1";
    extra_states_.insert(fmt::format("{}._extra_state/shard_{}_{}", module, index, extents));
  }

  std::vector<TorchDistBytes> ExtraStates() const {
    const bool none = options_.dialect == Dialect::kLocal;
    std::vector<TorchDistBytes> entries;
    for (const std::string& key : extra_states_) entries.push_back(ExtraStateEntry(key, none));
    return entries;
  }

  const Model& model_;
  const Placement& placement_;
  const ParameterSource& source_;
  const ImportOptions& options_;
  ImportPlan plan_;
  std::vector<TorchDistTensor> tensors_;
  std::map<std::string, size_t> index_;
  std::set<std::string> extra_states_;
};

class Importer {
 public:
  Importer(const ParameterSource& source, const ImportPlan& plan, const ImportOptions& options,
           TorchDistWriter& writer)
      : source_(source),
        plan_(plan),
        options_(options),
        blocks_(DivideMemory(options.memory_bytes, options.threads, 2, kMaxPieceBytes)),
        writer_(writer) {}

  Status MoveAll() {
    std::vector<std::pair<uint32_t, uint32_t>> chunks;
    for (const TorchDistPlan::File& file : plan_.disk.files) {
      for (const auto& [tensor, chunk] : file.chunks) {
        if (writer_.Writes(tensor, chunk)) chunks.emplace_back(tensor, chunk);
      }
    }
    WB_RETURN_IF_ERROR(TryParallelFor(chunks.size(), blocks_.threads, [&](size_t i) {
      return Move(chunks[i].first, chunks[i].second);
    }));
    return writer_.FinishFiles();
  }

 private:
  Status Move(size_t tensor, size_t chunk) {
    const ImportPlan::Source& source = plan_.sources[tensor][chunk];
    WB_TRY(const ParameterBytes whole, source_.Open(*source.parameter));
    WB_TRY(const Plan plan, whole.Box(source.offsets, source.sizes));
    const DType dtype = writer_.plan().tensors[tensor].dtype;
    const auto size = static_cast<int64_t>(BitsOf(dtype) / 8);
    const int64_t numel = Numel(source.sizes);
    const int64_t piece = blocks_.bytes / std::max<int64_t>(size, BitsOf(whole.sources.dtype) / 8);
    thread_local std::vector<std::byte> block, scratch;
    for (int64_t at = 0; at < numel; at += piece) {
      if (options_.proceed) WB_RETURN_IF_ERROR(options_.proceed());
      const int64_t n = std::min(piece, numel - at);
      std::span<const std::byte> bytes;
      if (whole.op == Op::kNone && dtype == whole.sources.dtype) {
        bytes = InPlace(plan, whole.sources, at * size, n * size);
      }
      if (bytes.empty()) {
        block.resize(static_cast<size_t>(n * size));
        WB_RETURN_IF_ERROR(
            GatherElements(plan, whole.sources, whole.op, dtype, at, block, scratch));
        bytes = block;
      }
      WB_RETURN_IF_ERROR(writer_.Write(tensor, chunk, static_cast<uint64_t>(at * size), bytes));
      if (options_.progress) options_.progress(bytes.size());
    }
    return {};
  }

  // The source's own bytes where [begin, begin + size) of the plan is one stretch of them.
  static std::span<const std::byte> InPlace(const Plan& plan, const Sources& sources, int64_t begin,
                                            int64_t size) {
    std::span<const std::byte> bytes;
    plan.Visit(begin, begin + size, [&](const Run& run) {
      if (run.other == kZeroSource || sources.Quantized(run.other) != nullptr) return;
      if (run.count == 1 && run.length == size) {
        bytes = {sources.Data(run.other) + run.other_offset, static_cast<size_t>(size)};
      }
    });
    return bytes;
  }

  const ParameterSource& source_;
  const ImportPlan& plan_;
  const ImportOptions& options_;
  const BlockBudget blocks_;
  TorchDistWriter& writer_;
};

}  // namespace

DType WrittenDType(const Parameter& p, const ParameterSource& source,
                   const ImportOptions& options) {
  if (p.rule->dtype) return *p.rule->dtype;
  return options.dtype ? *options.dtype : source.StoredDType(p);
}

Result<ImportPlan> PlanImport(const Model& model, const Placement& placement,
                              const ParameterSource& source, const ImportOptions& options) {
  if (options.format == MegatronFormat::kTorch) {
    return PlanRankImport(model, placement, source, options);
  }
  return Planner(model, placement, source, options).Run();
}

bool HoldsExtraState(const Parameter& p, std::string_view module) {
  if (p.rule->extra_state) return *p.rule->extra_state;
  const std::string_view last = module.substr(module.rfind('.') + 1);
  if (last.starts_with("linear_") || last == "eh_proj") return true;
  // Of mixers and delta nets; in towers of Hugging Face's these names are torch's.
  return (last == "in_proj" || last == "out_proj") &&
         (module.find(".mixer.") != std::string_view::npos ||
          module.find(".self_attention.") != std::string_view::npos);
}

Status Import(const ParameterSource& source, const ImportPlan& plan, const ImportOptions& options,
              TorchDistWriter& writer) {
  return Importer(source, plan, options, writer).MoveAll();
}

}  // namespace weighbridge
