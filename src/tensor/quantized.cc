#include "tensor/quantized.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "base/checked.h"
#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

using Meanings = std::array<float, 256>;

Meanings MakeMeanings(CodeFormat format) {
  Meanings out{};
  for (size_t i = 0; i < out.size(); ++i) {
    const auto code = static_cast<std::byte>(i);
    switch (format) {
      case CodeFormat::kF8E4M3:
        DecodeToFloat(DType::kF8E4M3, &code, 0, 1, &out[i]);
        break;
      case CodeFormat::kF8E5M2:
        DecodeToFloat(DType::kF8E5M2, &code, 0, 1, &out[i]);
        break;
      case CodeFormat::kI8:
        DecodeToFloat(DType::kI8, &code, 0, 1, &out[i]);
        break;
      case CodeFormat::kF4E2M1:
        DecodeToFloat(DType::kF4, &code, 0, 1, &out[i]);
        break;
      case CodeFormat::kF4E2M1OneZero:
        DecodeToFloat(DType::kF4, &code, 0, 1, &out[i]);
        out[i] += 0.0f;  // -0 + 0 is 0
        break;
      case CodeFormat::kInt4Offset:
        out[i] = static_cast<float>(i % 16);
        break;
    }
  }
  return out;
}

// Of every code of a byte; of codes of 4 bits those of the low nibble.
const Meanings& MeaningsOf(CodeFormat format) {
  static const std::array<Meanings, 6> kTables = {MakeMeanings(CodeFormat::kF8E4M3),
                                                  MakeMeanings(CodeFormat::kF8E5M2),
                                                  MakeMeanings(CodeFormat::kI8),
                                                  MakeMeanings(CodeFormat::kF4E2M1),
                                                  MakeMeanings(CodeFormat::kF4E2M1OneZero),
                                                  MakeMeanings(CodeFormat::kInt4Offset)};
  return kTables[static_cast<size_t>(format)];
}

// The smallest and the largest magnitude but zero.
std::pair<float, float> MagnitudesOf(CodeFormat format) {
  switch (format) {
    case CodeFormat::kF8E4M3:
      return {0x1p-9f, 448};
    case CodeFormat::kF8E5M2:
      return {0x1p-16f, 57344};
    case CodeFormat::kI8:
      return {1, 128};
    case CodeFormat::kF4E2M1:
    case CodeFormat::kF4E2M1OneZero:
      return {0.5f, 6};
    case CodeFormat::kInt4Offset:
      return {1, 15};
  }
  return {0, 0};
}

float FloatAt(DType dtype, std::span<const std::byte> bytes, int64_t index) {
  float value = 0;
  DecodeToFloat(dtype, bytes.data(), static_cast<size_t>(index), 1, &value);
  return value;
}

float ScaleAt(const QuantizedTensor& q, int64_t index) {
  float scale = 0;
  if (q.scale_format == ScaleFormat::kExponent) {
    const int exponent = static_cast<int>(q.scales[static_cast<size_t>(index)]) - 127;
    scale = std::ldexp(1.0f, exponent);
  } else {
    scale = FloatAt(q.scale_dtype, q.scales, index);
  }
  if (q.global_scale.empty()) return scale;
  const float global = FloatAt(DType::kF32, q.global_scale, 0);
  return q.global_divides ? scale / global : scale * global;
}

unsigned Nibble(std::span<const std::byte> bytes, int64_t index) {
  return (static_cast<unsigned>(bytes[static_cast<size_t>(index / 2)]) >> (index % 2 * 4)) & 15u;
}

// What an int4 code is counted from.
float OffsetAt(const QuantizedTensor& q, int64_t matrix, int64_t grid_row, int64_t grid_column) {
  if (q.format != CodeFormat::kInt4Offset) return 0;
  if (q.zero_points.empty()) return 8;
  // Eight rows of the grid stand in one int32: nibble (row % 8) of word [row / 8, column].
  const int64_t words = (q.grid.rows + 7) / 8;
  const int64_t word = (matrix * words + grid_row / 8) * q.grid.columns + grid_column;
  return static_cast<float>(Nibble(q.zero_points, word * 8 + grid_row % 8));
}

uint16_t ToBFloat(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;  // as c10::BFloat16
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

void Store(DType dtype, float value, std::byte* out) {
  if (dtype == DType::kBF16) {
    const uint16_t bits = ToBFloat(value);
    std::memcpy(out, &bits, sizeof(bits));
  } else if (dtype == DType::kF32) {
    std::memcpy(out, &value, sizeof(value));
  } else {
    const uint64_t bits = *RoundToBits(dtype, static_cast<double>(value));
    std::memcpy(out, &bits, static_cast<size_t>(BitsOf(dtype) / 8));
  }
}

// A stretch of codes in one row, under one scale.
struct Stretch {
  int64_t begin = 0;  // index into the codes
  int64_t count = 0;
  int64_t done = 0;  // elements of the request before it
  float scale = 1, offset = 0;
};

// A block's place in the grid of scales.
struct Place {
  int64_t matrix = 0, row = 0, column = 0;
  bool operator==(const Place&) const = default;
};

int64_t Around(int64_t index, int64_t extent) { return ((index % extent) + extent) % extent; }

// The scale that is taken for the block at `at`.
Place Misplaced(const QuantizedTensor& q, Place at) {
  using Kind = ScaleOrder::Kind;
  const ScaleOrder& order = q.misreading.order;
  const int64_t rows = q.grid.rows, columns = q.grid.columns;
  const auto number = [&](int64_t n) { return Place{at.matrix, n / columns, n % columns}; };
  switch (order.kind) {
    case Kind::kOwn:
      return at;
    case Kind::kShifted:
      return {Around(at.matrix + order.matrices, q.grid.shared ? 1 : q.matrices()),
              Around(at.row + order.rows, rows), Around(at.column + order.columns, columns)};
    case Kind::kClamped:
      return {at.matrix, std::clamp<int64_t>(at.row + order.rows, 0, rows - 1),
              std::clamp<int64_t>(at.column + order.columns, 0, columns - 1)};
    case Kind::kShiftedFlat:
      return number(Around(at.row * columns + at.column + order.columns, rows * columns));
    case Kind::kRepeated:
      return {at.matrix, at.row % order.rows, at.column % order.columns};
    case Kind::kTransposedMatrix:
      return {at.matrix, at.column, at.row};
    case Kind::kColumnMajor:
      return number(at.column * rows + at.row);
    case Kind::kRowMajorOfTransposed: {
      const int64_t n = at.row * columns + at.column;
      return {at.matrix, n % rows, n / rows};
    }
    case Kind::kTiled:
      return {at.matrix, at.row % rows, at.column % columns};
    case Kind::kHalved:
      return {at.matrix, at.row % 2 * (rows / 2) + at.row / 2, at.column};
    case Kind::kAlternating:
      return {at.matrix, at.row % (rows / 2) * 2 + at.row / (rows / 2), at.column};
  }
  return at;
}

// Rows and columns of what one scale is taken for.
std::pair<int64_t, int64_t> BlockSize(const QuantizedTensor& q) {
  const ScaleGrid& grid = q.grid;
  switch (q.misreading.order.kind) {
    case ScaleOrder::Kind::kTransposedMatrix:
      return {grid.block_columns, grid.block_rows};
    case ScaleOrder::Kind::kTiled:
      return {grid.rows == 1 ? grid.block_rows : 1, grid.columns == 1 ? grid.block_columns : 1};
    default:
      return {grid.block_rows, grid.block_columns};
  }
}

// visit(stretch) for the elements [first, first + count), in order.
template <typename Visitor>
void VisitStretches(const QuantizedTensor& q, int64_t first, int64_t count, Visitor&& visit) {
  const int64_t columns = q.columns(), rows = q.rows();
  const auto [block_rows, block_columns] = BlockSize(q);
  const bool misplaced = q.misreading.order.kind != ScaleOrder::Kind::kOwn;
  // A misread scale may be taken for blocks of another size than those of the zero points.
  const bool apart = q.misreading.own_zero_points;
  Place last{-1, -1, -1}, last_zero = last;
  Stretch s;
  while (s.done < count) {
    const int64_t at = first + s.done;
    const int64_t row = at / columns, column = at % columns;
    const int64_t matrix = row / rows, row_in = row % rows;
    const Place own{q.grid.shared ? 0 : matrix, row_in / block_rows, column / block_columns};
    int64_t block_end = (own.column + 1) * block_columns;
    Place zero = own;
    if (apart) {
      zero = {own.matrix, row_in / q.grid.block_rows, column / q.grid.block_columns};
      block_end = std::min(block_end, (zero.column + 1) * q.grid.block_columns);
    }
    if (own != last || zero != last_zero) {
      const Place of = misplaced ? Misplaced(q, own) : own;
      s.scale = ScaleAt(q, (of.matrix * q.grid.rows + of.row) * q.grid.columns + of.column);
      const Place& counted_from = apart ? zero : of;
      s.offset = OffsetAt(q, counted_from.matrix, counted_from.row, counted_from.column);
      last = own;
      last_zero = zero;
    }
    block_end = std::min(columns, block_end);
    s.count = std::min(count - s.done, block_end - column);
    s.begin = row * q.pitch + column;
    visit(std::as_const(s));
    s.done += s.count;
  }
}

unsigned CodeAt(const QuantizedTensor& q, std::span<const std::byte> codes, int64_t index) {
  if (BitsOf(q.format) == 4) return Nibble(codes, index);
  return static_cast<unsigned>(codes[static_cast<size_t>(index)]);
}

// Code::At(bytes, i) gives the code; the loop is written once for every way of packing.
struct Bytes {
  static unsigned At(const std::byte* codes, int64_t i) { return static_cast<unsigned>(codes[i]); }
};
struct LowFirst {
  static unsigned At(const std::byte* codes, int64_t i) {
    return (static_cast<unsigned>(codes[i / 2]) >> (i % 2 * 4)) & 15u;
  }
};

template <typename Code>
void Decode(const QuantizedTensor& q, const Meanings& meanings, const Stretch& s,
            const std::byte* codes, std::byte* out) {
  if (q.dtype == DType::kBF16) {
    for (int64_t i = 0; i < s.count; ++i) {
      const uint16_t bits = ToBFloat((meanings[Code::At(codes, s.begin + i)] - s.offset) * s.scale);
      std::memcpy(out + 2 * i, &bits, sizeof(bits));
    }
    return;
  }
  const int64_t size = BitsOf(q.dtype) / 8;
  for (int64_t i = 0; i < s.count; ++i) {
    Store(q.dtype, (meanings[Code::At(codes, s.begin + i)] - s.offset) * s.scale, out + i * size);
  }
}

// `codes`: as q.codes, or others in their place; s.begin counts from there.
void DecodeStretch(const QuantizedTensor& q, const Meanings& meanings, const Stretch& s,
                   const std::byte* codes, std::byte* out) {
  if (BitsOf(q.format) == 8) return Decode<Bytes>(q, meanings, s, codes, out);
  Decode<LowFirst>(q, meanings, s, codes, out);
}

// Where the code of place `i` is taken from.
int64_t MisplacedCode(const Misreading& misreading, int64_t i) {
  using Nibbles = Misreading::Nibbles;
  constexpr std::array<int64_t, 8> kAwq = {0, 2, 4, 6, 1, 3, 5, 7};
  constexpr std::array<int64_t, 8> kInverse = {0, 4, 1, 5, 2, 6, 3, 7};
  switch (misreading.nibbles) {
    case Nibbles::kAsMeant:
      return i;
    case Nibbles::kHighFirst:
      return i ^ 1;
    case Nibbles::kReversed:
      return i ^ 7;
    case Nibbles::kAwq:
      return i - i % 8 + kAwq[static_cast<size_t>(i % 8)];
    case Nibbles::kAwqInverse:
      return i - i % 8 + kInverse[static_cast<size_t>(i % 8)];
    case Nibbles::kHalves: {
      const int64_t group = misreading.nibble_group, at = i % group;
      return i - at + at % (group / 2) * 2 + at / (group / 2);
    }
  }
  return i;
}

void DecodeMisread(const QuantizedTensor& q, const Meanings& meanings, const Stretch& s,
                   std::byte* out) {
  using Scales = Misreading::Scales;
  const int64_t size = BitsOf(q.dtype) / 8;
  for (int64_t i = 0; i < s.count; ++i) {
    const int64_t from = MisplacedCode(q.misreading, s.begin + i);
    float value = meanings[CodeAt(q, q.codes, from)] - s.offset;
    if (q.misreading.scales == Scales::kApplied) value *= s.scale;
    if (q.misreading.scales == Scales::kInverted) value /= s.scale;
    Store(q.dtype, value, out + i * size);
  }
}

// The value of each code under one scale.
class CodeValues {
 public:
  CodeValues(const QuantizedTensor& q, float scale, float offset)
      : q_(q), meanings_(MeaningsOf(q.format)), scale_(scale), offset_(offset) {}

  float Exact(unsigned code) const { return (meanings_[code] - offset_) * scale_; }
  // Rounded into the tensor's dtype.
  uint32_t Bits(unsigned code) const {
    uint32_t bits = 0;
    std::byte bytes[4] = {};
    Store(q_.dtype, Exact(code), bytes);
    std::memcpy(&bits, bytes, sizeof(bits));
    return bits;
  }
  int codes() const { return 1 << BitsOf(q_.format); }

  // A code whose value is `bits`, else the one nearest to it (of two the even one); -1: it has no
  // number.
  int Nearest(uint32_t bits, float value) const {
    int best = -1;
    float least = std::numeric_limits<float>::infinity();
    const auto [first, last] = Candidates(value);
    for (int code = first; code <= last; ++code) {
      const auto c = static_cast<unsigned>(code);
      if (Bits(c) == bits) return code;
      const float distance = std::fabs(Exact(c) - value);
      if (distance < least || (distance == least && code % 2 == 0 && best % 2 != 0)) {
        best = code;
        least = distance;
      }
    }
    return best;
  }

  // Beyond the largest magnitude that a code has.
  bool Clips(float value) const {
    float most = 0;
    for (int code = 0; code < codes(); ++code) {
      const float magnitude = std::fabs(Exact(static_cast<unsigned>(code)));
      if (std::isfinite(magnitude)) most = std::max(most, magnitude);
    }
    return !(std::fabs(value) <= most);
  }

  // Whether two codes of different meaning have one value.
  bool Ambiguous() const {
    std::vector<std::pair<float, uint32_t>> values;
    for (int code = 0; code < codes(); ++code) {
      const auto c = static_cast<unsigned>(code);
      if (!std::isnan(meanings_[c])) values.emplace_back(meanings_[c], Bits(c));
    }
    std::sort(values.begin(), values.end());
    for (size_t i = 1; i < values.size(); ++i) {
      if (values[i].first != values[i - 1].first && values[i].second == values[i - 1].second) {
        return true;
      }
    }
    return false;
  }

 private:
  // The codes, first to last, among which the nearest is.
  std::pair<int, int> Candidates(float value) const {
    const float wanted = value / scale_;
    const bool is_float = q_.format == CodeFormat::kF8E4M3 || q_.format == CodeFormat::kF8E5M2;
    if (!is_float || !std::isfinite(wanted)) return {0, codes() - 1};
    const float most = MagnitudesOf(q_.format).second;
    const DType dtype = q_.format == CodeFormat::kF8E4M3 ? DType::kF8E4M3 : DType::kF8E5M2;
    const auto guess =
        static_cast<int>(*RoundToBits(dtype, static_cast<double>(std::clamp(wanted, -most, most))));
    return {std::max(0, guess - 1), std::min(codes() - 1, guess + 1)};
  }

  const QuantizedTensor& q_;
  const Meanings& meanings_;
  const float scale_, offset_;
};

}  // namespace

std::span<const std::string_view> QuantizationNames() {
  static constexpr std::array<std::string_view, 5> kNames = {"fp8", "int4", "int8", "mxfp4",
                                                             "nvfp4"};
  return kNames;
}

void Dequantize(const QuantizedTensor& q, int64_t first, int64_t count, std::byte* out) {
  const Meanings& meanings = MeaningsOf(q.format);
  const int64_t size = BitsOf(q.dtype) / 8;
  const bool misread = q.misreading.scales != Misreading::Scales::kApplied ||
                       q.misreading.nibbles != Misreading::Nibbles::kAsMeant;
  VisitStretches(q, first, count, [&](const Stretch& s) {
    std::byte* to = out + s.done * size;
    if (misread) return DecodeMisread(q, meanings, s, to);
    DecodeStretch(q, meanings, s, q.codes.data(), to);
  });
}

int64_t CodeByte(const QuantizedTensor& q, int64_t element) {
  const int64_t code = element / q.columns() * q.pitch + element % q.columns();
  return code * BitsOf(q.format) / 8;
}

RequantizeCounts Requantize(const QuantizedTensor& q, int64_t first, int64_t count,
                            std::span<const std::byte> values, std::span<std::byte> codes) {
  RequantizeCounts counts;
  const auto size = static_cast<size_t>(BitsOf(q.dtype) / 8);
  const int64_t origin = CodeByte(q, first) * 8 / BitsOf(q.format);
  std::vector<std::byte> held;  // what the codes stand for now
  VisitStretches(q, first, count, [&](const Stretch& stretch) {
    Stretch s = stretch;
    s.begin -= origin;
    const std::byte* asked = values.data() + static_cast<size_t>(s.done) * size;
    held.resize(static_cast<size_t>(s.count) * size);
    DecodeStretch(q, MeaningsOf(q.format), s, codes.data(), held.data());
    if (std::memcmp(held.data(), asked, held.size()) == 0) return;
    const CodeValues under(q, s.scale, s.offset);
    for (int64_t i = 0; i < s.count; ++i) {
      const size_t place = static_cast<size_t>(i) * size;
      if (std::memcmp(held.data() + place, asked + place, size) == 0) continue;
      const int64_t at = s.begin + i;
      uint32_t wanted = 0;
      std::memcpy(&wanted, asked + place, size);
      ++counts.changed;
      const float value = FloatAt(q.dtype, values, s.done + i);
      const int nearest = under.Nearest(wanted, value);
      const auto chosen = static_cast<unsigned>(nearest < 0 ? 0 : nearest);
      if (nearest < 0 || under.Bits(chosen) != wanted) {
        ++counts.rounded;
        counts.clipped += under.Clips(value);
      }
      const auto byte = static_cast<size_t>(at * BitsOf(q.format) / 8);
      if (BitsOf(q.format) == 8) {
        codes[byte] = static_cast<std::byte>(chosen);
      } else {
        const int shift = static_cast<int>(at % 2) * 4;
        codes[byte] &= static_cast<std::byte>(~(15u << shift));
        codes[byte] |= static_cast<std::byte>(chosen << shift);
      }
    }
  });
  return counts;
}

void ScaleCounts::operator+=(const ScaleCounts& other) {
  if (first_not_finite < 0) first_not_finite = other.first_not_finite;
  total += other.total;
  not_finite += other.not_finite;
  zero += other.zero;
  negative += other.negative;
  ambiguous += other.ambiguous;
}

int64_t ScaleCount(const QuantizedTensor& q) {
  return static_cast<int64_t>(q.scales.size()) * 8 / BitsOf(q.scale_dtype);
}

bool CodesAreNan(const QuantizedTensor& q) {
  const bool e4m3 = q.format == CodeFormat::kF8E4M3;
  if ((!e4m3 && q.format != CodeFormat::kF8E5M2) || q.codes.empty()) return false;
  return std::all_of(q.codes.begin(), q.codes.end(), [&](std::byte code) {
    const auto magnitude = static_cast<unsigned>(code & std::byte{0x7f});
    return e4m3 ? magnitude == 0x7f : magnitude > 0x7c;
  });
}

std::optional<PackedCodes> FindPacking(DType dtype, const Shape& stored, const Shape& values) {
  constexpr std::array kWords = {DType::kU8, DType::kI8, DType::kI32, DType::kI64};
  if (std::find(kWords.begin(), kWords.end(), dtype) == kWords.end()) return std::nullopt;
  const auto elements = CheckedNumel(stored), wanted = CheckedNumel(values);
  if (!elements || !wanted || *elements == 0 || *elements >= *wanted) return std::nullopt;
  for (const int bits : {4, 8, 2}) {
    const int64_t each = BitsOf(dtype) / bits;
    if (each < 2) continue;
    if (*wanted % each == 0 && *wanted / each == *elements) return PackedCodes{bits, each};
    if (stored.size() != values.size()) continue;
    // The last element of a row may be filled up.
    size_t equal = 0, packed = 0;
    for (size_t axis = 0; axis < stored.size(); ++axis) {
      equal += stored[axis] == values[axis];
      packed += stored[axis] == values[axis] / each + (values[axis] % each != 0);
    }
    if (equal + 1 == stored.size() && packed >= 1) return PackedCodes{bits, each};
  }
  return std::nullopt;
}

ScaleCounts CountScales(const QuantizedTensor& q, int64_t first, int64_t count) {
  ScaleCounts counts;
  counts.total = count;
  // Where neither the largest product nor the smallest leaves the normal numbers of the dtype,
  // codes stay apart: they have at most 8 significant bits as bf16 has, and all but I8 fewer.
  const bool narrow = q.dtype == DType::kF16;
  const float low = narrow ? 0x1p-14f : 0x1p-126f, high = narrow ? 0x1p15f : 0x1p127f;
  const auto [least, largest] = MagnitudesOf(q.format);
  const bool wide_codes = q.format == CodeFormat::kI8 && q.dtype == DType::kBF16;
  for (int64_t i = first; i < first + count; ++i) {
    const float scale = ScaleAt(q, i);
    if (!std::isfinite(scale)) {
      if (counts.not_finite++ == 0) counts.first_not_finite = i;
      continue;
    }
    counts.zero += scale == 0;
    counts.negative += scale < 0;
    if (scale == 0) continue;
    const float magnitude = std::fabs(scale);
    if (!wide_codes && magnitude * least >= low && magnitude * largest <= high) continue;
    counts.ambiguous += CodeValues(q, scale, 8).Ambiguous();
  }
  return counts;
}

}  // namespace weighbridge
