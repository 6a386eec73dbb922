// One expert out of a tensor that holds all of them, [E, ...]. The orientation is the family's word
// (`transposed`), never a guess by shape: a square matrix fits both ways.
#include <fmt/format.h>

#include "mapping/transforms/transform.h"

namespace weighbridge {
namespace {

struct Slice {
  TransformSource source;
  int64_t begin = 0;
};

Slice SliceOf(const TransformRequest& request, const Shape& one) {
  Shape all = one;
  all.insert(all.begin(), request.experts);
  const int64_t n = Numel(one);
  return {{all, request.expert * n, n}, request.expert * n};
}

Status RequireRank(const TransformRequest& request, const char* name) {
  const size_t rank = request.megatron_shape.size();
  if (rank == 2 || (rank == 1 && !request.flag("transposed"))) return {};
  return Fail(
      ErrorKind::kInvalid, "shape",
      fmt::format("{}: {} is neither a matrix nor a bias", name, ToString(request.megatron_shape)));
}

}  // namespace

// [E, out, in] or, transposed, [E, in, out] -> [out, in]; biases [E, out] -> [out].
Result<TransformPlan> PlanExpert(const TransformRequest& request) {
  WB_RETURN_IF_ERROR(RequireRank(request, "expert"));
  Shape one = request.megatron_shape;
  if (!request.flag("transposed")) {
    const Slice slice = SliceOf(request, one);
    return TransformPlan{{slice.source}, Layout::SourcePart(0, slice.begin, one)};
  }
  std::swap(one[0], one[1]);
  const Slice slice = SliceOf(request, one);
  return TransformPlan{{slice.source}, Layout::SourcePart(0, slice.begin, one).Permute({1, 0})};
}

// [E, 2F, K] or, transposed, [E, K, 2F] -> [2F, K] with gate first. interleaved: HF alternates gate
// and up along its 2F axis (gpt-oss) instead of putting them in halves.
Result<TransformPlan> PlanExpertGatedMlp(const TransformRequest& request) {
  WB_RETURN_IF_ERROR(RequireRank(request, "expert_gated_mlp"));
  const Shape& target = request.megatron_shape;
  if (target[0] % 2 != 0) {
    return Fail(ErrorKind::kInvalid, "shape",
                fmt::format("expert_gated_mlp: {} has no two halves", ToString(target)));
  }
  Shape one = target;
  if (request.flag("transposed")) std::swap(one[0], one[1]);
  const Slice slice = SliceOf(request, one);
  Layout rows = Layout::SourcePart(0, slice.begin, one);
  if (request.flag("transposed")) rows = rows.Permute({1, 0});
  if (request.flag("interleaved")) {
    rows = Layout::Concat(0, {rows.Every(0, 2, 0), rows.Every(0, 2, 1)});
  }
  return TransformPlan{{slice.source}, std::move(rows)};
}

// gate [E, F, K] and up [E, F, K], each a tensor of its own -> [2F, K] with gate first.
Result<TransformPlan> PlanExpertGateUp(const TransformRequest& request) {
  WB_RETURN_IF_ERROR(RequireRank(request, "expert_gate_up"));
  Shape half = request.megatron_shape;
  if (half[0] % 2 != 0) {
    return Fail(ErrorKind::kInvalid, "shape",
                fmt::format("expert_gate_up: {} has no two halves", ToString(half)));
  }
  half[0] /= 2;
  const Slice slice = SliceOf(request, half);
  return TransformPlan{{slice.source, slice.source},
                       Layout::Concat(0, {Layout::SourcePart(0, slice.begin, half),
                                          Layout::SourcePart(1, slice.begin, half)})};
}

}  // namespace weighbridge
