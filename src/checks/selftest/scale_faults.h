// Faults of quantized weights (docs/causes.md): a Hugging Face side that stores codes and scales,
// and a Megatron side whose values were made with the scales ignored, turned around or misplaced,
// or with the codes read in another order.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "checks/selftest/held_tensor.h"

namespace weighbridge {

// A matrix stored as codes, one byte of this struct each, with a scale for each block.
struct CodedMatrix {
  std::string name;  // "model.layers.0.mlp.up_proj.weight"
  int64_t rows = 0, columns = 0;
  std::array<int64_t, 2> block = {};  // rows, columns; the last ones may be smaller
  std::vector<uint8_t> codes;         // row-major
  std::vector<float> scales;          // row-major over the blocks

  int64_t block_columns() const { return (columns + block[1] - 1) / block[1]; }
  int64_t BlockOf(int64_t row, int64_t column) const {
    return row / block[0] * block_columns() + column / block[1];
  }
};

enum class CodeScheme : uint8_t {
  kFp8Blocks,  // quant_method fp8, blocks of weight_block_size
  kInt4,       // compressed-tensors pack-quantized, eight codes in an int32, groups of columns
};

// The values of every coded matrix, bf16 as the scheme's formula gives them.
using CodedValues = std::vector<HeldTensor>;

class CodedModel {
 public:
  // Writes the model of `source` (safetensors, config.json) into `folder` with the bf16 matrices of
  // its layers' projections as random codes and scales; nullopt where it has none.
  static std::optional<CodedModel> Write(CodeScheme scheme, const std::filesystem::path& source,
                                         const std::filesystem::path& folder, Random& random);

  CodedValues Values() const;
  // The same model with plain weights of these values, into `folder`.
  void WritePlain(const CodedValues& values, const std::filesystem::path& folder) const;

  // The causes that the scheme can show; sorted, as those of all schemes are.
  std::vector<std::string_view> Causes() const;
  static std::vector<std::string_view> AllCauses();
  // Changes `values` of one matrix, or of all of its kind. What was done; nullopt: it has no place,
  // or changes nothing.
  std::optional<std::string> Inject(std::string_view cause, CodedValues& values,
                                    Random& random) const;

 private:
  HeldTensor ValuesOf(const CodedMatrix& matrix) const;
  std::optional<HeldTensor> WrongValues(std::string_view cause, size_t matrix, int64_t way) const;
  double Meaning(uint8_t code) const;

  CodeScheme scheme_ = CodeScheme::kFp8Blocks;
  std::filesystem::path source_;
  std::vector<CodedMatrix> matrices_;
};

}  // namespace weighbridge
