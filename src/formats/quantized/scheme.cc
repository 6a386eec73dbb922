#include "formats/quantized/scheme.h"

#include <algorithm>

#include "base/checked.h"

namespace weighbridge {
namespace {

constexpr std::array kFloats = {DType::kF32, DType::kBF16, DType::kF16};
constexpr std::array kExponents = {DType::kU8, DType::kF8E8M0};
constexpr std::array kAnyScale = {DType::kF32, DType::kBF16, DType::kF16, DType::kU8,
                                  DType::kF8E8M0};
constexpr std::array kSmallFloats = {DType::kF8E4M3};

constexpr int64_t kUsualBlock = 128;

constexpr std::array kSchemes = {
    QuantizationScheme{.name = "mxfp4",
                       .codes = "_blocks",
                       .values = "_blocks",
                       .plain = "",
                       .scales = {"_scales"},
                       .stored = DType::kU8,
                       .codes_each = 2,
                       .format = CodeFormat::kF4E2M1,
                       .scale_dtypes = kExponents,
                       .group = 32,
                       .split_groups = true},
    QuantizationScheme{.name = "nvfp4",
                       .codes = ".weight_packed",
                       .values = ".weight",
                       .plain = ".weight",
                       .scales = {".weight_scale"},
                       .global_scale = ".weight_global_scale",
                       .global_divides = true,
                       .stored = DType::kU8,
                       .codes_each = 2,
                       .format = CodeFormat::kF4E2M1,
                       .scale_dtypes = kSmallFloats,
                       .group = 16},
    QuantizationScheme{.name = "mxfp4",
                       .codes = ".weight_packed",
                       .values = ".weight",
                       .plain = ".weight",
                       .scales = {".weight_scale"},
                       .stored = DType::kU8,
                       .codes_each = 2,
                       .format = CodeFormat::kF4E2M1,
                       .scale_dtypes = kExponents,
                       .group = 32},
    QuantizationScheme{.name = "int4",
                       .codes = ".weight_packed",
                       .values = ".weight",
                       .plain = ".weight",
                       .scales = {".weight_scale"},
                       .stored = DType::kI32,
                       .codes_each = 8,
                       .format = CodeFormat::kInt4Offset,
                       .scale_dtypes = kFloats},
    QuantizationScheme{.name = "nvfp4",
                       .codes = ".weight",
                       .values = ".weight",
                       .plain = ".weight",
                       .scales = {".weight_scale"},
                       .global_scale = ".weight_scale_2",
                       .stored = DType::kU8,
                       .codes_each = 2,
                       .format = CodeFormat::kF4E2M1OneZero,
                       .scale_dtypes = kSmallFloats,
                       .group = 16},
    QuantizationScheme{.name = "mxfp4",
                       .codes = ".weight",
                       .values = ".weight",
                       .plain = ".weight",
                       .scales = {".scale"},
                       .stored = DType::kI8,
                       .codes_each = 2,
                       .format = CodeFormat::kF4E2M1,
                       .scale_dtypes = kExponents,
                       .group = 32},
    QuantizationScheme{.name = "fp8",
                       .scales = {"_scale_inv", "_scale"},
                       .stored = DType::kF8E4M3,
                       .format = CodeFormat::kF8E4M3,
                       .scale_dtypes = kAnyScale},
    QuantizationScheme{.name = "fp8",
                       .codes = ".weight",
                       .values = ".weight",
                       .plain = ".weight",
                       .scales = {".scale"},
                       .stored = DType::kF8E4M3,
                       .format = CodeFormat::kF8E4M3,
                       .scale_dtypes = kAnyScale},
    QuantizationScheme{.name = "fp8",
                       .scales = {"_scale_inv", "_scale"},
                       .stored = DType::kF8E5M2,
                       .format = CodeFormat::kF8E5M2,
                       .scale_dtypes = kAnyScale},
    QuantizationScheme{.name = "int8",
                       .scales = {"_scale"},
                       .stored = DType::kI8,
                       .format = CodeFormat::kI8,
                       .scale_dtypes = kFloats},
};

int64_t Blocks(int64_t extent, int64_t block) { return (extent + block - 1) / block; }

// The extent of a block of an axis that has `extent` elements and `blocks` scales.
std::optional<int64_t> BlockExtent(int64_t extent, int64_t blocks, std::optional<int64_t> asked) {
  if (asked) return Blocks(extent, *asked) == blocks ? asked : std::nullopt;
  // 192 rows in two blocks are 128 and 64, not twice 96.
  if (Blocks(extent, kUsualBlock) == blocks) return std::min(extent, kUsualBlock);
  if (blocks >= 1 && extent % blocks == 0) return extent / blocks;
  return std::nullopt;
}

std::optional<ScaleGrid> GridOfBlocks(int64_t rows, int64_t columns, int64_t scale_rows,
                                      int64_t scale_columns,
                                      const std::optional<std::array<int64_t, 2>>& block) {
  const auto asked = [&](size_t axis) {
    return block ? std::optional((*block)[axis]) : std::nullopt;
  };
  const auto block_rows = BlockExtent(rows, scale_rows, asked(0));
  const auto block_columns = BlockExtent(columns, scale_columns, asked(1));
  if (!block_rows || !block_columns) return std::nullopt;
  return ScaleGrid{*block_rows, *block_columns, scale_rows, scale_columns, false};
}

// The size of blocks that a layout and a scheme ask for; nullopt where they contradict each other.
std::optional<std::optional<std::array<int64_t, 2>>> AskedBlock(const QuantizationScheme& scheme,
                                                                const ScaleLayout& layout,
                                                                int64_t rows, int64_t columns) {
  using Block = std::array<int64_t, 2>;
  using Kind = ScaleLayout::Kind;
  std::optional<Block> said;
  if (layout.kind == Kind::kBlocks) said = layout.block;
  if (layout.kind == Kind::kChannel) said = Block{1, columns};
  if (layout.kind == Kind::kTensor) said = Block{rows, columns};
  if (scheme.group == 0) return said;
  const Block own = {1, scheme.group};
  if (said && *said != own) return std::nullopt;
  return std::optional(own);
}

int64_t RowsOf(const Shape& values) { return values.size() < 2 ? 1 : values[values.size() - 2]; }
int64_t ColumnsOf(const Shape& values) { return values.empty() ? 1 : values.back(); }

bool IsGuessedAxis(int64_t extent, int64_t blocks) { return blocks > 1 && blocks < extent; }
bool IsAmbiguousAxis(int64_t extent, int64_t blocks, int64_t taken) {
  return IsGuessedAxis(extent, blocks) && extent % blocks == 0 && extent / blocks != taken;
}

}  // namespace

std::span<const QuantizationScheme> QuantizationSchemes() { return kSchemes; }

std::optional<Shape> ValueShape(const QuantizationScheme& scheme, const Shape& codes) {
  Shape shape = codes;
  if (scheme.split_groups) {
    if (shape.size() < 3) return std::nullopt;
    const int64_t bytes = shape.back();
    shape.pop_back();
    if (bytes * scheme.codes_each != scheme.group) return std::nullopt;
    if (__builtin_mul_overflow(shape.back(), bytes, &shape.back())) return std::nullopt;
  }
  if (shape.empty()) {
    if (scheme.codes_each > 1) return std::nullopt;
    return shape;
  }
  if (__builtin_mul_overflow(shape.back(), scheme.codes_each, &shape.back())) return std::nullopt;
  const auto numel = CheckedNumel(shape);
  if (!numel || *numel == 0) return std::nullopt;
  return shape;
}

std::optional<ScaleGrid> ResolveGrid(const QuantizationScheme& scheme, const Shape& values,
                                     const Shape& scales, const ScaleLayout& layout) {
  using Kind = ScaleLayout::Kind;
  const auto count = CheckedNumel(scales);
  if (!count || *count == 0) return std::nullopt;
  const size_t rank = values.size();
  const int64_t rows = RowsOf(values), columns = ColumnsOf(values);
  const auto asked = AskedBlock(scheme, layout, rows, columns);
  if (!asked) return std::nullopt;
  const bool said = layout.kind != Kind::kUnsaid;
  if (*count == 1 && scheme.group == 0 && (!said || layout.kind == Kind::kTensor)) {
    return ScaleGrid{rows, columns, 1, 1, true};
  }
  const bool a_row_each = rank == 2 && scales.size() == 1 && scales[0] == rows;
  if (a_row_each && scheme.group == 0 && (!said || layout.kind == Kind::kChannel)) {
    return ScaleGrid{1, columns, rows, 1, false};
  }
  if (rank < 2 || scales.size() != rank) return std::nullopt;
  if (!std::equal(values.begin(), values.end() - 2, scales.begin())) return std::nullopt;
  return GridOfBlocks(rows, columns, scales[rank - 2], scales[rank - 1], *asked);
}

bool IsGuessed(const ScaleGrid& grid, const Shape& values) {
  return !grid.shared && (IsGuessedAxis(RowsOf(values), grid.rows) ||
                          IsGuessedAxis(ColumnsOf(values), grid.columns));
}

bool IsAmbiguous(const ScaleGrid& grid, const Shape& values) {
  return !grid.shared && (IsAmbiguousAxis(RowsOf(values), grid.rows, grid.block_rows) ||
                          IsAmbiguousAxis(ColumnsOf(values), grid.columns, grid.block_columns));
}

}  // namespace weighbridge
