// linear_qkv: H query heads in G groups, head_dim D, K columns (a bias has none). Megatron stores,
// for each query group, its H/G query heads, then its key head, then its value head.
#include <fmt/format.h>

#include "mapping/transforms/transform.h"

namespace weighbridge {
namespace {

struct Heads {
  int64_t heads = 0, groups = 0, head_dim = 0;
  Shape tail;  // [K], empty for a bias
  int64_t per_group() const { return heads / groups; }
};

// `query_parts`: 1, or 2 when q carries a gate.
Result<Heads> ReadHeads(const TransformRequest& request, int64_t query_parts) {
  Heads h;
  WB_TRY(h.heads, request.dim("heads"));
  WB_TRY(h.groups, request.dim("groups"));
  WB_TRY(h.head_dim, request.dim("head_dim"));
  const Shape& shape = request.megatron_shape;
  if (h.heads <= 0 || h.groups <= 0 || h.head_dim <= 0 || h.heads % h.groups != 0) {
    return Fail(ErrorKind::kInvalid, "head-geometry",
                fmt::format("{} heads cannot be divided into {} query groups of head_dim {}",
                            h.heads, h.groups, h.head_dim));
  }
  // groups <= heads, so with heads within the rows no product overflows for any tensor that exists.
  const bool fits = !shape.empty() && h.heads <= shape[0] && h.head_dim <= shape[0] / h.heads;
  if (!fits || shape[0] != (query_parts * h.heads + 2 * h.groups) * h.head_dim) {
    return Fail(ErrorKind::kInvalid, "shape",
                fmt::format("linear_qkv {} does not fit {} heads, {} groups, head_dim {}",
                            ToString(shape), h.heads, h.groups, h.head_dim));
  }
  h.tail.assign(shape.begin() + 1, shape.end());
  return h;
}

Shape With(std::initializer_list<int64_t> head, const Shape& tail) {
  Shape s(head);
  s.insert(s.end(), tail.begin(), tail.end());
  return s;
}

TransformSource Whole(Shape shape) {
  const int64_t n = Numel(shape);
  return {std::move(shape), 0, n};
}

}  // namespace

// q [H*D, K], k [G*D, K], v [G*D, K].
Result<TransformPlan> PlanQkv(const TransformRequest& request) {
  WB_TRY(const Heads h, ReadHeads(request, 1));
  const int64_t d = h.head_dim;
  const Shape kv = With({h.groups, d}, h.tail);
  Layout layout = Layout::Concat(1, {Layout::Source(0, With({h.groups, h.per_group() * d}, h.tail)),
                                     Layout::Source(1, kv), Layout::Source(2, kv)});
  return TransformPlan{{Whole(With({h.heads * d}, h.tail)), Whole(With({h.groups * d}, h.tail)),
                        Whole(With({h.groups * d}, h.tail))},
                       std::move(layout)};
}

// k [G*D, K], v [G*D, K]: per group its key head, then its value head (cross attention).
Result<TransformPlan> PlanKv(const TransformRequest& request) {
  WB_TRY(const int64_t groups, request.dim("groups"));
  WB_TRY(const int64_t d, request.dim("head_dim"));
  const Shape& shape = request.megatron_shape;
  const bool fits = !shape.empty() && groups > 0 && d > 0 && groups <= shape[0] &&
                    shape[0] % groups == 0 && shape[0] / groups == 2 * d;
  if (!fits) {
    return Fail(ErrorKind::kInvalid, "shape",
                fmt::format("linear_kv {} does not fit {} groups, head_dim {}", ToString(shape),
                            groups, d));
  }
  const Shape tail(shape.begin() + 1, shape.end());
  const Shape kv = With({groups, d}, tail), whole = With({groups * d}, tail);
  Layout layout = Layout::Concat(1, {Layout::Source(0, kv), Layout::Source(1, kv)});
  return TransformPlan{{Whole(whole), Whole(whole)}, std::move(layout)};
}

// q [H*D, K] alone; keys and values are zero: a layer that uses those of another (Gemma 4).
Result<TransformPlan> PlanQkvQuery(const TransformRequest& request) {
  WB_TRY(const Heads h, ReadHeads(request, 1));
  const int64_t d = h.head_dim;
  Layout layout = Layout::Concat(1, {Layout::Source(0, With({h.groups, h.per_group() * d}, h.tail)),
                                     Layout::Zeros(With({h.groups, 2 * d}, h.tail))});
  return TransformPlan{{Whole(With({h.heads * d}, h.tail))}, std::move(layout)};
}

// q [H*D, K], k [G*D, K]; the values are the keys (Gemma 4's layers that see everything).
Result<TransformPlan> PlanQkvKeysAsValues(const TransformRequest& request) {
  WB_TRY(const Heads h, ReadHeads(request, 1));
  const int64_t d = h.head_dim;
  const Layout keys = Layout::Source(1, With({h.groups, d}, h.tail));
  Layout layout = Layout::Concat(
      1, {Layout::Source(0, With({h.groups, h.per_group() * d}, h.tail)), keys, keys.Copy()});
  return TransformPlan{{Whole(With({h.heads * d}, h.tail)), Whole(With({h.groups * d}, h.tail))},
                       std::move(layout)};
}

// q [H*D, K], k [G*D, K], v [G*V, K]: the value heads have a size of their own (MiMo-V2).
Result<TransformPlan> PlanQkvUnequal(const TransformRequest& request) {
  WB_TRY(const int64_t v_dim, request.dim("v_head_dim"));
  WB_TRY(const int64_t d, request.dim("head_dim"));
  WB_TRY(const int64_t groups, request.dim("groups"));
  // The head geometry is judged as if the value heads had the keys' size.
  TransformRequest equal = request;
  Shape& shape = equal.megatron_shape;
  const int64_t rows = shape.empty() ? 0 : shape[0];
  if (v_dim <= 0 || groups <= 0 || v_dim > rows / groups || d > rows / groups) {
    return Fail(ErrorKind::kInvalid, "shape",
                fmt::format("linear_qkv {} does not fit {} groups with value heads of {}",
                            ToString(shape), groups, v_dim));
  }
  shape[0] += groups * (d - v_dim);
  WB_TRY(const Heads h, ReadHeads(equal, 1));
  const Shape q = With({h.heads * d}, h.tail), k = With({groups * d}, h.tail);
  const Shape v = With({groups * v_dim}, h.tail);
  Layout layout = Layout::Concat(1, {Layout::Source(0, With({groups, h.per_group() * d}, h.tail)),
                                     Layout::Source(1, With({groups, d}, h.tail)),
                                     Layout::Source(2, With({groups, v_dim}, h.tail))});
  return TransformPlan{{Whole(q), Whole(k), Whole(v)}, std::move(layout)};
}

// One HF tensor [Q; K; V], each part whole: [(H + 2G) * D, K].
Result<TransformPlan> PlanQkvConcat(const TransformRequest& request) {
  WB_TRY(const Heads h, ReadHeads(request, 1));
  const int64_t d = h.head_dim;
  const int64_t columns = Numel(h.tail);
  const Shape kv = With({h.groups, d}, h.tail);
  const int64_t q_end = h.heads * d * columns;
  const int64_t k_end = q_end + h.groups * d * columns;
  Layout layout =
      Layout::Concat(1, {Layout::SourcePart(0, 0, With({h.groups, h.per_group() * d}, h.tail)),
                         Layout::SourcePart(0, q_end, kv), Layout::SourcePart(0, k_end, kv)});
  return TransformPlan{{Whole(request.megatron_shape)}, std::move(layout)};
}

// q [H*2D, K] holds per head D query rows, then D gate rows; k, v [G*D, K]. Megatron per group: the
// query rows of its heads, the gate rows of its heads, k, v.
Result<TransformPlan> PlanQkvGated(const TransformRequest& request) {
  WB_TRY(const Heads h, ReadHeads(request, 2));
  const int64_t d = h.head_dim;
  const Shape kv = With({h.groups, 1, d}, h.tail);
  // [G, H/G, 2D, K]: query rows are the first half of axis 2, gate rows the second.
  const Layout q = Layout::Source(0, With({h.groups, h.per_group(), 2 * d}, h.tail));
  Layout layout = Layout::Concat(
      1, {q.Slice(2, 0, d), q.Slice(2, d, 2 * d), Layout::Source(1, kv), Layout::Source(2, kv)});
  return TransformPlan{{Whole(With({h.heads * 2 * d}, h.tail)), Whole(With({h.groups * d}, h.tail)),
                        Whole(With({h.groups * d}, h.tail))},
                       std::move(layout)};
}

// q [H*D, K], k, v [G*D, K], and g [H, K], a gate of one row per head, which Megatron repeats for
// each channel of the head: per group the query rows, the gate rows, k, v.
Result<TransformPlan> PlanQkvHeadGate(const TransformRequest& request) {
  WB_TRY(const Heads h, ReadHeads(request, 2));
  const int64_t d = h.head_dim;
  const Shape kv = With({h.groups, 1, d}, h.tail);
  const Layout gate = Layout::Source(3, With({h.groups, h.per_group(), 1}, h.tail)).Repeat(2, d);
  Layout layout = Layout::Concat(1, {Layout::Source(0, With({h.groups, h.per_group(), d}, h.tail)),
                                     gate, Layout::Source(1, kv), Layout::Source(2, kv)});
  return TransformPlan{{Whole(With({h.heads * d}, h.tail)), Whole(With({h.groups * d}, h.tail)),
                        Whole(With({h.groups * d}, h.tail)), Whole(With({h.heads}, h.tail))},
                       std::move(layout)};
}

}  // namespace weighbridge
