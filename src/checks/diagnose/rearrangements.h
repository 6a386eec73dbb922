// The wrong layouts that converters are known to make of a tensor (docs/causes.md, "Layout"), each
// as a rearrangement of the right one: which of its elements stands where. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "checks/diagnose/row_structure.h"
#include "mapping/layout.h"
#include "mapping/sharding.h"
#include "tensor/tensor.h"

namespace weighbridge {

struct Rearrangement {
  std::string_view cause;
  std::string what;  // "query, value, key in each group"
  // Target: the tensor as it is wrong; source 0: as it is right. They tile the target.
  std::vector<StridedPiece> pieces;
};

// What the search may assume of a tensor.
struct TensorForm {
  Shape shape;
  RowStructure rows;
  TensorCut cut;              // how ranks hold it
  bool convolution = false;   // more than two axes, or the kernel of one
  bool vocabulary = false;    // rows are tokens
  bool expert_rows = false;   // rows are experts
  std::vector<int> tp_sizes;  // of ranks, the likely ones first
};

// Those that change anything, the plainest first. Of a small tensor several may be equal.
std::vector<Rearrangement> KnownRearrangements(const TensorForm& form);

// The cut of `axis` into equal shards, one of packed parts each on its own, with shard i in place
// of order[i].
std::vector<StridedPiece> ShardsInOrder(const Shape& shape, const TensorCut& cut,
                                        const std::vector<int>& order);
// Rows moved by `shift` (down where positive); rows that come from nowhere are wrapped.
std::vector<StridedPiece> RowsShifted(const Shape& shape, int64_t shift);
// Blocks of `rows` rows: block i of the target is block order[i].
std::vector<StridedPiece> BlocksInOrder(const Shape& shape, int64_t rows,
                                        const std::vector<int64_t>& order);

// Which element of the source stands at an element of the target; of one Rearrangement's pieces.
class PointMap {
 public:
  explicit PointMap(std::vector<StridedPiece> pieces);
  int64_t operator()(int64_t target) const;  // -1: none
  const std::vector<StridedPiece>& pieces() const { return pieces_; }

 private:
  std::vector<StridedPiece> pieces_;  // by target_offset
};

}  // namespace weighbridge
