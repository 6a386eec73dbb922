#include "formats/torch_dist/read_metadata.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <unordered_map>

#include "base/checked.h"
#include "formats/pickle/read.h"
#include "formats/torch_file/dtypes.h"

namespace weighbridge {
namespace {

using pickle::Kind;
using pickle::Value;

constexpr char kMetadata[] = "torch.distributed.checkpoint.metadata.";
constexpr char kStorageInfo[] = "torch.distributed.checkpoint.filesystem._StorageInfo";
// The subclass that megatron-core 0.13 to 0.16 writes.
constexpr char kMcoreMetadata[] = "megatron.core.dist_checkpointing.strategies.torch.MCoreMetadata";
constexpr size_t kMaxAxes = 64;

// Walks the values of one .metadata. Errors name the key at which the structure departs.
class Parser {
 public:
  explicit Parser(const std::string& where) : where_(where) {}

  Result<DistMetadata> Run(const Value& root) {
    const bool known = IsClass(root, "Metadata") || root.class_name() == kMcoreMetadata;
    if (!known) return Bad("it is no torch.distributed.checkpoint Metadata");
    const auto state = root.Attribute("state_dict_metadata");
    const auto storage = root.Attribute("storage_data");
    if (!state || !state->is(Kind::kDict)) return Bad("state_dict_metadata is no dict");
    if (!storage || !storage->is(Kind::kDict)) return Bad("storage_data is no dict");
    WB_RETURN_IF_ERROR(ReadStorage(*storage));
    for (size_t i = 0; i < state->size(); ++i) {
      const auto [key, value] = state->entry(i);
      if (!key.is(Kind::kString)) return Bad("a key is no string");
      WB_RETURN_IF_ERROR(ReadEntry(std::string(key.text()), value));
    }
    return Finish();
  }

 private:
  tl::unexpected<Error> Bad(const std::string& what, const std::string& key = "") const {
    return Corrupt("header-corrupt", key.empty() ? what : fmt::format("'{}': {}", key, what),
                   where_);
  }

  static bool IsClass(const Value& value, std::string_view name) {
    return value.is(Kind::kObject) && value.class_name().starts_with(kMetadata) &&
           value.class_name().substr(sizeof kMetadata - 1) == name;
  }

  // torch.Size: an object of one tuple argument; a plain tuple or list is taken as well.
  static bool ReadShape(const Value& value, Shape& out) {
    Value numbers = value;
    if (value.is(Kind::kObject)) {
      if (value.class_name() != "torch.Size" || value.arguments().size() != 1) return false;
      numbers = value.arguments()[0];
    }
    if (!numbers.is(Kind::kTuple) && !numbers.is(Kind::kList)) return false;
    if (numbers.size() > kMaxAxes) return false;
    out.resize(numbers.size());
    for (size_t i = 0; i < numbers.size(); ++i) {
      if (!numbers[i].is(Kind::kInt) || numbers[i].integer() < 0) return false;
      out[i] = numbers[i].integer();
    }
    return CheckedNumel(out).has_value();
  }

  // What identifies a stored entry: the key and the offsets; objects have none.
  static std::string Identity(std::string_view key, const Shape* offsets) {
    std::string id(key);
    if (offsets == nullptr) return id;
    id += '\0';
    for (int64_t offset : *offsets) id += fmt::format("{},", offset);
    return id;
  }

  Status ReadStorage(const Value& storage) {
    stored_.reserve(storage.size());
    for (size_t i = 0; i < storage.size(); ++i) {
      const auto [index, info] = storage.entry(i);
      if (!IsClass(index, "MetadataIndex")) return Bad("storage_data has a key of another kind");
      const auto fqn = index.Attribute("fqn");
      if (!fqn || !fqn->is(Kind::kString)) return Bad("a MetadataIndex has no fqn");
      const std::string key(fqn->text());
      const auto offset = index.Attribute("offset");
      Shape offsets;
      const bool has_offsets = offset && !offset->is(Kind::kNone);
      if (has_offsets && !ReadShape(*offset, offsets)) return Bad("its offset is no size", key);
      WB_TRY(const StoredBytes bytes, ReadInfo(info, key));
      if (!stored_.emplace(Identity(key, has_offsets ? &offsets : nullptr), bytes).second) {
        return Corrupt("bytes-overlap", fmt::format("'{}' is stored twice", key), where_);
      }
    }
    return {};
  }

  Result<StoredBytes> ReadInfo(const Value& info, const std::string& key) {
    if (!info.is(Kind::kObject) || info.class_name() != kStorageInfo) {
      return Bad("its place is no _StorageInfo", key);
    }
    const auto path = info.Attribute("relative_path"), offset = info.Attribute("offset"),
               length = info.Attribute("length");
    if (!path || !path->is(Kind::kString) || !offset || !offset->is(Kind::kInt) || !length ||
        !length->is(Kind::kInt) || offset->integer() < 0 || length->integer() < 0) {
      return Bad("its place is not complete", key);
    }
    if (const auto transforms = info.Attribute("transform_descriptors");
        transforms && !transforms->is(Kind::kNone) && transforms->size() > 0) {
      return Fail(ErrorKind::kUnsupported, "compressed", "it is stored compressed", key);
    }
    return StoredBytes{FileIndex(std::string(path->text())),
                       static_cast<uint64_t>(offset->integer()),
                       static_cast<uint64_t>(length->integer())};
  }

  uint32_t FileIndex(const std::string& name) {
    const auto [it, added] = file_index_.emplace(name, static_cast<uint32_t>(out_.files.size()));
    if (added) out_.files.push_back(name);
    return it->second;
  }

  Status ReadEntry(const std::string& key, const Value& value) {
    if (IsClass(value, "BytesStorageMetadata")) {
      const auto it = stored_.find(Identity(key, nullptr));
      if (it == stored_.end()) return NotStored(key, "");
      out_.objects.push_back({key, it->second});
      return {};
    }
    if (!IsClass(value, "TensorStorageMetadata")) return Bad("it is of an unknown kind", key);
    return ReadTensor(key, value);
  }

  tl::unexpected<Error> NotStored(const std::string& key, const std::string& offsets) const {
    return Corrupt("header-corrupt",
                   fmt::format("'{}'{} is listed and has no place in storage_data", key, offsets),
                   where_);
  }

  Status ReadTensor(const std::string& key, const Value& value) {
    DistTensor tensor;
    tensor.key = key;
    const auto size = value.Attribute("size"), chunks = value.Attribute("chunks"),
               properties = value.Attribute("properties");
    if (!size || !ReadShape(*size, tensor.shape)) return Bad("its size is not valid", key);
    if (!chunks || !chunks->is(Kind::kList)) return Bad("its chunks are no list", key);
    const auto dtype = properties ? DTypeOf(*properties) : std::nullopt;
    if (!dtype) {
      return Fail(ErrorKind::kUnsupported, "dtype", "its dtype is not known", key);
    }
    tensor.dtype = *dtype;
    for (size_t i = 0; i < chunks->size(); ++i) {
      WB_TRY(DistChunk chunk, ReadChunk((*chunks)[i], key));
      tensor.chunks.push_back(std::move(chunk));
    }
    WB_RETURN_IF_ERROR(ProveBoxesTile(tensor.shape, tensor.chunks, key));
    std::sort(tensor.chunks.begin(), tensor.chunks.end(),
              [](const DistChunk& a, const DistChunk& b) { return a.offsets < b.offsets; });
    out_.tensors.push_back(std::move(tensor));
    return {};
  }

  // TensorProperties has a state of its own: a tuple whose first element is the dtype.
  static std::optional<DType> DTypeOf(const Value& properties) {
    if (!properties.is(Kind::kObject)) return std::nullopt;
    const Value state = properties.state();
    Value dtype = state;
    if (state.is(Kind::kTuple) && state.size() > 0) {
      dtype = state[0];
    } else if (const auto attribute = properties.Attribute("dtype")) {
      dtype = *attribute;
    }
    return dtype.is(Kind::kGlobal) ? DTypeOfTorchDType(dtype.text()) : std::nullopt;
  }

  Result<DistChunk> ReadChunk(const Value& value, const std::string& key) const {
    DistChunk chunk;
    if (!IsClass(value, "ChunkStorageMetadata")) return Bad("a chunk is of another kind", key);
    const auto offsets = value.Attribute("offsets"), sizes = value.Attribute("sizes");
    if (!offsets || !sizes || !ReadShape(*offsets, chunk.offsets) ||
        !ReadShape(*sizes, chunk.sizes)) {
      return Bad("a chunk has no valid box", key);
    }
    auto it = stored_.find(Identity(key, &chunk.offsets));
    if (it == stored_.end()) it = stored_.find(Identity(key, nullptr));  // written as a whole
    if (it == stored_.end()) return NotStored(key, " " + ToString(chunk.offsets));
    chunk.stored = it->second;
    return chunk;
  }

  Result<DistMetadata> Finish() {
    const auto by_key = [](const auto& a, const auto& b) { return a.key < b.key; };
    std::sort(out_.tensors.begin(), out_.tensors.end(), by_key);
    std::sort(out_.objects.begin(), out_.objects.end(), by_key);
    return std::move(out_);
  }

  const std::string& where_;
  DistMetadata out_;
  std::unordered_map<std::string, StoredBytes> stored_;
  std::map<std::string, uint32_t> file_index_;
};

template <typename T>
const T* FindByKey(const std::vector<T>& all, std::string_view key) {
  const auto it = std::lower_bound(all.begin(), all.end(), key,
                                   [](const T& t, std::string_view k) { return t.key < k; });
  return it != all.end() && it->key == key ? &*it : nullptr;
}

bool Overlap(const DistChunk& a, const DistChunk& b) {
  for (size_t axis = 0; axis < a.offsets.size(); ++axis) {
    if (a.offsets[axis] >= b.offsets[axis] + b.sizes[axis] ||
        b.offsets[axis] >= a.offsets[axis] + a.sizes[axis]) {
      return false;
    }
  }
  return true;
}

tl::unexpected<Error> Overlapping(const DistChunk& a, const DistChunk& b, const std::string& key) {
  return Corrupt("bytes-overlap", fmt::format("'{}': the chunks at {} and {} overlap", key,
                                              ToString(a.offsets), ToString(b.offsets)));
}

using Boxes = std::vector<const DistChunk*>;

// Groups whose ranges on `axis` do not touch those of another group.
std::vector<Boxes> SplitAlong(Boxes boxes, size_t axis) {
  std::sort(boxes.begin(), boxes.end(), [axis](const DistChunk* a, const DistChunk* b) {
    return a->offsets[axis] < b->offsets[axis];
  });
  std::vector<Boxes> groups;
  int64_t end = -1;
  for (const DistChunk* box : boxes) {
    if (groups.empty() || box->offsets[axis] >= end) groups.emplace_back();
    groups.back().push_back(box);
    end = std::max(end, box->offsets[axis] + box->sizes[axis]);
  }
  return groups;
}

// Boxes with an element in them. Splits along the axes as far as that goes, which separates every
// regular grid without comparing pairs.
Status ProveDisjoint(Boxes boxes, const std::string& key) {
  std::vector<std::pair<Boxes, size_t>> work;  // a group and the axis to try next
  work.emplace_back(std::move(boxes), 0);
  while (!work.empty()) {
    auto [group, axis] = std::move(work.back());
    work.pop_back();
    if (group.size() < 2) continue;
    if (axis < group[0]->offsets.size()) {
      std::vector<Boxes> parts = SplitAlong(std::move(group), axis);
      const size_t next = parts.size() == 1 ? axis + 1 : 0;
      for (Boxes& part : parts) work.emplace_back(std::move(part), next);
      continue;
    }
    for (size_t i = 0; i < group.size(); ++i) {
      for (size_t j = i + 1; j < group.size(); ++j) {
        if (Overlap(*group[i], *group[j])) return Overlapping(*group[i], *group[j], key);
      }
    }
  }
  return {};
}

}  // namespace

const DistTensor* DistMetadata::Find(std::string_view key) const { return FindByKey(tensors, key); }

const DistObject* DistMetadata::FindObject(std::string_view key) const {
  return FindByKey(objects, key);
}

Status ProveBoxesTile(const Shape& shape, const std::vector<DistChunk>& chunks,
                      const std::string& key) {
  std::vector<const DistChunk*> boxes;
  int64_t total = 0;
  for (const DistChunk& chunk : chunks) {
    if (chunk.offsets.size() != shape.size() || chunk.sizes.size() != shape.size()) {
      return Corrupt("header-corrupt", fmt::format("'{}': a chunk has other axes", key));
    }
    for (size_t axis = 0; axis < shape.size(); ++axis) {
      if (chunk.sizes[axis] > shape[axis] ||
          chunk.offsets[axis] > shape[axis] - chunk.sizes[axis]) {
        return Corrupt("shape-mismatch", fmt::format("'{}': the chunk at {} of {} is outside of {}",
                                                     key, ToString(chunk.offsets),
                                                     ToString(chunk.sizes), ToString(shape)));
      }
    }
    const int64_t numel = Numel(chunk.sizes);
    if (numel > 0) boxes.push_back(&chunk);
    if (__builtin_add_overflow(total, numel, &total)) {
      return Corrupt("bytes-overlap", fmt::format("'{}': the chunks overlap", key));
    }
  }
  WB_RETURN_IF_ERROR(ProveDisjoint(std::move(boxes), key));
  if (total != Numel(shape)) {
    return Corrupt("tensor-missing", fmt::format("'{}': the chunks hold {} of {} elements", key,
                                                 total, Numel(shape)));
  }
  return {};
}

Result<DistMetadata> ParseDistMetadata(std::span<const std::byte> bytes, const std::string& where) {
  pickle::ReadOptions options;
  options.allowed = pickle::TorchGlobals;
  WB_TRY(const pickle::Document document, pickle::Document::Read(bytes, where, options));
  auto metadata = Parser(where).Run(document.root());
  if (!metadata && metadata.error().at.empty()) {
    return Fail(std::move(metadata).error().At(where));
  }
  return metadata;
}

}  // namespace weighbridge
