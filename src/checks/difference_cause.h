// Why two tensors of one shape differ, as far as their own values tell (checks/diff.h lists the
// rules). Deeper hypotheses, about layouts and other tensors, are not tried here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "checks/result.h"
#include "tensor/compare.h"

namespace weighbridge {

// One or two bits, or bits of one byte: what a fault of storage or transfer flips in a value.
bool FewBits(uint64_t flipped);

struct DifferenceCause {
  std::string id;
  Proof proof = Proof::kExact;
  std::string message, evidence, hint;
};

// `stats` is the bitwise or tolerant comparison of the two, with at least one mismatch. nullopt: no
// rule fits. Reads the tensors again only as far as a rule still holds.
std::optional<DifferenceCause> ExplainDifference(const TensorView& expected,
                                                 const TensorView& actual,
                                                 const ElementStats& stats, Tolerance tolerance,
                                                 int threads);

}  // namespace weighbridge
