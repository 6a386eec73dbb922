// The ways in which checkpoints store quantized weights: which tensors belong together, by the
// endings of their names and their dtypes. One table; FORMAT.md says who writes which.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string_view>

#include "formats/quantized/config.h"
#include "tensor/quantized.h"

namespace weighbridge {

struct QuantizationScheme {
  std::string_view name;  // one of QuantizationNames()
  // The codes' name ends so. In its place the other names have, each, another ending: the values
  // (which families name), the weight where it is stored plain, the scales (one of two spellings),
  // the scale of the scales.
  std::string_view codes, values, plain;
  std::array<std::string_view, 2> scales;
  std::string_view global_scale;
  bool global_divides = false;
  DType stored = DType::kF8E4M3;  // the codes' dtype in the file
  int64_t codes_each = 1;         // in one element of it
  CodeFormat format = CodeFormat::kF8E4M3;
  std::span<const DType> scale_dtypes;
  int64_t group = 0;  // columns that share a scale; 0: as the shapes say
  // The codes have an axis more than the values: [..., groups, bytes of a group].
  bool split_groups = false;
};

// The first that fits a tensor counts.
std::span<const QuantizationScheme> QuantizationSchemes();

// The values' shape of codes of shape `codes`; nullopt where it cannot be.
std::optional<Shape> ValueShape(const QuantizationScheme& scheme, const Shape& codes);

// How scales of shape `scales` lie over values of shape `values`; nullopt where they do not fit, or
// lie otherwise than `layout` says. One scale counts for all; a list of as many as rows for a row
// each; else there are as many axes as the values have, the last two a grid of blocks: of those of
// `layout`, of the scheme's group, of 128 with smaller ones at the edge, or of the exact quotient
// of the extents.
std::optional<ScaleGrid> ResolveGrid(const QuantizationScheme& scheme, const Shape& values,
                                     const Shape& scales, const ScaleLayout& layout);

// Of a grid that was found without a layout: whether the size of its blocks was taken from 128 or a
// quotient, and whether both were possible and differ.
bool IsGuessed(const ScaleGrid& grid, const Shape& values);
bool IsAmbiguous(const ScaleGrid& grid, const Shape& values);

}  // namespace weighbridge
