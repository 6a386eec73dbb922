// What torch.save wrote: a ZIP whose members are stored without compression, with a pickle
// (ARCHIVE/data.pkl) that refers to raw little-endian storages (ARCHIVE/data/KEY).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/pickle/read.h"
#include "tensor/tensor.h"

namespace weighbridge {

// A tensor in a torch file. Shapes and strides in elements.
struct TorchTensor {
  DType dtype = DType::kF32;
  Shape shape;
  std::vector<int64_t> strides;
  // Of the first element, in the bytes that the file was opened on. A contiguous tensor has all its
  // bytes there: Bytes().
  uint64_t offset = 0;
  uint64_t nbytes = 0;  // Numel(shape) elements
  bool contiguous = true;
};

// Immutable; all methods may be called from any thread.
class TorchFile {
 public:
  // `bytes` are mapped or held by the caller and outlive this. They begin with the ZIP and end with
  // it. `where` is its place for errors (a path, or PATH:OFFSET in a .distcp). Errors: kCorrupt
  // "zip-invalid", "pickle-invalid", "pickle-refused", "storage-invalid" (a storage that is not
  // there or too short); kUnsupported (compressed members, big-endian, the format before torch
  // 1.6).
  static Result<TorchFile> Open(std::span<const std::byte> bytes, const std::string& where);

  pickle::Value root() const;
  std::span<const std::byte> bytes() const;

  // True when the value would be a tensor or a Parameter.
  static bool IsTensor(const pickle::Value& value);
  // Errors: kCorrupt when it does not fit its storage; kUnsupported dtype or layout.
  Result<TorchTensor> Tensor(const pickle::Value& value) const;

  TorchFile(TorchFile&&) noexcept;
  TorchFile& operator=(TorchFile&&) noexcept;
  ~TorchFile();

 private:
  struct Rep;
  explicit TorchFile(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace weighbridge
