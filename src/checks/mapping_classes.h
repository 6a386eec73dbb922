// Which of our transforms the mapping classes of Megatron Bridge are. Source: megatron-bridge
// 0.6.2, models/conversion/param_mapping.py and the families' own classes.
#pragma once

#include <span>
#include <string_view>

#include "mapping/ops.h"

namespace weighbridge {

enum class MappingCut { kAny, kColumn, kRow, kReplicated };

struct MappingClass {
  std::string_view name;
  std::span<const std::string_view> transforms;  // of mapping/transforms that it does
  std::span<const std::string_view> roles;       // in the order of the transform's sources
  MappingCut cut = MappingCut::kAny;             // what it does to tensors of parallel ranks
  Op op = Op::kNone;
  // Takes a matrix for its transpose by its shape alone: a square one is not told apart.
  bool guesses_transpose = false;
};

// nullptr: not known.
const MappingClass* FindMappingClass(std::string_view name);

}  // namespace weighbridge
