// Writes activations as the safetensors file that Recording reads: one tensor after the other into
// a file whose header is written last.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/component.h"
#include "formats/checkpoint.h"

namespace weighbridge {

class ActivationWriter {
 public:
  // Errors: kUsage when the file exists without `overwrite`, kNotFound, kPermission.
  static Result<std::unique_ptr<ActivationWriter>> Create(const std::filesystem::path& path,
                                                          bool overwrite);

  void AddIds(const std::vector<std::vector<int64_t>>& ids);
  // `sequence_first`: [b, s, h] is stored as [s, b, h], as Megatron has it.
  Status Add(const std::string& name, const EngineSession::State& state, bool sequence_first);
  Status Finish();

 private:
  ActivationWriter(std::filesystem::path path, bool overwrite)
      : path_(std::move(path)), overwrite_(overwrite) {}
  std::filesystem::path path_;
  bool overwrite_;
  std::vector<TensorInfo> tensors_;
  std::vector<std::vector<std::byte>> bytes_;
};

}  // namespace weighbridge
