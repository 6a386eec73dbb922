#include "tensor/float_bits.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace weighbridge {
namespace {

enum class Specials : uint8_t {
  kIeee,     // the largest exponent holds infinity and NaN
  kAllOnes,  // only the all-ones pattern is NaN, no infinity
  kFnuz,     // only the sign bit alone is NaN, no infinity, no -0
  kNone,     // finite numbers only
};

struct Layout {
  int exponent_bits = 0, mantissa_bits = 0, bias = 0;
  Specials specials = Specials::kIeee;
  int bits() const { return 1 + exponent_bits + mantissa_bits; }
};

constexpr std::optional<Layout> LayoutOf(DType dtype) {
  switch (dtype) {
    case DType::kF4:
      return Layout{2, 1, 1, Specials::kNone};
    case DType::kF6E2M3:
      return Layout{2, 3, 1, Specials::kNone};
    case DType::kF6E3M2:
      return Layout{3, 2, 3, Specials::kNone};
    case DType::kF8E4M3:
      return Layout{4, 3, 7, Specials::kAllOnes};
    case DType::kF8E5M2:
      return Layout{5, 2, 15, Specials::kIeee};
    case DType::kF8E4M3Fnuz:
      return Layout{4, 3, 8, Specials::kFnuz};
    case DType::kF8E5M2Fnuz:
      return Layout{5, 2, 16, Specials::kFnuz};
    case DType::kF16:
      return Layout{5, 10, 15, Specials::kIeee};
    case DType::kBF16:
      return Layout{8, 7, 127, Specials::kIeee};
    case DType::kF32:
      return Layout{8, 23, 127, Specials::kIeee};
    default:
      return std::nullopt;
  }
}

double DecodeLayout(const Layout& f, uint64_t raw) {
  const uint64_t sign_bit = uint64_t{1} << (f.bits() - 1);
  const uint64_t magnitude = raw & (sign_bit - 1);
  const bool negative = (raw & sign_bit) != 0;
  const uint64_t mantissa = magnitude & ((uint64_t{1} << f.mantissa_bits) - 1);
  const int exponent = static_cast<int>(magnitude >> f.mantissa_bits);
  const int top = (1 << f.exponent_bits) - 1;
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  double value = 0;
  if (f.specials == Specials::kFnuz && raw == sign_bit) return kNan;
  if (f.specials == Specials::kAllOnes && magnitude == sign_bit - 1) {
    return negative ? -kNan : kNan;
  }
  if (f.specials == Specials::kIeee && exponent == top) {
    value = mantissa != 0 ? kNan : std::numeric_limits<double>::infinity();
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<double>(mantissa), 1 - f.bias - f.mantissa_bits);
  } else {
    value = std::ldexp(static_cast<double>(mantissa | (uint64_t{1} << f.mantissa_bits)),
                       exponent - f.bias - f.mantissa_bits);
  }
  return negative ? -value : value;
}

double DecodeE8M0(uint64_t raw) {
  return raw == 0xff ? std::numeric_limits<double>::quiet_NaN()
                     : std::ldexp(1.0, static_cast<int>(raw) - 127);
}

float HalfToFloat(uint16_t h) {
  // The magnitude read as a float32 is the value times 2^-112, subnormals included.
  const uint32_t magnitude = h & 0x7fffu;
  float f = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  if (magnitude >= 0x7c00) f = std::bit_cast<float>(0x7f800000u | (magnitude << 13));
  return std::bit_cast<float>(std::bit_cast<uint32_t>(f) | (uint32_t{h} & 0x8000u) << 16);
}

float BFloatToFloat(uint16_t b) { return std::bit_cast<float>(uint32_t{b} << 16); }

// The overflow pattern of a layout: infinity, or NaN where there is none.
uint64_t OverflowBits(const Layout& f) {
  const uint64_t magnitude_mask = (uint64_t{1} << (f.bits() - 1)) - 1;
  switch (f.specials) {
    case Specials::kIeee:
      return magnitude_mask & ~((uint64_t{1} << f.mantissa_bits) - 1);
    case Specials::kAllOnes:
      return magnitude_mask;
    case Specials::kFnuz:
      return magnitude_mask + 1;
    case Specials::kNone:
      return magnitude_mask;
  }
  return 0;
}

uint64_t NanBits(const Layout& f) {
  if (f.specials != Specials::kIeee) return OverflowBits(f);
  return OverflowBits(f) | (uint64_t{1} << (f.mantissa_bits - 1));
}

uint64_t EncodeLayout(const Layout& f, double value) {
  const uint64_t bits = std::bit_cast<uint64_t>(value);
  // FNUZ has neither -0 nor a signed NaN: the sign joins only a result that is a number but zero.
  const uint64_t any_sign = (bits >> 63) << (f.bits() - 1);
  const uint64_t sign = f.specials == Specials::kFnuz ? 0 : any_sign;
  if (std::isnan(value)) return NanBits(f) | sign;
  const double magnitude = std::fabs(value);
  if (std::isinf(value)) return OverflowBits(f) | sign;
  if (magnitude == 0) return sign;
  int exponent = std::ilogb(magnitude);
  const int min_exponent = 1 - f.bias;
  if (exponent < min_exponent) exponent = min_exponent;
  // In units of the last place of that exponent; both steps are exact but for the rounding itself.
  const double scaled = std::ldexp(magnitude, f.mantissa_bits - exponent);
  const auto units = static_cast<uint64_t>(std::nearbyint(scaled));
  // Units run on over the exponent's field: a carry out of the mantissa is the next exponent.
  const uint64_t result =
      units + (static_cast<uint64_t>(exponent - min_exponent) << f.mantissa_bits);
  if (result >= OverflowBits(f)) return OverflowBits(f) | sign;
  return result | (result != 0 ? any_sign : sign);
}

template <typename T>
T LoadAs(const std::byte* data, size_t index) {
  T value;
  std::memcpy(&value, data + index * sizeof(T), sizeof(T));
  return value;
}

// Tables of every dtype of at most 8 bits: value by pattern.
using Table = std::array<float, 256>;
Table MakeTable(DType dtype) {
  Table table{};
  const int patterns = 1 << BitsOf(dtype);
  for (int i = 0; i < patterns; ++i) {
    table[static_cast<size_t>(i)] =
        static_cast<float>(BitsToDouble(dtype, static_cast<uint64_t>(i)));
  }
  return table;
}

const Table& TableOf(DType dtype) {
  static const auto* tables = [] {
    auto* all = new std::array<Table, 22>();
    for (const DTypeInfo& info : AllDTypes()) {
      if (info.bits <= 8) (*all)[static_cast<size_t>(info.dtype)] = MakeTable(info.dtype);
    }
    return all;
  }();
  return (*tables)[static_cast<size_t>(dtype)];
}

// One loop per dtype, so that each is tight.
template <typename Out>
void DecodeNarrow(DType dtype, const std::byte* data, size_t first, size_t count, Out* out) {
  switch (dtype) {
    case DType::kF32:
      for (size_t i = 0; i < count; ++i) out[i] = LoadAs<float>(data, first + i);
      return;
    case DType::kBF16:
      for (size_t i = 0; i < count; ++i) out[i] = BFloatToFloat(LoadAs<uint16_t>(data, first + i));
      return;
    case DType::kF16:
      for (size_t i = 0; i < count; ++i) out[i] = HalfToFloat(LoadAs<uint16_t>(data, first + i));
      return;
    case DType::kI16:
      for (size_t i = 0; i < count; ++i) out[i] = LoadAs<int16_t>(data, first + i);
      return;
    case DType::kU16:
      for (size_t i = 0; i < count; ++i) out[i] = LoadAs<uint16_t>(data, first + i);
      return;
    default:
      break;
  }
  const Table& table = TableOf(dtype);
  if (BitsOf(dtype) == 8) {
    for (size_t i = 0; i < count; ++i) out[i] = table[static_cast<size_t>(data[first + i])];
  } else {
    for (size_t i = 0; i < count; ++i) out[i] = table[RawBits(dtype, data, first + i)];
  }
}

// An integer that orders the values of a float dtype: the sign-magnitude pattern as a signed
// number.
int64_t OrderedFloat(int bits, uint64_t raw) {
  const uint64_t sign_bit = uint64_t{1} << (bits - 1);
  const auto magnitude = static_cast<int64_t>(raw & (sign_bit - 1));
  return (raw & sign_bit) != 0 ? -magnitude : magnitude;
}

uint64_t Distance(int64_t a, int64_t b) {
  return a > b ? static_cast<uint64_t>(a) - static_cast<uint64_t>(b)
               : static_cast<uint64_t>(b) - static_cast<uint64_t>(a);
}

int64_t SignExtend(int bits, uint64_t raw) {
  return static_cast<int64_t>(raw << (64 - bits)) >> (64 - bits);
}

}  // namespace

uint64_t RawBits(DType dtype, const std::byte* data, size_t index) {
  switch (BitsOf(ComponentDType(dtype))) {
    case 4: {
      const auto byte = static_cast<uint64_t>(data[index / 2]);
      return index % 2 == 0 ? byte & 0xf : byte >> 4;
    }
    case 6: {
      const size_t bit = index * 6;
      uint64_t word = static_cast<uint64_t>(data[bit / 8]);
      if (bit % 8 > 2) word |= static_cast<uint64_t>(data[bit / 8 + 1]) << 8;
      return (word >> (bit % 8)) & 0x3f;
    }
    case 8:
      return static_cast<uint64_t>(data[index]);
    case 16:
      return LoadAs<uint16_t>(data, index);
    case 32:
      return LoadAs<uint32_t>(data, index);
    default:
      return LoadAs<uint64_t>(data, index);
  }
}

double BitsToDouble(DType dtype, uint64_t raw) {
  switch (dtype) {
    case DType::kBool:
      return raw != 0 ? 1 : 0;
    case DType::kU8:
    case DType::kU16:
    case DType::kU32:
    case DType::kU64:
      return static_cast<double>(raw);
    case DType::kI8:
    case DType::kI16:
    case DType::kI32:
    case DType::kI64:
      return static_cast<double>(SignExtend(BitsOf(dtype), raw));
    case DType::kF64:
      return std::bit_cast<double>(raw);
    case DType::kC64:
    case DType::kF32:
      return std::bit_cast<float>(static_cast<uint32_t>(raw));
    case DType::kF8E8M0:
      return DecodeE8M0(raw);
    default:
      return DecodeLayout(*LayoutOf(dtype), raw);
  }
}

bool FitsFloat(DType dtype) {
  return dtype == DType::kC64 || dtype == DType::kF32 || BitsOf(dtype) <= 16;
}

void DecodeToFloat(DType dtype, const std::byte* data, size_t first, size_t count, float* out) {
  DecodeNarrow(ComponentDType(dtype), data, first, count, out);
}

void DecodeToDouble(DType dtype, const std::byte* data, size_t first, size_t count, double* out) {
  dtype = ComponentDType(dtype);
  if (FitsFloat(dtype)) return DecodeNarrow(dtype, data, first, count, out);
  for (size_t i = 0; i < count; ++i) out[i] = ElementToDouble(dtype, data, first + i);
}

std::optional<uint64_t> RoundToBits(DType dtype, double value) {
  switch (dtype) {
    case DType::kF64:
      return std::bit_cast<uint64_t>(value);
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kF8E4M3:
    case DType::kF8E5M2:
    case DType::kF8E4M3Fnuz:
    case DType::kF8E5M2Fnuz:
      return EncodeLayout(*LayoutOf(dtype), value);
    default:
      return std::nullopt;
  }
}

std::optional<uint64_t> UlpDistance(DType dtype, uint64_t a, uint64_t b) {
  dtype = ComponentDType(dtype);
  if (a == b) return 0;
  const DTypeInfo& info = Info(dtype);
  if (info.kind == DTypeClass::kSigned) {
    return Distance(SignExtend(info.bits, a), SignExtend(info.bits, b));
  }
  if (info.kind != DTypeClass::kFloat) return a > b ? a - b : b - a;
  if (!std::isfinite(BitsToDouble(dtype, a)) || !std::isfinite(BitsToDouble(dtype, b))) {
    return std::nullopt;
  }
  if (dtype == DType::kF8E8M0) return a > b ? a - b : b - a;
  return Distance(OrderedFloat(info.bits, a), OrderedFloat(info.bits, b));
}

std::string FormatBits(DType dtype, uint64_t raw) {
  dtype = ComponentDType(dtype);
  const DTypeInfo& info = Info(dtype);
  if (info.kind == DTypeClass::kBool) return raw != 0 ? "true" : "false";
  if (info.kind == DTypeClass::kUnsigned) return fmt::format("{}", raw);
  if (info.kind == DTypeClass::kSigned) return fmt::format("{}", SignExtend(info.bits, raw));
  const double value = BitsToDouble(dtype, raw);
  const int digits = (info.bits + 3) / 4;
  if (dtype == DType::kF64) return fmt::format("{} (0x{:0{}x})", value, raw, digits);
  return fmt::format("{} (0x{:0{}x})", static_cast<float>(value), raw, digits);
}

}  // namespace weighbridge
