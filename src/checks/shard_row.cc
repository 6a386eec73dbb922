#include "checks/shard_row.h"

#include <fmt/format.h>

#include "checks/scales.h"
#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

std::string ElementText(DType dtype, const std::byte* element) {
  return FormatBits(dtype, RawBits(dtype, element, 0));
}

const QuantizedTensor* FirstQuantized(const ShardPlan& plan) {
  for (size_t i = 0; i < plan.sources().size(); ++i) {
    if (const QuantizedTensor* q = plan.Quantized(i)) return q;
  }
  return nullptr;
}

}  // namespace

RankId RankOf(const PlacedParameter& placed, int group_rank) {
  const bool expert = placed.parameter->is_expert();
  return {expert ? 0 : group_rank, placed.pp, placed.vpp, placed.ep, expert ? group_rank : 0};
}

ResultRow ShardRow(const ShardPlan& plan, const RankId& rank, const std::string& name) {
  ResultRow row;
  for (const TensorInfo* source : plan.sources()) {
    row.hf.push_back({source->name, source->shape, source->dtype});
  }
  row.megatron = {name, plan.local_shape(), plan.megatron_dtype()};
  row.rank = rank;
  row.transform = plan.parameter().storage->transform;
  row.op =
      OpText(FirstQuantized(plan), plan.parameter().op, plan.hf_dtype(), plan.megatron_dtype());
  return row;
}

void TakeDifference(const ShardPlan& plan, const ShardPlan::Difference& difference,
                    std::span<const std::byte> element, ResultRow& row) {
  row.metrics.mismatched = difference.mismatched;
  if (difference.mismatched == 0) return;
  row.status = RowStatus::kMismatch;
  row.why = fmt::format("{} element(s) differ", difference.mismatched);
  std::byte expected[8] = {};
  plan.HfElement(difference.source, difference.hf_element, expected);
  row.first = FirstDifference{plan.sources()[difference.source]->name,
                              plan.HfIndex(difference.source, difference.hf_element),
                              row.megatron.name,
                              row.rank,
                              plan.LocalIndex(difference.local_element),
                              ElementText(plan.hf_dtype(), expected),
                              ElementText(plan.megatron_dtype(), element.data())};
}

std::optional<Cause> JudgeCast(const Parameter& p, DType hf, const CastRule& rule, ResultRow& row) {
  const DType dtype = row.megatron.dtype.value();
  if (InvertibilityOf(Op::kNone, hf, dtype) == Invertibility::kExact) {
    row.status = RowStatus::kMatchWidened;
    return std::nullopt;
  }
  row.why = fmt::format("narrowed from {} to {}{}", ShortName(hf), ShortName(dtype),
                        rule.headers_only ? "" : "; every value is correctly rounded");
  if (p.rule->dtype == dtype || rule.expect_dtype == dtype) {
    row.status = RowStatus::kMatchRounded;
    return std::nullopt;
  }
  row.status = RowStatus::kMismatch;
  return Cause{"dtype-rounded",
               rule.headers_only ? Proof::kStructural : Proof::kExact,
               Origin::kCheckpoint,
               {row.megatron.name},
               row.why,
               row.megatron.name,
               fmt::format("pass --expect-dtype {} if that was meant", ShortName(dtype))};
}

std::string PaddingText(const std::string& name, int64_t elements) {
  return fmt::format("{}: {} element(s) of the padded vocabulary are not zero", name, elements);
}

Cause PaddingCause(const std::string& name, int64_t elements) {
  return {"vocab-padding",
          Proof::kExact,
          Origin::kCheckpoint,
          {name},
          PaddingText(name, elements),
          name,
          "leave --strict-padding out if the rows are never used"};
}

}  // namespace weighbridge
