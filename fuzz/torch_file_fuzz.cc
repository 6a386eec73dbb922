// Any bytes are a torch file or an error; every tensor of one lies inside of it.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <span>

#include "formats/torch_file/contiguous.h"
#include "formats/torch_file/state_dict.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckTensor(const weighbridge::TorchTensor& tensor, std::span<const std::byte> bytes) {
  Require(tensor.shape.size() == tensor.strides.size());
  Require(tensor.nbytes == weighbridge::BytesFor(tensor.dtype, weighbridge::Numel(tensor.shape)));
  if (tensor.nbytes == 0) return;
  Require(tensor.offset < bytes.size());
  if (tensor.contiguous) Require(tensor.nbytes <= bytes.size() - tensor.offset);
  constexpr uint64_t kMost = 1 << 20;  // strides of 0 describe more than there is
  if (tensor.nbytes > kMost) return;
  const auto copy = weighbridge::CopyContiguous(tensor, bytes);
  Require(copy.size() == tensor.nbytes);
  if (!tensor.contiguous) return;
  Require(
      std::equal(copy.begin(), copy.end(), bytes.begin() + static_cast<ptrdiff_t>(tensor.offset)));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto file = weighbridge::TorchFile::Open(bytes, "fuzz");
  if (!file) return file.error().what.empty() ? (std::abort(), 0) : 0;
  Require(file->LayoutHash().size() == 32);
  const auto root = file->root();
  if (weighbridge::TorchFile::IsTensor(root)) {
    if (const auto tensor = file->Tensor(root)) CheckTensor(*tensor, bytes);
  }
  const auto dict = weighbridge::ReadStateDict(*file, "fuzz");
  if (!dict) return dict.error().what.empty() ? (std::abort(), 0) : 0;
  for (const auto& named : dict->tensors) CheckTensor(named.tensor, bytes);
  return 0;
}
