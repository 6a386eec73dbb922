// The HF tensor as it is, but for its axes.
#include <fmt/format.h>

#include <utility>

#include "mapping/transforms/transform.h"

namespace weighbridge {

// squeeze: HF has a leading axis of extent 1 that Megatron has not ([1, E] -> [E]). transposed: HF
// has [in, out] where Megatron has [out, in].
Result<TransformPlan> PlanIdentity(const TransformRequest& request) {
  Shape hf = request.megatron_shape;
  if (request.flag("transposed")) {
    if (hf.size() != 2 || request.flag("squeeze")) {
      return Fail(ErrorKind::kInvalid, "shape",
                  fmt::format("identity, transposed: {} is no matrix", ToString(hf)));
    }
    std::swap(hf[0], hf[1]);
    return TransformPlan{{{hf, 0, Numel(hf)}}, Layout::Source(0, hf).Permute({1, 0})};
  }
  if (request.flag("squeeze")) hf.insert(hf.begin(), 1);
  const int64_t n = Numel(hf);
  return TransformPlan{{{hf, 0, n}}, Layout::Source(0, request.megatron_shape)};
}

}  // namespace weighbridge
