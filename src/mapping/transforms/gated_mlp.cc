// linear_fc1 of a gated MLP: gate [F, K], up [F, K] -> [2F, K], gate first (biases: [F] each).
// How ranks hold it ([gate_i; up_i]) is the cut's business: the family declares two components.
#include <fmt/format.h>

#include "mapping/transforms/transform.h"

namespace weighbridge {

Result<TransformPlan> PlanGatedMlp(const TransformRequest& request) {
  Shape half = request.megatron_shape;
  if (half.empty() || half[0] % 2 != 0) {
    return Fail(ErrorKind::kInvalid, "shape",
                fmt::format("gated_mlp: {} has no two halves", ToString(half)));
  }
  half[0] /= 2;
  const int64_t n = Numel(half);
  return TransformPlan{{{half, 0, n}, {half, 0, n}},
                       Layout::Concat(0, {Layout::Source(0, half), Layout::Source(1, half)})};
}

}  // namespace weighbridge
