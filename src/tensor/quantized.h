// Weights that are stored as codes of few bits with scales beside them, and the values that they
// stand for: value = round(meaning(code) * scale), in the order of operations of the libraries that
// wrote them. The product is a float32 product; it is rounded once more, into the dtype of the
// values.
//
// Sources: transformers 5.17 (Fp8Dequantize, convert_moe_packed_tensors), compressed-tensors 0.20
// (unpack_from_int32, dequantize), ModelOpt 0.47 (NVFP4QTensor.dequantize), Megatron Bridge 0.6.2
// (quantization_utils). Everything here is pure and may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

namespace weighbridge {

// Names of what checkpoints are stored as, sorted: "fp8", "int4", "int8", "mxfp4", "nvfp4".
std::span<const std::string_view> QuantizationNames();

// What a code means. Codes of 4 bits stand two in a byte, the low nibble first; an int32 that holds
// eight of them is four such bytes.
enum class CodeFormat : uint8_t {
  kF8E4M3,
  kF8E5M2,
  kI8,
  kF4E2M1,
  kF4E2M1OneZero,  // ModelOpt reads code 8, minus zero, as zero
  kInt4Offset,     // code - zero point; 8 without one
};

inline int BitsOf(CodeFormat format) { return format >= CodeFormat::kF4E2M1 ? 4 : 8; }

// What a scale's bytes mean where the dtype leaves it open.
enum class ScaleFormat : uint8_t {
  kNumber,    // a number of its dtype (E8M0: 2^(byte - 127), 255 is NaN)
  kExponent,  // U8: 2^(byte - 127), 255 is 2^128, which float32 does not have: infinity
};

// Of a tensor [..., rows, columns] one scale counts for a block of `block_rows` x `block_columns`
// of a matrix, the last of a row or column of blocks being smaller. Scales are stored row-major.
struct ScaleGrid {
  int64_t block_rows = 1, block_columns = 1;
  int64_t rows = 1, columns = 1;  // of the grid of one matrix
  bool shared = false;            // all matrices have the same
};

// Which scale is taken for a block: its own, or another one, as bridges have misplaced them. `m`,
// `r`, `c`: matrix, row and column of the block; R x C: the grid.
struct ScaleOrder {
  enum class Kind : uint8_t {
    kOwn,
    kShifted,               // that of (m + matrices, r + rows, c + columns), around the edges
    kClamped,               // the same, those beyond an edge being the last before it
    kShiftedFlat,           // `columns` further in memory, around the end of a matrix
    kRepeated,              // of (r % rows, c % columns): one shard's for all
    kTransposedMatrix,      // of the element (j, i) for (i, j) of a square matrix
    kColumnMajor,           // number c * R + r in memory
    kRowMajorOfTransposed,  // number r * C + c of the transposed grid
    kTiled,                 // of (i % R, j % C) for the element (i, j)
    kHalved,                // of rows that alternate: the first half, then the second
    kAlternating,           // the reverse
  };
  Kind kind = Kind::kOwn;
  int64_t matrices = 0, rows = 0, columns = 0;
};

// How codes and scales are read otherwise than they are meant, for naming the mistake behind a
// difference. A tensor of a checkpoint has none.
struct Misreading {
  enum class Scales : uint8_t { kApplied, kIgnored, kInverted };
  enum class Nibbles : uint8_t {
    kAsMeant,
    kHighFirst,   // the two of each byte exchanged
    kReversed,    // the eight of each int32 from the last to the first
    kAwq,         // the eight of each int32 as AWQ orders them
    kAwqInverse,  // the reverse
    kHalves,      // of each `nibble_group` first all low ones, then all high ones
  };
  Scales scales = Scales::kApplied;
  Nibbles nibbles = Nibbles::kAsMeant;
  int64_t nibble_group = 0;
  ScaleOrder order;
  bool own_zero_points = false;  // `order` is of the scales alone
};

// A quantized tensor. The bytes that it points to must outlive it.
struct QuantizedTensor {
  std::string_view scheme;  // "fp8", for reports
  CodeFormat format = CodeFormat::kF8E4M3;
  DType dtype = DType::kBF16;  // of the values: BF16, F16 or F32
  Shape shape;                 // of the values
  std::span<const std::byte> codes;
  int64_t pitch = 0;  // codes from one row to the next

  std::span<const std::byte> scales;
  DType scale_dtype = DType::kF32;
  ScaleFormat scale_format = ScaleFormat::kNumber;
  ScaleGrid grid;
  // A float32 that all scales are multiplied with or divided by; empty: none.
  std::span<const std::byte> global_scale;
  bool global_divides = false;
  // Codes of kInt4Offset per scale, eight rows in an int32: [rows / 8, columns] of the grid. Empty:
  // none.
  std::span<const std::byte> zero_points;
  Misreading misreading;

  // As they are in the checkpoint: the codes' tensor, then those that belong to it.
  std::vector<std::string> stored;
  // The name of the weight where it is stored plain; most often that of the values.
  std::string plain_name;

  int64_t rows() const { return shape.size() < 2 ? 1 : shape[shape.size() - 2]; }
  int64_t columns() const { return shape.empty() ? 1 : shape.back(); }
  int64_t matrices() const { return Numel(shape) / (rows() * columns()); }
};

// The values of elements [first, first + count), row-major, in q.dtype.
void Dequantize(const QuantizedTensor& q, int64_t first, int64_t count, std::byte* out);

// What a tensor's own scales could not hold of the values that were given back to it.
struct RequantizeCounts {
  int64_t changed = 0;  // values that are not those of the source
  int64_t rounded = 0;  // of those, values that no code has
  int64_t clipped = 0;  // of those, values beyond the largest code

  void operator+=(const RequantizeCounts& other) {
    changed += other.changed;
    rounded += other.rounded;
    clipped += other.clipped;
  }
};

// Replaces codes [first, first + count), given in `codes` as they are in the source, by those of
// `values` (of q.dtype) under the source's scales. A code that has the value already stays: what
// several codes stand for (NaN, zeros of a scale of zero) comes back as it was. Else the nearest
// code is taken, of two the even one. `first` and `count` have to begin and end on a byte of codes.
RequantizeCounts Requantize(const QuantizedTensor& q, int64_t first, int64_t count,
                            std::span<const std::byte> values, std::span<std::byte> codes);

// The byte of q.codes in which element `element` stands.
int64_t CodeByte(const QuantizedTensor& q, int64_t element);

// A look at scales [first, first + count) of q.scales.
struct ScaleCounts {
  int64_t total = 0;
  int64_t not_finite = 0;  // NaN or infinite
  int64_t zero = 0, negative = 0;
  int64_t ambiguous = 0;  // finite, not zero, and yet two codes of different meaning give one value
  int64_t first_not_finite = -1;

  void operator+=(const ScaleCounts& other);
};
ScaleCounts CountScales(const QuantizedTensor& q, int64_t first, int64_t count);
int64_t ScaleCount(const QuantizedTensor& q);

// Codes of few bits in the elements of a tensor that holds those of values: two of four bits in a
// byte, eight in an int32.
struct PackedCodes {
  int bits = 0;      // of a code
  int64_t each = 0;  // codes in an element
};
// nullopt where `stored` elements of `dtype` are not what `values` are packed into: along one axis,
// or over all of the tensor.
std::optional<PackedCodes> FindPacking(DType dtype, const Shape& stored, const Shape& values);

// Whether each code is NaN, which formats with a NaN have. Reads no further than the first that is
// not.
bool CodesAreNan(const QuantizedTensor& q);

}  // namespace weighbridge
