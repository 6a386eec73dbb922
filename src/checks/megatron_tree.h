// A Megatron model in memory as its ranks hold it: every tensor of every rank of a grid, under its
// name in the rank's modules. For tests, for small models, and for callers that have live ranks;
// `roundtrip` streams instead.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "checks/result.h"
#include "family/model.h"
#include "family/shards.h"
#include "formats/checkpoint.h"

namespace weighbridge {

struct MegatronTensor {
  RankId rank;  // dense tensors have ep = etp = 0, expert tensors tp = 0
  std::string name;
  const Parameter* parameter = nullptr;
  DType dtype = DType::kF32;
  Shape shape;  // the rank's
  std::vector<std::byte> bytes;
};

struct MegatronTree {
  std::vector<MegatronTensor> tensors;
};

// What a faultless import gives every rank, replicas and copies included. The same errors as
// ShardPlan::Create; kCorrupt when the inventory of `hf` is not complete.
Result<MegatronTree> ImportTree(const Model& model, const Placement& placement,
                                const Checkpoint& hf, Dialect dialect);

// Judges a tree that anyone may have made against the HF checkpoint: one row per rank's tensor,
// each mismatch with tensor, rank and the coordinates of the first difference on both sides. A
// tensor that is not there, has another shape or dtype, or is not asked for is a row too. The
// report is concluded.
Result<Report> VerifyTree(const Model& model, const Placement& placement, const Checkpoint& hf,
                          const MegatronTree& tree, Dialect dialect);

}  // namespace weighbridge
