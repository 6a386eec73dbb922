// in_proj of a gated delta net: nk key heads of dk channels, nv value heads of dv channels, nv/nk
// value heads to each key head. Megatron: all q [nk*dk], all k [nk*dk], all v [nv*dv], all z
// [nv*dv], all b [nv], all a [nv].
#include <fmt/format.h>

#include "mapping/transforms/transform.h"

namespace weighbridge {
namespace {

struct DeltaNet {
  int64_t key_heads = 0, value_heads = 0, key_dim = 0, value_dim = 0, columns = 0;
  int64_t keys() const { return key_heads * key_dim; }
  int64_t values() const { return value_heads * value_dim; }
  int64_t per_key() const { return value_heads / key_heads; }
};

Result<DeltaNet> ReadDeltaNet(const TransformRequest& request) {
  DeltaNet n;
  WB_TRY(n.key_heads, request.dim("key_heads"));
  WB_TRY(n.value_heads, request.dim("value_heads"));
  WB_TRY(n.key_dim, request.dim("key_dim"));
  WB_TRY(n.value_dim, request.dim("value_dim"));
  const Shape& shape = request.megatron_shape;
  const bool positive = n.key_heads > 0 && n.value_heads > 0 && n.key_dim > 0 && n.value_dim > 0;
  if (!positive || n.value_heads % n.key_heads != 0) {
    return Fail(ErrorKind::kInvalid, "head-geometry",
                fmt::format("{} value heads cannot be divided among {} key heads", n.value_heads,
                            n.key_heads));
  }
  // Each product is at most the rows, so none overflows for a tensor that exists.
  const bool fits = shape.size() == 2 && n.key_dim <= shape[0] / n.key_heads &&
                    n.value_dim <= shape[0] / n.value_heads;
  if (!fits || shape[0] != 2 * n.keys() + 2 * n.values() + 2 * n.value_heads) {
    return Fail(ErrorKind::kInvalid, "shape",
                fmt::format("in_proj {} does not fit {} key heads of {} and {} value heads of {}",
                            ToString(shape), n.key_heads, n.key_dim, n.value_heads, n.value_dim));
  }
  n.columns = shape[1];
  return n;
}

TransformSource Whole(Shape shape) {
  const int64_t n = Numel(shape);
  return {std::move(shape), 0, n};
}

}  // namespace

// Qwen3-Next: in_proj_qkvz and in_proj_ba, both per key head: its q, its k, its value heads' v,
// their z; and its value heads' b, their a.
Result<TransformPlan> PlanGdnInProj(const TransformRequest& request) {
  WB_TRY(const DeltaNet n, ReadDeltaNet(request));
  const int64_t k = n.columns, own = n.per_key() * n.value_dim;
  const int64_t group = 2 * n.key_dim + 2 * own;
  std::vector<Layout> parts;
  // Rows [begin, begin + rows) of each key head's `stride` rows.
  const auto take = [&](int source, int64_t stride, int64_t begin, int64_t rows) {
    for (int64_t head = 0; head < n.key_heads; ++head) {
      parts.push_back(Layout::SourcePart(source, (head * stride + begin) * k, {rows, k}));
    }
  };
  take(0, group, 0, n.key_dim);
  take(0, group, n.key_dim, n.key_dim);
  take(0, group, 2 * n.key_dim, own);
  take(0, group, 2 * n.key_dim + own, own);
  take(1, 2 * n.per_key(), 0, n.per_key());
  take(1, 2 * n.per_key(), n.per_key(), n.per_key());
  return TransformPlan{{Whole({n.key_heads * group, k}), Whole({2 * n.value_heads, k})},
                       Layout::Concat(0, std::move(parts))};
}

// Qwen3.5: in_proj_qkv ([q; k; v]), in_proj_z, in_proj_b, in_proj_a, none of them grouped.
Result<TransformPlan> PlanGdnInProjFlat(const TransformRequest& request) {
  WB_TRY(const DeltaNet n, ReadDeltaNet(request));
  const int64_t k = n.columns;
  std::vector<TransformSource> sources = {Whole({2 * n.keys() + n.values(), k}),
                                          Whole({n.values(), k}), Whole({n.value_heads, k}),
                                          Whole({n.value_heads, k})};
  std::vector<Layout> parts;
  for (int i = 0; i < 4; ++i) {
    parts.push_back(Layout::Source(i, sources[static_cast<size_t>(i)].shape));
  }
  return TransformPlan{std::move(sources), Layout::Concat(0, std::move(parts))};
}

}  // namespace weighbridge
