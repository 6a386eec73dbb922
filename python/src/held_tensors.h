// A Checkpoint over memory that somebody else owns.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"

namespace weighbridge::python {

// `path` is what reports call it. Tensors are views: their bytes outlive this.
class HeldTensors final : public Checkpoint {
 public:
  HeldTensors(std::string path, std::map<std::string, TensorView> tensors);

  const std::filesystem::path& path() const override { return path_; }
  std::string_view format() const override { return "memory"; }
  const std::vector<FileInfo>& files() const override { return files_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  std::span<const std::byte> Data(const TensorInfo& tensor) const override {
    return views_.at(tensor.name).bytes;
  }
  void DropBehind(const TensorInfo&) const override {}

 private:
  std::filesystem::path path_;
  std::map<std::string, TensorView> views_;
  std::vector<FileInfo> files_;
  std::vector<TensorInfo> tensors_;
};

// A Checkpoint whose tensors Python may hold views of: nothing of it is given back while it is
// compared.
class KeptTensors final : public Checkpoint {
 public:
  explicit KeptTensors(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  const std::filesystem::path& path() const override { return checkpoint_.path(); }
  std::string_view format() const override { return checkpoint_.format(); }
  const std::vector<FileInfo>& files() const override { return checkpoint_.files(); }
  const std::vector<TensorInfo>& tensors() const override { return checkpoint_.tensors(); }
  std::span<const std::byte> Data(const TensorInfo& tensor) const override {
    return checkpoint_.Data(tensor);
  }
  void DropBehind(const TensorInfo&) const override {}
  std::vector<std::filesystem::path> extra_files() const override {
    return checkpoint_.extra_files();
  }
  std::vector<CheckpointNote> notes() const override { return checkpoint_.notes(); }
  const QuantizedTensor* Quantized(const TensorInfo& tensor) const override {
    return checkpoint_.Quantized(tensor);
  }
  const TensorFault* Fault(const TensorInfo& tensor) const override {
    return checkpoint_.Fault(tensor);
  }
  const Checkpoint& Stored() const override { return checkpoint_.Stored(); }

 private:
  const Checkpoint& checkpoint_;
};

}  // namespace weighbridge::python
