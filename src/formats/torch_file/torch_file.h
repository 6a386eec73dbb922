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
  // `nbytes` there, in row-major order.
  uint64_t offset = 0;
  uint64_t nbytes = 0;  // of Numel(shape) elements; more than the file holds if strides are 0
  // As torch sees it: strides of extents of 1 do not matter; an empty tensor is contiguous.
  bool contiguous = true;
};

// Immutable; all methods may be called from any thread.
class TorchFile {
 public:
  // `bytes` are mapped or held by the caller and outlive this. They begin with the ZIP and end with
  // it. `where` is its place for errors (a path, or PATH:OFFSET in a .distcp). Errors: kCorrupt
  // "file-truncated", "header-corrupt" (its zip, its pickle, or
  // something else under this name), "pickle-refused"; kUnsupported "unsupported-format"
  // (compressed members, big-endian, TorchScript, the format before torch 1.6).
  static Result<TorchFile> Open(std::span<const std::byte> bytes, const std::string& where);

  pickle::Value root() const;
  std::span<const std::byte> bytes() const;

  // True when the value would be a tensor or a Parameter, of any kind.
  static bool IsTensor(const pickle::Value& value);
  // Errors: kCorrupt "storage-invalid" (the storage is not there, not of the size that the pickle
  // says, or too short for the tensor; the tensor's description makes no sense); kUnsupported
  // "unsupported-tensor" (dtype, quantized, sparse, meta, conjugate view, ...).
  Result<TorchTensor> Tensor(const pickle::Value& value) const;

  // XXH3-128 of the pickle and the archive's directory: identifies inventory and layout.
  std::string LayoutHash() const;

  TorchFile(TorchFile&&) noexcept;
  TorchFile& operator=(TorchFile&&) noexcept;
  ~TorchFile();

 private:
  struct Rep;
  explicit TorchFile(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace weighbridge
