// Rows of what ranks hold: one mechanism for a tree in memory, for the ranks that a Megatron
// checkpoint would give, and for those of a round trip.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "checks/result.h"
#include "checks/shard_plan.h"
#include "family/shards.h"

namespace weighbridge {

// The rank whose group position is `group_rank`: dense tensors have ep = etp = 0, expert tensors
// tp = 0.
RankId RankOf(const PlacedParameter& placed, int group_rank);

// A row that says what it is about and nothing of the outcome.
ResultRow ShardRow(const ShardPlan& plan, const RankId& rank, const std::string& name);

// Marks `row` as a mismatch when `difference` has one. `element`: the bytes of the rank's element
// difference.local_element.
void TakeDifference(const ShardPlan& plan, const ShardPlan::Difference& difference,
                    std::span<const std::byte> element, ResultRow& row);

struct CastRule {
  bool headers_only = false;
  std::optional<DType> expect_dtype;  // a narrowing to this dtype is asked for
};

// The rule of verification for equal values in another dtype: widened is a match, narrowed is a
// fault (the cause is returned) unless the family or `rule` asks for it. `row.megatron` is set.
std::optional<Cause> JudgeCast(const Parameter& p, DType hf, const CastRule& rule, ResultRow& row);

// Elements of the padded vocabulary that are not zero: a note, with `strict` a fault.
std::string PaddingText(const std::string& name, int64_t elements);
Cause PaddingCause(const std::string& name, int64_t elements);

}  // namespace weighbridge
