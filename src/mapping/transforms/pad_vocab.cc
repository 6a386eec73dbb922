// Embedding and output layer: HF has `vocab` rows, Megatron padded_vocab, zeros at the end.
#include <fmt/format.h>

#include "mapping/transforms/transform.h"

namespace weighbridge {

Result<TransformPlan> PlanPadVocab(const TransformRequest& request) {
  const Shape& shape = request.megatron_shape;
  if (shape.empty() || request.vocab > shape[0]) {
    return Fail(
        ErrorKind::kInvalid, "shape",
        fmt::format("pad_vocab: {} rows do not fit into {}", request.vocab, ToString(shape)));
  }
  Shape hf = shape;
  hf[0] = request.vocab;
  Layout layout = Layout::Source(0, hf);
  if (shape[0] > request.vocab) {
    Shape pad = shape;
    pad[0] = shape[0] - request.vocab;
    layout = Layout::Concat(0, {std::move(layout), Layout::Zeros(pad)});
  }
  return TransformPlan{{{hf, 0, Numel(hf)}}, std::move(layout)};
}

}  // namespace weighbridge
