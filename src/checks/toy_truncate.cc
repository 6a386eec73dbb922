#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/file.h"
#include "base/json.h"
#include "base/strings.h"
#include "base/threads.h"
#include "checks/files_beside.h"
#include "checks/inventory.h"
#include "checks/layer_cut.h"
#include "checks/toy.h"
#include "formats/checkpoint_files.h"
#include "formats/safetensors/writer.h"

namespace weighbridge {
namespace fs = std::filesystem;
namespace {

using nlohmann::ordered_json;

constexpr uint64_t kBlock = 4u << 20;  // bytes

struct Kept {
  const TensorInfo* source;
  std::string name;
};

// What the smaller model has, in the order of the source's files.
struct Selection {
  std::vector<Kept> kept;
  uint64_t stray = 0;
  std::string first_stray;
};

Selection Select(const Checkpoint& source, const LayerCut& cut) {
  Selection out;
  for (const TensorInfo& tensor : source.tensors()) {
    if (auto name = cut.NewName(tensor.name)) {
      out.kept.push_back({&tensor, std::move(*name)});
    } else if (cut.Stray(tensor.name) && out.stray++ == 0) {
      out.first_stray = tensor.name;
    }
  }
  std::sort(out.kept.begin(), out.kept.end(), [](const Kept& a, const Kept& b) {
    return std::pair(a.source->file, a.source->offset) <
           std::pair(b.source->file, b.source->offset);
  });
  return out;
}

// What a layer holds may depend on how many there are, and an embedding may have room for each.
Status CheckSameTensors(const Model& whole, const Model& small, const LayerCut& cut) {
  WB_TRY(const auto before, whole.HfTensors());
  WB_TRY(const auto after, small.HfTensors());
  for (const auto& [name, shape] : before) {
    const auto kept = cut.NewName(name);
    const auto now = kept ? after.find(*kept) : after.end();
    if (!kept || (now != after.end() && now->second == shape)) continue;
    const std::string what = now == after.end() ? "does not have" : "has in another shape";
    return Fail(ErrorKind::kUnsupported, "layers-unknown",
                fmt::format("a model of {} layers {} the tensor '{}': it is not the beginning of "
                            "one of {}",
                            small.layers(), what, ToPrintable(*kept), whole.layers()),
                whole.spec().origin, "`weighbridge toy --family NAME` makes a random one");
  }
  return {};
}

Result<LayerCut> CutOf(const FamilySpec* spec, const Checkpoint& source, const ordered_json& config,
                       const ordered_json& small_config, const LayerCount& count,
                       const TruncateOptions& options) {
  if (spec == nullptr)
    return LayerCut::ByName(source.tensors(), count.layers, options.layers, options.without_mtp);
  ExpandOptions expand;
  ChooseStorageBy(source, expand);
  WB_TRY(const Model whole, Model::Expand(*spec, nlohmann::json(config), expand));
  expand.without_mtp = options.without_mtp;
  WB_TRY(const Model small, Model::Expand(*spec, nlohmann::json(small_config), expand));
  WB_TRY(LayerCut cut, LayerCut::ByFamily(whole, small));
  WB_RETURN_IF_ERROR(CheckSameTensors(whole, small, cut));
  return cut;
}

class Copier {
 public:
  Copier(const Checkpoint& source, const std::vector<Kept>& kept, const TruncateOptions& options)
      : source_(source), kept_(kept), options_(options) {}

  Status Run(SafetensorsWriter& writer) {
    // A tensor is one piece of work, so that its pages can be dropped when it is done.
    WB_RETURN_IF_ERROR(TryParallelFor(kept_.size(), options_.threads,
                                      [&](size_t i) { return CopyTensor(writer, i); }));
    return writer.Finish();
  }

 private:
  Status CopyTensor(SafetensorsWriter& writer, size_t i) {
    const std::span<const std::byte> bytes = source_.Data(*kept_[i].source);
    for (uint64_t at = 0; at < bytes.size(); at += kBlock) {
      const auto block = bytes.subspan(at, std::min<uint64_t>(kBlock, bytes.size() - at));
      WB_RETURN_IF_ERROR(writer.Write(i, at, block));
      if (options_.progress) options_.progress(block.size());
    }
    source_.DropBehind(*kept_[i].source);
    return {};
  }

  const Checkpoint& source_;
  const std::vector<Kept>& kept_;
  const TruncateOptions& options_;
};

Status CheckLayers(int64_t asked, const LayerCount& count) {
  if (asked >= 1 && asked <= count.layers) return {};
  return Fail(ErrorKind::kUsage, "usage",
              fmt::format("the model has {} layers, {} are asked for", count.layers, asked), "",
              fmt::format("--num-hidden-layers takes 1 to {}", count.layers));
}

void NoteStray(const Selection& selection, std::vector<std::string>& notes) {
  if (selection.stray == 0) return;
  notes.push_back(fmt::format(
      "{} tensors of layers that the config does not count are left out, for example {}",
      selection.stray, ToPrintable(selection.first_stray)));
}

}  // namespace

Result<Toy> MakeTruncatedToy(const Checkpoint& source, const FamilySpec* spec,
                             const ordered_json& config, const fs::path& target,
                             const TruncateOptions& options) {
  WB_TRY(const LayerCount count, FindLayerCount(spec, config));
  WB_RETURN_IF_ERROR(CheckLayers(options.layers, count));
  WB_RETURN_IF_ERROR(RefuseSourceAsTarget(source.path(), target));
  const ordered_json small_config =
      TruncateConfig(spec, config, count, options.layers, options.without_mtp);
  WB_TRY(const LayerCut cut, CutOf(spec, source, config, small_config, count, options));
  const Selection selection = Select(source, cut);
  std::vector<TensorInfo> infos;
  for (const Kept& kept : selection.kept) {
    infos.push_back({kept.name, kept.source->dtype, kept.source->shape});
  }
  WB_TRY(SafetensorsPlan plan,
         PlanSafetensors(std::move(infos), {.max_shard_bytes = options.max_shard_bytes,
                                            .stem = WeightFileStem(config)}));
  Toy toy{.path = target,
          .family = spec != nullptr ? spec->name : "",
          .layers = options.layers,
          .tensors = selection.kept.size(),
          .files = plan.files.size(),
          .bytes = plan.total_size,
          .source_layers = count.layers};
  for (const Kept& kept : selection.kept)
    toy.parameters += static_cast<uint64_t>(Numel(kept.source->shape));
  if (spec == nullptr)
    toy.notes.push_back("no family knows this model: layers are the tensors named layers.I.");
  NoteStray(selection, toy.notes);
  WB_TRY(toy.copied, FilesBeside(source.path(), toy.notes));
  WB_TRY(AtomicDirectory folder,
         AtomicDirectory::Create(target, {.overwrite = options.overwrite,
                                          .may_replace = CheckReplaceable,
                                          .expected_bytes = plan.TotalFileBytes()}));
  WB_RETURN_IF_ERROR(folder.WriteFile("config.json", DumpConfig(small_config)));
  WB_RETURN_IF_ERROR(CopyFiles(source.path(), toy.copied, folder));
  WB_TRY(SafetensorsWriter writer, SafetensorsWriter::Create(folder.path(), std::move(plan)));
  WB_RETURN_IF_ERROR(Copier(source, selection.kept, options).Run(writer));
  WB_TRY(toy.published, folder.Commit());
  return toy;
}

}  // namespace weighbridge
