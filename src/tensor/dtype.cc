#include "tensor/dtype.h"

#include <array>

#include "base/checked.h"

namespace weighbridge {
namespace {

using enum DTypeClass;
constexpr std::array<DTypeInfo, 22> kTable = {{
    {DType::kBool, "BOOL", "bool", 8, kBool},
    {DType::kF4, "F4", "fp4", 4, kFloat},
    {DType::kF6E2M3, "F6_E2M3", "fp6_e2m3", 6, kFloat},
    {DType::kF6E3M2, "F6_E3M2", "fp6_e3m2", 6, kFloat},
    {DType::kU8, "U8", "u8", 8, kUnsigned},
    {DType::kI8, "I8", "i8", 8, kSigned},
    {DType::kF8E5M2, "F8_E5M2", "fp8_e5m2", 8, kFloat},
    {DType::kF8E4M3, "F8_E4M3", "fp8_e4m3", 8, kFloat},
    {DType::kF8E8M0, "F8_E8M0", "fp8_e8m0", 8, kFloat},
    {DType::kF8E4M3Fnuz, "F8_E4M3FNUZ", "fp8_e4m3fnuz", 8, kFloat},
    {DType::kF8E5M2Fnuz, "F8_E5M2FNUZ", "fp8_e5m2fnuz", 8, kFloat},
    {DType::kI16, "I16", "i16", 16, kSigned},
    {DType::kU16, "U16", "u16", 16, kUnsigned},
    {DType::kF16, "F16", "fp16", 16, kFloat},
    {DType::kBF16, "BF16", "bf16", 16, kFloat},
    {DType::kI32, "I32", "i32", 32, kSigned},
    {DType::kU32, "U32", "u32", 32, kUnsigned},
    {DType::kF32, "F32", "fp32", 32, kFloat},
    {DType::kC64, "C64", "c64", 64, kComplex},
    {DType::kF64, "F64", "fp64", 64, kFloat},
    {DType::kI64, "I64", "i64", 64, kSigned},
    {DType::kU64, "U64", "u64", 64, kUnsigned},
}};

struct Alias {
  std::string_view name;
  DType dtype;
};
constexpr std::array<Alias, 8> kAliases = {{{"float32", DType::kF32},
                                            {"float", DType::kF32},
                                            {"float16", DType::kF16},
                                            {"half", DType::kF16},
                                            {"bfloat16", DType::kBF16},
                                            {"float64", DType::kF64},
                                            {"double", DType::kF64},
                                            {"fp8", DType::kF8E4M3}}};

}  // namespace

std::span<const DTypeInfo> AllDTypes() { return kTable; }

const DTypeInfo& Info(DType dtype) { return kTable[static_cast<size_t>(dtype)]; }

std::optional<DType> ParseSafetensorsName(std::string_view name) {
  for (const DTypeInfo& info : kTable) {
    if (info.safetensors_name == name) return info.dtype;
  }
  return std::nullopt;
}

std::optional<DType> ParseShortName(std::string_view name) {
  for (const DTypeInfo& info : kTable) {
    if (info.short_name == name) return info.dtype;
  }
  for (const Alias& alias : kAliases) {
    if (alias.name == name) return alias.dtype;
  }
  return ParseSafetensorsName(name);
}

std::optional<uint64_t> BytesFor(DType dtype, int64_t numel) {
  if (numel < 0) return std::nullopt;
  const auto bits = CheckedMul(static_cast<uint64_t>(numel), static_cast<uint64_t>(BitsOf(dtype)));
  if (!bits || *bits % 8 != 0) return std::nullopt;
  return *bits / 8;
}

}  // namespace weighbridge
