// The HF tensor as it is.
#include "mapping/transforms/transform.h"

namespace weighbridge {

// squeeze: HF has a leading axis of extent 1 that Megatron has not ([1, E] -> [E]).
Result<TransformPlan> PlanIdentity(const TransformRequest& request) {
  Shape hf = request.megatron_shape;
  if (request.flag("squeeze")) hf.insert(hf.begin(), 1);
  const int64_t n = Numel(hf);
  return TransformPlan{{{hf, 0, n}}, Layout::Source(0, request.megatron_shape)};
}

}  // namespace weighbridge
