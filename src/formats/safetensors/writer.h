// Writes safetensors. First the plan: from names, dtypes and shapes alone it fixes every byte that
// is not tensor data, and where each tensor goes; then tensor bytes arrive in pieces, in any order.
// The same tensors in the same order give the same files, whatever the order or number of writers.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/shard_file.h"

namespace weighbridge {

struct SafetensorsWriteOptions {
  // A shard is closed before a tensor that would make its data larger; a larger tensor gets a shard
  // of its own. As `save_pretrained(max_shard_size=...)`.
  uint64_t max_shard_bytes = 50'000'000'000;
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  std::string stem = "model";  // model.safetensors, model-00001-of-00002.safetensors
};

// What the names of weight files begin with: "diffusion_pytorch_model" where config.json names a
// class of diffusers, else "model", as transformers has it.
std::string WeightFileStem(const nlohmann::json& config);

struct SafetensorsPlan {
  struct File {
    std::string name;
    std::string header;   // length, JSON and padding: the file's first bytes
    uint64_t nbytes = 0;  // of the whole file
  };
  std::vector<File> files;
  std::vector<TensorInfo> tensors;  // in the caller's order, with file, offset and nbytes filled in
  std::string index_name, index_json;  // empty when there is one file
  uint64_t total_size = 0;             // of all tensors

  // Of all files and the index.
  uint64_t TotalFileBytes() const;
};

// Only name, dtype and shape of `tensors` are read. Sharding follows the order given; inside of a
// file tensors stand as the reference library orders them (dtype descending, then name). kInvalid
// for a name that is given twice, "__metadata__" or not UTF-8, and for a shape that overflows or
// does not end on a byte.
Result<SafetensorsPlan> PlanSafetensors(std::vector<TensorInfo> tensors,
                                        const SafetensorsWriteOptions& options = {});

class SafetensorsWriter {
 public:
  // Creates the planned files in `folder`, normally AtomicDirectory::path(), and writes the
  // headers.
  static Result<SafetensorsWriter> Create(const std::filesystem::path& folder, SafetensorsPlan plan,
                                          ShardOptions options = {});
  // Writes a plan of one file to `path`, normally AtomicFile::partial() (it may exist).
  static Result<SafetensorsWriter> CreateFile(const std::filesystem::path& path,
                                              SafetensorsPlan plan);
  SafetensorsWriter(SafetensorsWriter&&) noexcept;
  ~SafetensorsWriter();

  const SafetensorsPlan& plan() const;
  // Whether the tensor's bytes are to be given: its file is not left alone.
  bool Writes(size_t tensor) const;

  // Writes bytes of plan().tensors[tensor], `offset` counted from the tensor's first byte. May be
  // called from several threads; each byte of each tensor must be given exactly once. kInvalid past
  // the end.
  Status Write(size_t tensor, uint64_t offset, std::span<const std::byte> bytes);

  // A file is finished and synced by the call of Write that gives its last byte, or here. kInvalid
  // names a tensor whose number of bytes is not complete.
  Status FinishFiles();
  // FinishFiles, then the index.
  Status Finish();

  // Reads the files back on up to `threads` threads and compares them with what was written. After
  // FinishFiles. kIo "readback-mismatch" names the file.
  Status ReadBack(int threads, ReadBackMode mode = ReadBackMode::kPage) const;

 private:
  struct State;
  explicit SafetensorsWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace weighbridge
