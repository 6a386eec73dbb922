#include "formats/torch_dist/metadata.h"

#include <optional>
#include <utility>

#include "formats/pickle/write.h"
#include "formats/torch_file/write.h"

namespace weighbridge {
namespace {

constexpr std::string_view kModule = "torch.distributed.checkpoint.metadata";
constexpr std::string_view kDcpVersion = "1.0.0";  // CURRENT_DCP_VERSION of torch 2.11

class MetadataPickle {
 public:
  std::string Write(const TorchDistPlan& plan) && {
    pickle_.ObjectWithState(kModule, "Metadata").Dict(5);
    pickle_.String("state_dict_metadata").Dict(plan.tensors.size() + plan.entries.size());
    for (const auto& tensor : plan.tensors) Tensor(tensor);
    for (const auto& entry : plan.entries) {
      pickle_.String(entry.key).Object(kModule, "BytesStorageMetadata");
    }
    pickle_.String("planner_data").None();
    StorageData(plan);
    pickle_.String("storage_meta").ObjectWithState(kModule, "StorageMeta").Dict(4);
    pickle_.String("checkpoint_id").None().String("save_id").None();
    pickle_.String("load_id").None().String("modules").List(0);
    pickle_.String("version").String(kDcpVersion);
    return std::move(pickle_).Finish();
  }

 private:
  void Size(const Shape& shape) {
    pickle_.Call("torch", "Size").Tuple(1).Tuple(shape.size());
    for (int64_t extent : shape) pickle_.Int(extent);
  }

  // torch.strided and the memory format are one object each.
  void Layout() {
    if (layout_) {
      pickle_.Again(*layout_);
      return;
    }
    pickle_.Call("torch.serialization", "_get_layout").Tuple(1).String("torch.strided");
    layout_ = pickle_.LastMemo();
  }
  void MemoryFormat() {
    if (memory_format_) {
      pickle_.Again(*memory_format_);
      return;
    }
    pickle_.Call(kModule, "_MEM_FORMAT_ENCODING").Tuple(1).Int(0);  // contiguous
    memory_format_ = pickle_.LastMemo();
  }

  void Properties(DType dtype) {
    pickle_.ObjectWithState(kModule, "TensorProperties").Tuple(5);
    pickle_.Global("torch", TorchDTypeName(dtype).value_or(""));  // the plan has checked it
    Layout();
    pickle_.Bool(false);  // requires_grad
    MemoryFormat();
    pickle_.Bool(false);  // pin_memory
  }

  void Tensor(const TorchDistTensor& tensor) {
    pickle_.String(tensor.key).ObjectWithState(kModule, "TensorStorageMetadata").Dict(3);
    pickle_.String("properties");
    Properties(tensor.dtype);
    pickle_.String("size");
    Size(tensor.shape);
    pickle_.String("chunks").List(tensor.chunks.size());
    for (const TorchDistChunk& chunk : tensor.chunks) {
      pickle_.ObjectWithState(kModule, "ChunkStorageMetadata").Dict(2);
      pickle_.String("offsets");
      Size(chunk.offsets);
      pickle_.String("sizes");
      Size(chunk.sizes);
    }
  }

  void Place(std::string_view file, uint64_t offset, uint64_t length) {
    pickle_.ObjectWithState("torch.distributed.checkpoint.filesystem", "_StorageInfo").Dict(3);
    pickle_.String("relative_path").String(file);
    pickle_.String("offset").Int(static_cast<int64_t>(offset));
    pickle_.String("length").Int(static_cast<int64_t>(length));
  }

  void StorageData(const TorchDistPlan& plan) {
    size_t count = 0;
    for (const auto& file : plan.files) count += file.entries.size() + file.chunks.size();
    pickle_.String("storage_data").Dict(count);
    for (const auto& file : plan.files) {
      for (uint32_t i : file.entries) {
        const TorchDistBytes& entry = plan.entries[i];
        pickle_.ObjectWithState(kModule, "MetadataIndex").Dict(2);
        pickle_.String("fqn").String(entry.key).String("index").None();
        Place(file.name, entry.entry_offset, entry.content.size());
      }
      for (const auto& [t, c] : file.chunks) {
        const TorchDistChunk& chunk = plan.tensors[t].chunks[c];
        pickle_.ObjectWithState(kModule, "MetadataIndex").Dict(3);
        pickle_.String("fqn").String(plan.tensors[t].key).String("index").None();
        pickle_.String("offset");
        Size(chunk.offsets);
        Place(file.name, chunk.entry_offset, chunk.entry_bytes);
      }
    }
  }

  pickle::Writer pickle_{4};
  std::optional<uint32_t> layout_, memory_format_;
};

}  // namespace

std::string TorchDistMetadata(const TorchDistPlan& plan) { return MetadataPickle().Write(plan); }

}  // namespace weighbridge
