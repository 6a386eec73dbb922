// Reading the fixtures of tests/testdata/torch.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "formats/pickle_json.h"
#include "formats/torch_file/contiguous.h"
#include "formats/torch_file/torch_file.h"
#include "support/temp_dir.h"

namespace weighbridge::testing {

inline std::filesystem::path TorchData(const std::string& name) {
  return std::filesystem::path(WEIGHBRIDGE_SOURCE_DIR) / "tests/testdata/torch" / name;
}

inline nlohmann::json ReadExpected(const std::filesystem::path& path) {
  std::ifstream in(path);
  EXPECT_TRUE(in.good()) << path;
  return nlohmann::json::parse(in, nullptr, false);
}

// An exact heap copy of a file, so that AddressSanitizer sees every read past the end.
class ExactBytes {
 public:
  explicit ExactBytes(const std::string& bytes) : bytes_(bytes.begin(), bytes.end()) {}
  std::span<const std::byte> span() const { return std::as_bytes(std::span(bytes_)); }

 private:
  std::vector<char> bytes_;
};

inline std::string HexOf(const TorchTensor& tensor, std::span<const std::byte> file) {
  const auto bytes = CopyContiguous(tensor, file);
  return Hex({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

// What torch calls a dtype of ours.
inline std::string TorchName(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return "bool";
    case DType::kU8:
      return "uint8";
    case DType::kI8:
      return "int8";
    case DType::kF8E5M2:
      return "float8_e5m2";
    case DType::kF8E4M3:
      return "float8_e4m3fn";
    case DType::kF8E8M0:
      return "float8_e8m0fnu";
    case DType::kF8E4M3Fnuz:
      return "float8_e4m3fnuz";
    case DType::kF8E5M2Fnuz:
      return "float8_e5m2fnuz";
    case DType::kI16:
      return "int16";
    case DType::kU16:
      return "uint16";
    case DType::kF16:
      return "float16";
    case DType::kBF16:
      return "bfloat16";
    case DType::kI32:
      return "int32";
    case DType::kU32:
      return "uint32";
    case DType::kF32:
      return "float32";
    case DType::kC64:
      return "complex64";
    case DType::kF64:
      return "float64";
    case DType::kI64:
      return "int64";
    case DType::kU64:
      return "uint64";
    default:
      return "none of torch";
  }
}

// The tensor as tools/make_torch_fixtures.py describes one.
inline nlohmann::json DescribeTensor(const TorchTensor& tensor, std::span<const std::byte> file) {
  return {{"dtype", TorchName(tensor.dtype)},
          {"shape", tensor.shape},
          {"strides", tensor.strides},
          {"contiguous", tensor.contiguous},
          {"hex", HexOf(tensor, file)}};
}

}  // namespace weighbridge::testing
