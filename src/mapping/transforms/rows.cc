// Parts of an HF tensor, and its parts in another order.
#include <fmt/format.h>

#include "mapping/transforms/transform.h"

namespace weighbridge {

// Rows [begin, begin + n) of an HF tensor of `of` rows, n being Megatron's: several parameters that
// HF keeps in one tensor. squeeze: one row, which is a tensor without that axis in Megatron.
Result<TransformPlan> PlanRows(const TransformRequest& request) {
  WB_TRY(const int64_t begin, request.dim("begin"));
  WB_TRY(const int64_t of, request.dim("of"));
  Shape shape = request.megatron_shape;
  if (request.flag("squeeze")) shape.insert(shape.begin(), 1);
  if (shape.empty() || begin < 0 || of < shape[0] || begin > of - shape[0]) {
    return Fail(ErrorKind::kInvalid, "shape",
                fmt::format("rows: {} does not fit into {} rows from row {} on", ToString(shape),
                            of, begin));
  }
  Shape hf = shape;
  hf[0] = of;
  const int64_t n = Numel(shape), first = begin * (n / shape[0]);
  return TransformPlan{{{hf, first, n}}, Layout::SourcePart(0, first, request.megatron_shape)};
}

// Columns [begin, begin + n) of an HF matrix of `of` columns, n being Megatron's.
Result<TransformPlan> PlanColumns(const TransformRequest& request) {
  WB_TRY(const int64_t begin, request.dim("begin"));
  WB_TRY(const int64_t of, request.dim("of"));
  const Shape& shape = request.megatron_shape;
  if (shape.size() != 2 || begin < 0 || of < shape[1] || begin > of - shape[1]) {
    return Fail(ErrorKind::kInvalid, "shape",
                fmt::format("columns: {} does not fit into {} columns from column {} on",
                            ToString(shape), of, begin));
  }
  const Shape hf = {shape[0], of};
  TransformSource source{hf, begin, Numel(shape)};
  if (shape[1] < of) {
    source.run = shape[1];
    source.stride = of;
  }
  return TransformPlan{{source}, Layout::Source(0, hf).Slice(1, begin, begin + shape[1])};
}

// [O, 2K]: HF has the halves of the columns in the other order.
Result<TransformPlan> PlanSwapHalves(const TransformRequest& request) {
  const Shape& shape = request.megatron_shape;
  if (shape.size() != 2 || shape[1] % 2 != 0) {
    return Fail(ErrorKind::kInvalid, "shape",
                fmt::format("swap_halves: {} is no matrix with two halves", ToString(shape)));
  }
  const int64_t half = shape[1] / 2;
  const Layout all = Layout::Source(0, shape);
  return TransformPlan{{{shape, 0, Numel(shape)}},
                       Layout::Concat(1, {all.Slice(1, half, shape[1]), all.Slice(1, 0, half)})};
}

}  // namespace weighbridge
