#include "checks/megatron_state_dict.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <mutex>
#include <system_error>
#include <utility>
#include <vector>

#include "checks/leading_axes.h"
#include "checks/moves.h"
#include "checks/parameter_source.h"

namespace weighbridge {
namespace {

constexpr std::string_view kLayers = "layers.", kExperts = "experts.experts.";

// A key whose tensor has layers, experts or both as leading axes.
struct StackedKey {
  std::string key;
  size_t layers = std::string::npos;  // where the layer's number belongs
  bool experts = false;

  explicit StackedKey(const DistTensor& tensor) : key(tensor.key) {
    const size_t at = key.find(kLayers);
    if (at != std::string::npos) {
      const size_t after = at + kLayers.size();
      const bool numbered =
          after >= key.size() || std::isdigit(static_cast<unsigned char>(key[after])) != 0;
      if (!numbered) layers = after;
    }
    experts = key.find(kExperts) != std::string::npos;
    if (axes() <= tensor.shape.size()) return;
    layers = std::string::npos;
    experts = false;
  }

  size_t axes() const { return (layers != std::string::npos ? 1u : 0u) + (experts ? 1u : 0u); }

  std::string Name(const std::vector<int64_t>& index) const {
    std::string name = key;
    if (experts) name += fmt::format("{}", index.back());
    if (layers != std::string::npos) name.insert(layers, fmt::format("{}.", index[0]));
    const size_t at = name.find(kExperts);
    if (experts) name.erase(at, kExperts.size() / 2);
    return name;
  }
};

// A tensor of the state dict and the pieces of files that it is made of.
struct Pieces {
  std::vector<BoundChunk> chunks;
  std::vector<std::span<const std::byte>> data;
};

class MegatronStateDict final : public Checkpoint {
 public:
  static Result<std::unique_ptr<Checkpoint>> Open(std::unique_ptr<MegatronCheckpoint> megatron) {
    std::unique_ptr<MegatronStateDict> out(new MegatronStateDict(std::move(megatron)));
    WB_RETURN_IF_ERROR(out->TakeTensors());
    return out;
  }

  const std::filesystem::path& path() const override { return megatron_->path(); }
  std::string_view format() const override { return megatron_->format(); }
  const std::vector<FileInfo>& files() const override { return files_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }

  std::span<const std::byte> Data(const TensorInfo& tensor) const override {
    const Pieces& pieces = pieces_.at(tensor.name);
    if (pieces.data.size() == 1) return pieces.data[0];
    std::lock_guard lock(mutex_);
    std::vector<std::byte>& joined = joined_[tensor.name];
    if (joined.size() != tensor.nbytes) joined = Join(tensor, pieces);
    return joined;
  }

  void DropBehind(const TensorInfo& tensor) const override {
    std::lock_guard lock(mutex_);
    joined_.erase(tensor.name);
  }

  std::vector<CheckpointNote> notes() const override {
    const size_t objects = megatron_->metadata().objects.size();
    if (objects == 0) return {};
    return {{"not-tensors", fmt::format("{} objects that are no tensors were left out", objects)}};
  }

 private:
  explicit MegatronStateDict(std::unique_ptr<MegatronCheckpoint> megatron)
      : megatron_(std::move(megatron)) {
    for (const std::string& name : megatron_->metadata().files) {
      std::error_code error;
      const auto size = std::filesystem::file_size(megatron_->path() / name, error);
      files_.push_back({megatron_->path() / name, error ? 0 : size, ""});
    }
    for (FileInfo& file : megatron_->identity()) files_.push_back(std::move(file));
  }

  Status TakeTensors() {
    for (const DistTensor& tensor : megatron_->metadata().tensors) {
      const StackedKey key(tensor);
      const LeadingAxes axes(tensor, key.axes());
      std::vector<int64_t> index(key.axes(), 0);
      WB_RETURN_IF_ERROR(TakeAll(tensor, key, axes, index, 0));
    }
    std::sort(tensors_.begin(), tensors_.end(),
              [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
    return {};
  }

  Status TakeAll(const DistTensor& tensor, const StackedKey& key, const LeadingAxes& axes,
                 std::vector<int64_t>& index, size_t axis) {
    if (axis == index.size()) return Take(tensor, key.Name(index), axes.At(index), axis);
    for (index[axis] = 0; index[axis] < tensor.shape[axis]; ++index[axis]) {
      WB_RETURN_IF_ERROR(TakeAll(tensor, key, axes, index, axis + 1));
    }
    return {};
  }

  Status Take(const DistTensor& tensor, std::string name, std::vector<BoundChunk> parts,
              size_t axes) {
    TensorInfo info;
    info.dtype = tensor.dtype;
    info.shape.assign(tensor.shape.begin() + static_cast<std::ptrdiff_t>(axes), tensor.shape.end());
    info.nbytes = static_cast<uint64_t>(Numel(info.shape) * BitsOf(info.dtype) / 8);
    Pieces pieces;
    WB_TRY(pieces.data, ChunkBytes(*megatron_, parts));
    if (parts.empty()) pieces.data.emplace_back();  // there are no elements
    if (!parts.empty()) {
      info.file = parts[0].chunk->stored.file;
      info.offset = parts[0].chunk->stored.offset;
    }
    pieces.chunks = std::move(parts);
    info.name = std::move(name);
    if (!pieces_.emplace(info.name, std::move(pieces)).second) {
      return Corrupt("header-corrupt", "two tensors have the same name once layers are numbered",
                     info.name);
    }
    tensors_.push_back(std::move(info));
    return {};
  }

  static std::vector<std::byte> Join(const TensorInfo& tensor, const Pieces& pieces) {
    std::vector<std::byte> out(tensor.nbytes);
    // The chunks tile the tensor: the reader of the metadata has proved it.
    const auto plan = JoinChunks(tensor.shape, tensor.dtype, pieces.chunks);
    if (!plan) return out;
    for (const Run& run : plan->runs()) {
      GatherRun(run, pieces.data[static_cast<size_t>(run.other)].data(), out.data() + run.offset);
    }
    return out;
  }

  std::unique_ptr<MegatronCheckpoint> megatron_;
  std::vector<FileInfo> files_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, Pieces, std::less<>> pieces_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::vector<std::byte>> joined_;
};

}  // namespace

Result<std::unique_ptr<Checkpoint>> AsStateDict(std::unique_ptr<MegatronCheckpoint> megatron) {
  return MegatronStateDict::Open(std::move(megatron));
}

}  // namespace weighbridge
