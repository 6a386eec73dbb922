#include "checks/selftest/held_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <utility>

#include "checks/bridge_config.h"
#include "checks/parameter_source.h"
#include "family/disk_names.h"
#include "formats/megatron_config/run_config.h"
#include "formats/megatron_config/yaml.h"

namespace weighbridge {
namespace {

Result<HeldTensor> Materialized(const HfParameters& source, const Parameter& p) {
  WB_TRY(const ParameterBytes bytes, source.Open(p));
  HeldTensor tensor;
  tensor.dtype = p.rule->dtype.value_or(bytes.sources.dtype);
  tensor.shape = p.shape;
  tensor.bytes.resize(static_cast<size_t>(Numel(p.shape)) * tensor.element_size());
  std::vector<std::byte> scratch;
  WB_RETURN_IF_ERROR(
      GatherElements(bytes.plan, bytes.sources, bytes.op, tensor.dtype, 0, tensor.bytes, scratch));
  return tensor;
}

void SortByKey(std::vector<DistTensor>& tensors) {
  std::sort(tensors.begin(), tensors.end(),
            [](const DistTensor& a, const DistTensor& b) { return a.key < b.key; });
  for (DistTensor& tensor : tensors) {
    std::sort(tensor.chunks.begin(), tensor.chunks.end(),
              [](const DistChunk& a, const DistChunk& b) { return a.offsets < b.offsets; });
  }
}

// The axes before those of the held tensor: layers, experts.
size_t LeadingAxesOf(const DistTensor& tensor, const HeldTensor& held) {
  return tensor.shape.size() - held.shape.size();
}

}  // namespace

Result<HeldCheckpoint> HeldCheckpoint::Create(const Model& model, const Checkpoint& hf) {
  HeldCheckpoint out;
  if (!model.spec().bridge.provider.empty()) {
    WB_TRY(out.run_config_, BridgeRunConfig(model, {}));
  }
  WB_TRY(const HfParameters source, HfParameters::Create(model, hf));
  std::map<std::string, DistTensor> tensors;
  for (const Parameter& p : model.parameters()) {
    WB_TRY(HeldTensor held, Materialized(source, p));
    const DiskName name = WrittenName(model, p, Dialect::kTe);
    DistTensor& tensor = tensors[name.key];
    if (tensor.key.empty()) {
      tensor = {name.key, held.dtype, name.extents, {}};
      tensor.shape.insert(tensor.shape.end(), p.shape.begin(), p.shape.end());
    }
    if (tensor.dtype != held.dtype) {
      return Fail(ErrorKind::kUnsupported, "mixed-dtypes",
                  fmt::format("'{}' is stacked from layers of {} and {}", name.key,
                              ShortName(tensor.dtype), ShortName(held.dtype)));
    }
    DistChunk chunk{name.index, Shape(name.index.size(), 1), {0, out.held_.size(), 0}};
    chunk.offsets.resize(tensor.shape.size(), 0);
    chunk.sizes.insert(chunk.sizes.end(), p.shape.begin(), p.shape.end());
    tensor.chunks.push_back(std::move(chunk));
    out.held_.push_back(std::make_shared<const HeldTensor>(std::move(held)));
  }
  out.whole_.assign(out.held_.size(), true);
  for (auto& [key, tensor] : tensors) out.metadata_.tensors.push_back(std::move(tensor));
  SortByKey(out.metadata_.tensors);
  return out;
}

Status HeldCheckpoint::SettleIn(std::filesystem::path folder) {
  folder_ = std::move(folder);
  if (run_config_.is_null()) return {};
  std::ofstream file(folder_ / kRunConfigName, std::ios::binary);
  file << DumpYaml(run_config_);
  file.close();
  if (file) return {};
  return Fail(ErrorKind::kIo, "io", "cannot write the config of a model in memory",
              (folder_ / kRunConfigName).string());
}

nlohmann::json* HeldCheckpoint::config_fields() {
  return run_config_.is_null() ? nullptr : &run_config_["model"];
}

void HeldCheckpoint::Hold(size_t parameter, HeldTensor tensor) {
  held_[parameter] = std::make_shared<const HeldTensor>(std::move(tensor));
}

void HeldCheckpoint::Remove(const std::set<size_t>& parameters) {
  for (const size_t parameter : parameters) whole_[parameter] = false;
  for (DistTensor& tensor : metadata_.tensors) {
    std::erase_if(tensor.chunks,
                  [&](const DistChunk& chunk) { return parameters.contains(HeldIn(chunk)); });
    if (tensor.chunks.empty()) continue;
    for (size_t axis = 0; axis < LeadingAxesOf(tensor, *held_[HeldIn(tensor.chunks[0])]); ++axis) {
      int64_t end = 0;
      for (const DistChunk& chunk : tensor.chunks) {
        end = std::max(end, chunk.offsets[axis] + chunk.sizes[axis]);
      }
      tensor.shape[axis] = end;
    }
  }
  std::erase_if(metadata_.tensors, [](const DistTensor& tensor) { return tensor.chunks.empty(); });
}

void HeldCheckpoint::AddTensor(const std::string& key, HeldTensor tensor) {
  DistChunk chunk{Shape(tensor.shape.size(), 0), tensor.shape, {0, held_.size(), 0}};
  metadata_.tensors.push_back({key, tensor.dtype, tensor.shape, {std::move(chunk)}});
  held_.push_back(std::make_shared<const HeldTensor>(std::move(tensor)));
  SortByKey(metadata_.tensors);
}

bool HeldCheckpoint::Rename(const std::string& key, const std::string& to) {
  DistTensor* found = nullptr;
  for (DistTensor& tensor : metadata_.tensors) {
    if (tensor.key == to) return false;
    if (tensor.key == key) found = &tensor;
  }
  if (found == nullptr) return false;
  found->key = to;
  SortByKey(metadata_.tensors);
  return true;
}

void HeldCheckpoint::Rewrite(const std::string& key,
                             const std::function<HeldTensor(const HeldTensor&)>& change) {
  for (DistTensor& tensor : metadata_.tensors) {
    if (tensor.key != key) continue;
    for (DistChunk& chunk : tensor.chunks) {
      const std::shared_ptr<const HeldTensor> old = held_[HeldIn(chunk)];
      if (HeldIn(chunk) < whole_.size()) whole_[HeldIn(chunk)] = false;
      HeldTensor changed = change(*old);
      const auto axes = static_cast<std::ptrdiff_t>(LeadingAxesOf(tensor, *old));
      tensor.dtype = changed.dtype;
      std::copy(changed.shape.begin(), changed.shape.end(), tensor.shape.begin() + axes);
      std::copy(changed.shape.begin(), changed.shape.end(), chunk.sizes.begin() + axes);
      chunk.stored.offset = held_.size();
      held_.push_back(std::make_shared<const HeldTensor>(std::move(changed)));
    }
  }
}

bool HeldCheckpoint::SameAs(const HeldCheckpoint& other) const {
  const auto& a = metadata_.tensors;
  const auto& b = other.metadata_.tensors;
  if (a.size() != b.size() || run_config_ != other.run_config_) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].key != b[i].key || a[i].shape != b[i].shape || a[i].dtype != b[i].dtype ||
        a[i].chunks.size() != b[i].chunks.size()) {
      return false;
    }
    for (size_t c = 0; c < a[i].chunks.size(); ++c) {
      const auto& mine = held_[HeldIn(a[i].chunks[c])];
      const auto& theirs = other.held_[HeldIn(b[i].chunks[c])];
      if (mine != theirs && *mine != *theirs) return false;
    }
  }
  return true;
}

std::vector<size_t> HeldCheckpoint::ChangedSince(const HeldCheckpoint& other) const {
  std::vector<size_t> changed;
  for (size_t i = 0; i < whole_.size(); ++i) {
    if (held_[i] != other.held_[i] && *held_[i] != *other.held_[i]) changed.push_back(i);
  }
  return changed;
}

Result<std::span<const std::byte>> HeldCheckpoint::Data(const DistTensor& tensor,
                                                        const DistChunk& chunk) const {
  const std::vector<std::byte>& bytes = held_[HeldIn(chunk)]->bytes;
  if (BytesFor(tensor.dtype, Numel(chunk.sizes)) != bytes.size()) {
    return Fail(ErrorKind::kInternal, "internal",
                fmt::format("a chunk of '{}' holds {} bytes", tensor.key, bytes.size()));
  }
  return std::span<const std::byte>(bytes);
}

}  // namespace weighbridge
