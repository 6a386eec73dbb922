// What every checkpoint format offers: an inventory of named tensors whose bytes are read in place.
// Immutable after opening; all methods may be called from any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/quantized.h"
#include "tensor/tensor.h"

namespace weighbridge {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  uint32_t file = 0;  // index into Checkpoint::files()
  // Absolute offset of the first byte in that file. Only Data() gives the bytes: a tensor of a
  // torch file need not be contiguous there.
  uint64_t offset = 0;
  uint64_t nbytes = 0;
};

struct FileInfo {
  std::filesystem::path path;
  uint64_t nbytes = 0;
  std::string header_xxh3;  // XXH3-128 of the header bytes, hex; identifies inventory and layout
};

// Something about the files that is no fault but that a report should say.
struct CheckpointNote {
  // "extra-files", "index-missing", "index-total-size", "header-over-limit", "nested-state-dict",
  // "not-contiguous"
  std::string id;
  std::string message;
};

// Something about one tensor that makes it useless: a weight without its scale.
struct TensorFault {
  std::string cause;  // docs/causes.md
  std::string message, hint;
};

class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  // Folder or file as it was opened.
  virtual const std::filesystem::path& path() const = 0;
  virtual std::string_view format() const = 0;  // "safetensors", "pytorch"
  virtual const std::vector<FileInfo>& files() const = 0;
  // Sorted by name; names are unique.
  virtual const std::vector<TensorInfo>& tensors() const = 0;
  // The tensor's bytes, valid as long as the Checkpoint lives. Empty for a quantized tensor.
  virtual std::span<const std::byte> Data(const TensorInfo& tensor) const = 0;
  // Tells the system that these bytes are done with. Only a hint.
  virtual void DropBehind(const TensorInfo& tensor) const = 0;

  // Weight files in the folder that do not belong to this checkpoint (stale shards, other formats).
  virtual std::vector<std::filesystem::path> extra_files() const { return {}; }
  virtual std::vector<CheckpointNote> notes() const { return {}; }

  // Of a checkpoint that shows the values of quantized weights (formats/quantized/checkpoint.h):
  // how they are made from what is stored, nullptr for a plain tensor; why a tensor cannot be used,
  // nullptr for most; the files as they are. TensorInfo::nbytes and shape are those of the values.
  virtual const QuantizedTensor* Quantized(const TensorInfo&) const { return nullptr; }
  virtual const TensorFault* Fault(const TensorInfo&) const { return nullptr; }
  virtual const Checkpoint& Stored() const { return *this; }

  // nullptr when there is none.
  const TensorInfo* Find(std::string_view name) const;
  TensorView View(const TensorInfo& tensor) const {
    return {tensor.dtype, tensor.shape, Data(tensor)};
  }
};

// Opens what `path` is: a .safetensors file, a folder with model.safetensors.index.json, a folder
// that holds exactly one set of safetensors files; else a file of torch.save that is a state dict,
// or a folder with pytorch_model.bin or its index (where both are, safetensors are read). Errors:
// kNotFound (with a hint), kCorrupt with a cause id, kUnsupported for a format that is not known.
Result<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::filesystem::path& path);

// True for a folder with a tracker file, iterations, or the files of one: what Megatron writes.
bool LooksLikeMegatron(const std::filesystem::path& path);

// Turns what a user typed into a path: an existing path as it is, else `org/name[@REV]` in the
// local Hugging Face cache (HF_HUB_CACHE, HF_HOME, ~/.cache/huggingface/hub; refs/main by default).
// Of a pipeline of diffusers (a folder with model_index.json) its transformer. kNotFound shows the
// command that would download it.
Result<std::filesystem::path> ResolveModelPath(std::string_view model);

}  // namespace weighbridge
