// Where a rank stands among those that hold a pipeline stage, as Megatron-Core's modules see it.
#pragma once

#include "engine/parallel/group.h"

namespace weighbridge::engine {

// Of one process: groups of one.
struct Place {
  Group tp;   // cut the matrices and heads of everything but experts
  Group ep;   // hold different experts
  Group etp;  // cut the matrices of an expert
  // Between the cut modules a tensor-parallel rank holds a part of the sequence.
  bool sequence_parallel = false;
};

}  // namespace weighbridge::engine
