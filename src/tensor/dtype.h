// The one table of element types. Names are those of the safetensors format and the short names
// that users write ("bf16"); sizes are in bits because FP4 and FP6 pack several elements into a
// byte.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace weighbridge {

enum class DType : uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

enum class DTypeClass : uint8_t { kBool, kUnsigned, kSigned, kFloat, kComplex };

struct DTypeInfo {
  DType dtype;
  std::string_view safetensors_name;  // "BF16"
  std::string_view short_name;        // "bf16"
  int bits;                           // per element
  DTypeClass kind;
};

// Every dtype, in enum order.
std::span<const DTypeInfo> AllDTypes();
const DTypeInfo& Info(DType dtype);

inline std::string_view ShortName(DType dtype) { return Info(dtype).short_name; }
inline std::string_view SafetensorsName(DType dtype) { return Info(dtype).safetensors_name; }
inline int BitsOf(DType dtype) { return Info(dtype).bits; }
inline bool IsFloat(DType dtype) { return Info(dtype).kind == DTypeClass::kFloat; }

// nullopt for an unknown name. ParseShortName also accepts "float32", "bfloat16", "float16", "half"
// and the safetensors spelling.
std::optional<DType> ParseSafetensorsName(std::string_view name);
std::optional<DType> ParseShortName(std::string_view name);

// Bytes of `numel` elements; nullopt when it overflows or does not end on a byte.
std::optional<uint64_t> BytesFor(DType dtype, int64_t numel);

}  // namespace weighbridge
