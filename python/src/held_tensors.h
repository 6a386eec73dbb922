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

}  // namespace weighbridge::python
