// Hashes of a tensor's values in several dtypes at once, from one pass over its bytes.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "base/hash.h"
#include "base/result.h"
#include "tensor/dtype.h"

namespace weighbridge {

// True when every value of one of the two is a value of the other: then a tensor may be in either
// without loss.
bool Comparable(DType a, DType b);

class TensorHash {
 public:
  // Bytes come in `stored`; `wanted` are dtypes that are Comparable to it.
  TensorHash(DType stored, std::span<const DType> wanted);

  // The next elements.
  Status Update(std::span<const std::byte> bytes);

  // In the order of `wanted`: XXH3-128 of the little-endian values in that dtype; nullopt where a
  // value does not fit it exactly, bit for bit there and back.
  std::vector<std::optional<Xxh3Digest>> Digests() const;

 private:
  struct Stream {
    DType dtype;
    bool exact = true;
    Xxh3Stream hash;
  };
  // `bytes` in stream.dtype, in cast_; false when that loses a bit.
  Result<bool> Cast(std::span<const std::byte> bytes, DType dtype);

  DType stored_;
  std::vector<Stream> streams_;
  std::vector<std::byte> cast_, back_;
};

}  // namespace weighbridge
