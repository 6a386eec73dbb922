// What the rows of a Megatron parameter are: query groups and their parts, gate and up, packed
// components. The wrong layouts that people make are rearrangements of these.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "family/model.h"

namespace weighbridge {

enum class RowKind {
  kPlain,     // one part
  kQkv,       // per query group: query heads, key head, value head (a gate, as the family has)
  kMlaQuery,  // per head: what is not rotated, what is
  kMlaUp,     // per head: key, value
  kLatent,    // the compressed keys and values, then the rotary part
  kGated,     // gate, up
  kPacked,    // components of other sizes
};

struct RowPart {
  std::string name;
  int64_t rows = 0;   // in one group
  int64_t heads = 1;  // in one group, of rows / heads each
  int64_t rope = 0;   // how many of a head's rows, from its first on, are rotated; 0: none
};

// `groups` times the parts, one after another. The parts' rows add up to the parameter's.
struct RowStructure {
  RowKind kind = RowKind::kPlain;
  int64_t groups = 1;
  std::vector<RowPart> parts;

  int64_t group_rows() const;
};

// Of the whole (global) parameter, on Megatron's side.
RowStructure MegatronRows(const Model& model, const Parameter& p);
// Of HF tensor `source` of the parameter: the heads of a projection.
RowStructure HfRows(const Model& model, const Parameter& p, size_t source, const Shape& shape);

}  // namespace weighbridge
