// A Checkpoint in memory, for tests of checks.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "formats/checkpoint.h"

namespace weighbridge {

class MemoryCheckpoint : public Checkpoint {
 public:
  template <typename T>
  MemoryCheckpoint& Add(const std::string& name, DType dtype, const Shape& shape,
                        const std::vector<T>& values) {
    std::vector<std::byte>& bytes = data_[name];
    bytes.resize(values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    tensors_.push_back({.name = name, .dtype = dtype, .shape = shape, .nbytes = bytes.size()});
    std::sort(tensors_.begin(), tensors_.end(),
              [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
    return *this;
  }
  std::vector<std::byte>& bytes(const std::string& name) { return data_[name]; }

  const std::filesystem::path& path() const override { return path_; }
  std::string_view format() const override { return "memory"; }
  const std::vector<FileInfo>& files() const override { return files_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  std::span<const std::byte> Data(const TensorInfo& tensor) const override {
    return data_.at(tensor.name);
  }
  void DropBehind(const TensorInfo&) const override {}

 private:
  std::filesystem::path path_ = "memory";
  std::vector<FileInfo> files_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::vector<std::byte>> data_;
};

}  // namespace weighbridge
