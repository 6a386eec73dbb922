#include "formats/torch_file/dtypes.h"

#include <span>

namespace weighbridge {
namespace {

struct Named {
  std::string_view name;
  DType dtype;
};

// torch/storage.py, _dtype_to_storage_type_map.
constexpr Named kStorages[] = {
    {"BFloat16Storage", DType::kBF16},    {"FloatStorage", DType::kF32},
    {"HalfStorage", DType::kF16},         {"DoubleStorage", DType::kF64},
    {"ByteStorage", DType::kU8},          {"CharStorage", DType::kI8},
    {"ShortStorage", DType::kI16},        {"IntStorage", DType::kI32},
    {"LongStorage", DType::kI64},         {"BoolStorage", DType::kBool},
    {"ComplexFloatStorage", DType::kC64},
};

constexpr Named kDTypes[] = {
    {"bfloat16", DType::kBF16},
    {"float32", DType::kF32},
    {"float16", DType::kF16},
    {"float64", DType::kF64},
    {"uint8", DType::kU8},
    {"int8", DType::kI8},
    {"uint16", DType::kU16},
    {"int16", DType::kI16},
    {"uint32", DType::kU32},
    {"int32", DType::kI32},
    {"uint64", DType::kU64},
    {"int64", DType::kI64},
    {"bool", DType::kBool},
    {"complex64", DType::kC64},
    {"float8_e4m3fn", DType::kF8E4M3},
    {"float8_e4m3fnuz", DType::kF8E4M3Fnuz},
    {"float8_e5m2", DType::kF8E5M2},
    {"float8_e5m2fnuz", DType::kF8E5M2Fnuz},
    {"float8_e8m0fnu", DType::kF8E8M0},
};

std::optional<DType> Look(std::span<const Named> table, std::string_view name) {
  for (const Named& row : table) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

std::string_view WithoutTorch(std::string_view global) {
  constexpr std::string_view kTorch = "torch.";
  return global.starts_with(kTorch) ? global.substr(kTorch.size()) : std::string_view();
}

std::string_view WithoutDevice(std::string_view name) {
  constexpr std::string_view kCuda = "cuda.";
  return name.starts_with(kCuda) ? name.substr(kCuda.size()) : name;
}

}  // namespace

std::optional<DType> DTypeOfTorchStorage(std::string_view global) {
  return Look(kStorages, WithoutDevice(WithoutTorch(global)));
}

bool IsUntypedTorchStorage(std::string_view global) {
  return global == "torch.storage.UntypedStorage" ||
         WithoutDevice(WithoutTorch(global)) == "UntypedStorage";
}

std::optional<DType> DTypeOfTorchDType(std::string_view global) {
  return Look(kDTypes, WithoutTorch(global));
}

}  // namespace weighbridge
