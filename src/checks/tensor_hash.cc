#include "checks/tensor_hash.h"

#include <cstdint>
#include <cstring>

#include "mapping/ops.h"

namespace weighbridge {
namespace {

bool Widens(DType from, DType to) {
  return InvertibilityOf(Op::kNone, from, to) == Invertibility::kExact;
}

// The pair that nearly every model has: bf16 is the upper half of fp32.
bool NarrowToBf16(std::span<const std::byte> from, std::span<std::byte> to) {
  uint32_t lost = 0;
  for (size_t i = 0; i < to.size() / 2; ++i) {
    uint32_t bits;
    std::memcpy(&bits, from.data() + 4 * i, sizeof(bits));
    lost |= bits & 0xffff;
    const auto upper = static_cast<uint16_t>(bits >> 16);
    std::memcpy(to.data() + 2 * i, &upper, sizeof(upper));
  }
  return lost == 0;
}

}  // namespace

bool Comparable(DType a, DType b) { return Widens(a, b) || Widens(b, a); }

TensorHash::TensorHash(DType stored, std::span<const DType> wanted) : stored_(stored) {
  for (DType dtype : wanted) streams_.push_back({dtype, true, {}});
}

Status TensorHash::Update(std::span<const std::byte> bytes) {
  for (Stream& stream : streams_) {
    if (!stream.exact) continue;
    if (stream.dtype == stored_) {
      stream.hash.Update(bytes);
      continue;
    }
    WB_TRY(stream.exact, Cast(bytes, stream.dtype));
    if (stream.exact) stream.hash.Update(cast_);
  }
  return {};
}

Result<bool> TensorHash::Cast(std::span<const std::byte> bytes, DType dtype) {
  const auto from = static_cast<size_t>(BitsOf(stored_)), to = static_cast<size_t>(BitsOf(dtype));
  cast_.resize(bytes.size() / (from / 8) * (to / 8));
  if (stored_ == DType::kF32 && dtype == DType::kBF16) return NarrowToBf16(bytes, cast_);
  WB_RETURN_IF_ERROR(Apply(Op::kNone, stored_, bytes, dtype, cast_));
  if (Widens(stored_, dtype)) return true;
  back_.resize(bytes.size());
  WB_RETURN_IF_ERROR(Apply(Op::kNone, dtype, cast_, stored_, back_));
  return std::memcmp(back_.data(), bytes.data(), bytes.size()) == 0;
}

std::vector<std::optional<Xxh3Digest>> TensorHash::Digests() const {
  std::vector<std::optional<Xxh3Digest>> out;
  for (const Stream& stream : streams_) {
    out.push_back(stream.exact ? std::optional(stream.hash.Digest()) : std::nullopt);
  }
  return out;
}

}  // namespace weighbridge
