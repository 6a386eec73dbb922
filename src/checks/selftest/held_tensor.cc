#include "checks/selftest/held_tensor.h"

#include <cstring>

#include "tensor/float_bits.h"

namespace weighbridge {

int64_t Pick(Random& random, int64_t count) {
  return static_cast<int64_t>(random() % static_cast<uint64_t>(count));
}

double PickNormal(Random& random) {
  double sum = 0;
  for (int i = 0; i < 12; ++i) sum += static_cast<double>(random() >> 11) * 0x1p-53;
  return sum - 6;
}

size_t HeldTensor::element_size() const { return static_cast<size_t>(BitsOf(dtype) / 8); }

uint64_t HeldTensor::Bits(int64_t element) const {
  return RawBits(dtype, bytes.data(), static_cast<size_t>(element));
}

void HeldTensor::SetBits(int64_t element, uint64_t bits) {
  std::memcpy(&bytes[static_cast<size_t>(element) * element_size()], &bits, element_size());
}

double HeldTensor::Value(int64_t element) const { return BitsToDouble(dtype, Bits(element)); }

void HeldTensor::SetValue(int64_t element, double value) {
  if (const auto bits = RoundToBits(dtype, value)) SetBits(element, *bits);
}

HeldTensor HeldTensor::Rearranged(const std::function<int64_t(int64_t)>& source_of) const {
  HeldTensor out = *this;
  const size_t size = element_size();
  for (int64_t e = 0; e < numel(); ++e) {
    std::memcpy(&out.bytes[static_cast<size_t>(e) * size],
                &bytes[static_cast<size_t>(source_of(e)) * size], size);
  }
  return out;
}

}  // namespace weighbridge
