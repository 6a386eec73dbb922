// Every transform against an independent reference: nested loops straight from the published
// layouts of Megatron's fused tensors, written without the Layout algebra.
#include "mapping/transforms/transform.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "mapping/plan.h"
#include "mapping/plan_bytes.h"

namespace weighbridge {
namespace {

// A request as plain values.
struct Case {
  std::string transform;
  Shape shape;
  std::map<std::string, int64_t, std::less<>> dims;
  std::set<std::string, std::less<>> flags;
  int64_t expert = 0, experts = 1, vocab = 0;
};

Result<TransformPlan> PlanOf(const Case& c) {
  TransformRequest request;
  request.megatron_shape = c.shape;
  request.dim = [&](std::string_view name) -> Result<int64_t> {
    const auto it = c.dims.find(name);
    if (it == c.dims.end()) return Fail(ErrorKind::kInvalid, "dim", std::string(name));
    return it->second;
  };
  request.flag = [&](std::string_view name) { return c.flags.contains(name); };
  request.expert = c.expert;
  request.experts = c.experts;
  request.vocab = c.vocab;
  return FindTransform(c.transform)->plan(request);
}

// What the reference says: per target element its source and element; and the sources' shapes.
struct Expected {
  Origins elements;
  std::vector<Shape> shapes;
};

// The first element used of each source (0 but for an expert out of a stacked tensor).
int64_t FirstUsed(const Origins& elements, int source) {
  int64_t first = INT64_MAX;
  for (const Origin& e : elements) {
    if (e.other == source) first = std::min(first, e.offset);
  }
  return first == INT64_MAX ? 0 : first;
}

void CheckAgainst(const Case& c, const Expected& expected, int64_t size) {
  const Result<TransformPlan> planned = PlanOf(c);
  RC_ASSERT(planned.has_value());
  RC_ASSERT(planned->sources.size() == expected.shapes.size());
  const int64_t numel = Numel(c.shape);
  RC_ASSERT(planned->layout.numel() == numel);
  RC_ASSERT(static_cast<int64_t>(expected.elements.size()) == numel);

  std::vector<SourceExtent> extents;
  for (size_t s = 0; s < planned->sources.size(); ++s) {
    const TransformSource& source = planned->sources[s];
    RC_ASSERT(source.shape == expected.shapes[s]);
    RC_ASSERT(source.begin == FirstUsed(expected.elements, static_cast<int>(s)));
    extents.push_back(source.extent());
  }
  RC_ASSERT(ProveBijection(planned->layout, extents).has_value());
  // The same by counting: no element of a source is used twice but as a copy, none is left out.
  std::vector<StridedPiece> originals = planned->layout.Pieces();
  std::erase_if(originals, [](const StridedPiece& piece) { return piece.copy; });
  std::map<std::pair<int, int64_t>, int> uses;
  for (const Origin& e : ElementsOf(planned->layout.Pieces(), numel)) {
    RC_ASSERT(e.other >= kZeroSource);
  }
  for (const Origin& e : ElementsOf(originals, numel)) {
    if (e.other > kZeroSource) ++uses[{e.other, e.offset}];
  }
  size_t used = 0;
  for (const SourceExtent& extent : extents) used += static_cast<size_t>(extent.numel);
  RC_ASSERT(uses.size() == used);

  const Result<Plan> by_target = CompileByTarget(planned->layout, size);
  RC_ASSERT(by_target.has_value());
  const Origins bytes = BytesOf(*by_target);
  RC_ASSERT(bytes == Widen(expected.elements, size));
  RC_ASSERT(by_target->bytes() == numel * size);

  for (size_t s = 0; s < extents.size(); ++s) {
    const auto by_source = CompileBySource(planned->layout, static_cast<int>(s), extents[s], size);
    RC_ASSERT(by_source.has_value());
    const Origins back = BytesOf(*by_source);
    const auto& [begin, count, run, stride] = extents[s];
    RC_ASSERT(static_cast<int64_t>(back.size()) == count * size);
    for (size_t i = 0; i < back.size(); ++i) {
      const int64_t element = static_cast<int64_t>(i) / size;
      const int64_t place = stride == 0 ? element : element / run * stride + element % run;
      const int64_t byte = (begin + place) * size + static_cast<int64_t>(i) % size;
      RC_ASSERT(bytes[static_cast<size_t>(back[i].offset)] == (Origin{static_cast<int>(s), byte}));
    }
  }
}

int64_t AnySize() { return *rc::gen::element<int64_t>(1, 2, 4, 8); }
int64_t Upto(int64_t most) { return *rc::gen::inRange<int64_t>(1, most + 1); }

struct Heads {
  int64_t per_group, groups, dim, columns;
  bool bias;
  int64_t heads() const { return per_group * groups; }
  Shape With(int64_t rows) const { return bias ? Shape{rows} : Shape{rows, columns}; }
};

// MHA (one head per group), MQA (one group) and everything between.
Heads AnyHeads() {
  Heads h{Upto(4), Upto(4), Upto(7), Upto(5), *rc::gen::arbitrary<bool>()};
  if (h.bias) h.columns = 1;
  return h;
}

std::map<std::string, int64_t, std::less<>> DimsOf(const Heads& h) {
  return {{"heads", h.heads()}, {"groups", h.groups}, {"head_dim", h.dim}};
}

void AppendRow(const Heads& h, int source, int64_t row, Origins& out) {
  for (int64_t k = 0; k < h.columns; ++k) out.push_back({source, row * h.columns + k});
}

// for g = 0..G-1: the query heads of group g, then key head g, then value head g.
Origins GroupedRows(const Heads& h, int64_t k_begin, int64_t v_begin, int k, int v) {
  Origins out;
  for (int64_t g = 0; g < h.groups; ++g) {
    for (int64_t head = g * h.per_group; head < (g + 1) * h.per_group; ++head) {
      for (int64_t d = 0; d < h.dim; ++d) AppendRow(h, 0, head * h.dim + d, out);
    }
    for (int64_t d = 0; d < h.dim; ++d) AppendRow(h, k, k_begin + g * h.dim + d, out);
    for (int64_t d = 0; d < h.dim; ++d) AppendRow(h, v, v_begin + g * h.dim + d, out);
  }
  return out;
}

RC_GTEST_PROP(Transforms, QkvPutsQueriesKeyAndValueOfEachGroupTogether, ()) {
  const Heads h = AnyHeads();
  const int64_t kv = h.groups * h.dim, q = h.heads() * h.dim;
  RC_CLASSIFY(h.groups == 1, "MQA");
  RC_CLASSIFY(h.per_group == 1, "MHA");
  CheckAgainst({"qkv", h.With(q + 2 * kv), DimsOf(h), {}},
               {GroupedRows(h, 0, 0, 1, 2), {h.With(q), h.With(kv), h.With(kv)}}, AnySize());
}

RC_GTEST_PROP(Transforms, QkvConcatReadsOneTensorOfAllQueriesAllKeysAllValues, ()) {
  const Heads h = AnyHeads();
  const int64_t kv = h.groups * h.dim, q = h.heads() * h.dim;
  CheckAgainst({"qkv_concat", h.With(q + 2 * kv), DimsOf(h), {}},
               {GroupedRows(h, q, q + kv, 0, 0), {h.With(q + 2 * kv)}}, AnySize());
}

// HF per head: D query rows, D gate rows. Megatron per group: query rows, gate rows, key, value.
Origins GatedRows(const Heads& h) {
  Origins out;
  for (int64_t g = 0; g < h.groups; ++g) {
    for (int64_t gate = 0; gate < 2; ++gate) {
      for (int64_t head = g * h.per_group; head < (g + 1) * h.per_group; ++head) {
        for (int64_t d = 0; d < h.dim; ++d) AppendRow(h, 0, (2 * head + gate) * h.dim + d, out);
      }
    }
    for (int64_t d = 0; d < h.dim; ++d) AppendRow(h, 1, g * h.dim + d, out);
    for (int64_t d = 0; d < h.dim; ++d) AppendRow(h, 2, g * h.dim + d, out);
  }
  return out;
}

RC_GTEST_PROP(Transforms, QkvGatedPutsTheGatesAfterTheQueriesOfTheirGroup, ()) {
  const Heads h = AnyHeads();
  const int64_t kv = h.groups * h.dim, q = 2 * h.heads() * h.dim;
  CheckAgainst({"qkv_gated", h.With(q + 2 * kv), DimsOf(h), {}},
               {GatedRows(h), {h.With(q), h.With(kv), h.With(kv)}}, AnySize());
}

// Per group the query rows of its heads, then the one gate row of each of these heads as often as a
// head has channels, then k and v.
RC_GTEST_PROP(Transforms, QkvHeadGateRepeatsTheGateOfAHeadForEachOfItsChannels, ()) {
  Heads h = AnyHeads();
  const int64_t kv = h.groups * h.dim, q = h.heads() * h.dim;
  Origins out;
  for (int64_t g = 0; g < h.groups; ++g) {
    const int64_t first = g * h.per_group, end = first + h.per_group;
    for (int64_t row = first * h.dim; row < end * h.dim; ++row) AppendRow(h, 0, row, out);
    for (int64_t head = first; head < end; ++head) {
      for (int64_t d = 0; d < h.dim; ++d) AppendRow(h, 3, head, out);
    }
    for (int source : {1, 2}) {
      for (int64_t d = 0; d < h.dim; ++d) AppendRow(h, source, g * h.dim + d, out);
    }
  }
  CheckAgainst({"qkv_head_gate", h.With(2 * (q + kv)), DimsOf(h), {}},
               {out, {h.With(q), h.With(kv), h.With(kv), h.With(h.heads())}}, AnySize());
}

RC_GTEST_PROP(Transforms, QkvKeysAsValuesPutsTheKeyOfEachGroupTwice, ()) {
  const Heads h = AnyHeads();
  const int64_t kv = h.groups * h.dim, q = h.heads() * h.dim;
  CheckAgainst({"qkv_keys_as_values", h.With(q + 2 * kv), DimsOf(h), {}},
               {GroupedRows(h, 0, 0, 1, 1), {h.With(q), h.With(kv)}}, AnySize());
}

RC_GTEST_PROP(Transforms, ColumnsArePartOfEachRow, ()) {
  const int64_t rows = Upto(6), columns = Upto(6);
  const int64_t before = *rc::gen::inRange<int64_t>(0, 5), after = *rc::gen::inRange<int64_t>(0, 5);
  const int64_t all = before + columns + after;
  Origins out;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) out.push_back({0, r * all + before + c});
  }
  CheckAgainst({"columns", {rows, columns}, {{"begin", before}, {"of", all}}, {}},
               {out, {{rows, all}}}, AnySize());
}

TEST(Transforms, AllColumnsOfAMatrixFollowEachOther) {
  const auto planned = PlanOf({"columns", {2, 3}, {{"begin", 0}, {"of", 3}}, {}});
  ASSERT_TRUE(planned);
  EXPECT_EQ(planned->sources[0].stride, 0);
  EXPECT_TRUE(ProveBijection(planned->layout, {planned->sources[0].extent()}));
}

TEST(Transforms, ColumnsRefusesWhatDoesNotFit) {
  EXPECT_FALSE(PlanOf({"columns", {4, 2}, {{"begin", 1}, {"of", 2}}, {}}));
  EXPECT_FALSE(PlanOf({"columns", {4, 2}, {{"begin", -1}, {"of", 9}}, {}}));
  EXPECT_FALSE(PlanOf({"columns", {4}, {{"begin", 0}, {"of", 4}}, {}}));
}

RC_GTEST_PROP(Transforms, KvPutsKeyAndValueOfEachGroupTogether, ()) {
  const Heads h = AnyHeads();
  const int64_t kv = h.groups * h.dim;
  Origins out;
  for (int64_t g = 0; g < h.groups; ++g) {
    for (int source : {0, 1}) {
      for (int64_t d = 0; d < h.dim; ++d) AppendRow(h, source, g * h.dim + d, out);
    }
  }
  CheckAgainst({"kv", h.With(2 * kv), DimsOf(h), {}}, {out, {h.With(kv), h.With(kv)}}, AnySize());
}

TEST(Transforms, KvRefusesRowsThatItsGroupsDoNotFill) {
  EXPECT_FALSE(PlanOf({"kv", {12, 3}, {{"groups", 2}, {"head_dim", 4}}, {}}));
  EXPECT_FALSE(PlanOf({"kv", {16, 3}, {{"groups", 0}, {"head_dim", 4}}, {}}));
  EXPECT_TRUE(PlanOf({"kv", {16, 3}, {{"groups", 2}, {"head_dim", 4}}, {}}));
}

RC_GTEST_PROP(Transforms, GatedMlpPutsTheGateBeforeTheUpProjection, ()) {
  const int64_t f = Upto(9), k = Upto(6);
  const bool bias = *rc::gen::arbitrary<bool>();
  const int64_t half = bias ? f : f * k;
  Origins elements;
  for (int source : {0, 1}) {
    for (int64_t i = 0; i < half; ++i) elements.push_back({source, i});
  }
  const Shape one = bias ? Shape{f} : Shape{f, k};
  CheckAgainst({"gated_mlp", bias ? Shape{2 * f} : Shape{2 * f, k}, {}, {}}, {elements, {one, one}},
               AnySize());
}

RC_GTEST_PROP(Transforms, PadVocabAppendsRowsOfZeros, ()) {
  const int64_t vocab = Upto(9), padding = *rc::gen::inRange<int64_t>(0, 6), k = Upto(5);
  Origins elements;
  for (int64_t i = 0; i < vocab * k; ++i) elements.push_back({0, i});
  elements.resize(static_cast<size_t>((vocab + padding) * k));
  Case c{"pad_vocab", {vocab + padding, k}, {}, {}};
  c.vocab = vocab;
  CheckAgainst(c, {elements, {{vocab, k}}}, AnySize());
}

RC_GTEST_PROP(Transforms, IdentityKeepsEveryElementAndSqueezeOnlyTheShape, ()) {
  Shape shape = *rc::gen::container<Shape>(2, rc::gen::inRange<int64_t>(1, 6));
  const bool squeeze = *rc::gen::arbitrary<bool>();
  Origins elements;
  for (int64_t i = 0; i < Numel(shape); ++i) elements.push_back({0, i});
  Shape hf = shape;
  if (squeeze) hf.insert(hf.begin(), 1);
  Case c{"identity", shape, {}, {}};
  if (squeeze) c.flags = {"squeeze"};
  CheckAgainst(c, {elements, {hf}}, AnySize());
}

RC_GTEST_PROP(Transforms, IdentityTransposedReadsColumnsAsRows, ()) {
  const int64_t rows = Upto(5), columns = Upto(5);
  Origins elements;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) elements.push_back({0, c * rows + r});
  }
  Case c{"identity", {rows, columns}, {}, {}};
  c.flags = {"transposed"};
  CheckAgainst(c, {elements, {{columns, rows}}}, AnySize());
}

struct ExpertCase {
  int64_t rows, columns, expert, experts;
  bool transposed, interleaved, bias;
};

// Square matrices come up often: they are where an orientation could be guessed.
ExpertCase AnyExpert(bool gated) {
  ExpertCase e{};
  e.rows = gated ? 2 * Upto(5) : Upto(8);
  e.columns = *rc::gen::arbitrary<bool>() ? e.rows : Upto(8);
  e.experts = Upto(4);
  e.expert = *rc::gen::inRange<int64_t>(0, e.experts);
  e.bias = *rc::gen::arbitrary<bool>();
  e.transposed = !e.bias && *rc::gen::arbitrary<bool>();
  e.interleaved = gated && *rc::gen::arbitrary<bool>();
  if (e.bias) e.columns = 1;
  return e;
}

Case CaseOf(const char* transform, const ExpertCase& e) {
  Case c{transform, e.bias ? Shape{e.rows} : Shape{e.rows, e.columns}, {}, {}};
  if (e.transposed) c.flags.insert("transposed");
  if (e.interleaved) c.flags.insert("interleaved");
  c.expert = e.expert;
  c.experts = e.experts;
  return c;
}

Expected ReferenceOf(const ExpertCase& e) {
  Expected expected;
  for (int64_t r = 0; r < e.rows; ++r) {
    // Interleaved: HF's row 2i is gate row i, row 2i + 1 is up row i.
    const int64_t half = e.rows / 2;
    const int64_t hf_row = !e.interleaved ? r : r < half ? 2 * r : 2 * (r - half) + 1;
    for (int64_t k = 0; k < e.columns; ++k) {
      const int64_t within = e.transposed ? k * e.rows + hf_row : hf_row * e.columns + k;
      expected.elements.push_back({0, e.expert * e.rows * e.columns + within});
    }
  }
  expected.shapes = {e.bias         ? Shape{e.experts, e.rows}
                     : e.transposed ? Shape{e.experts, e.columns, e.rows}
                                    : Shape{e.experts, e.rows, e.columns}};
  return expected;
}

RC_GTEST_PROP(Transforms, ExpertTakesItsSliceInTheDeclaredOrientation, ()) {
  const ExpertCase e = AnyExpert(false);
  RC_CLASSIFY(!e.bias && e.rows == e.columns, "square");
  CheckAgainst(CaseOf("expert", e), ReferenceOf(e), AnySize());
}

RC_GTEST_PROP(Transforms, ExpertGatedMlpSeparatesGateAndUp, ()) {
  const ExpertCase e = AnyExpert(true);
  RC_CLASSIFY(e.interleaved && e.transposed, "interleaved and transposed");
  CheckAgainst(CaseOf("expert_gated_mlp", e), ReferenceOf(e), AnySize());
}

// -- known answers: recorded from the real library on labelled rows --

std::vector<int64_t> RowLabels(const Case& c, const std::vector<int64_t>& first_label) {
  const Result<TransformPlan> plan = PlanOf(c);
  EXPECT_TRUE(plan) << plan.error().what;
  std::vector<int64_t> labels;
  for (const Origin& e : ElementsOf(plan->layout.Pieces(), Numel(c.shape))) {
    labels.push_back(first_label[static_cast<size_t>(e.other)] + e.offset);
  }
  return labels;
}

// q and k of `dim` rows per head, v of `v_dim`.
RC_GTEST_PROP(Transforms, QkvUnequalLetsValueHeadsHaveASizeOfTheirOwn, ()) {
  const Heads h = AnyHeads();
  const int64_t v_dim = Upto(9), k = h.groups * h.dim, q = h.heads() * h.dim;
  Origins rows;
  for (int64_t g = 0; g < h.groups; ++g) {
    for (int64_t row = 0; row < h.per_group * h.dim; ++row) {
      AppendRow(h, 0, g * h.per_group * h.dim + row, rows);
    }
    for (int64_t d = 0; d < h.dim; ++d) AppendRow(h, 1, g * h.dim + d, rows);
    for (int64_t d = 0; d < v_dim; ++d) AppendRow(h, 2, g * v_dim + d, rows);
  }
  auto dims = DimsOf(h);
  dims["v_head_dim"] = v_dim;
  CheckAgainst({"qkv_unequal", h.With(q + k + h.groups * v_dim), dims, {}},
               {rows, {h.With(q), h.With(k), h.With(h.groups * v_dim)}}, AnySize());
}

RC_GTEST_PROP(Transforms, QkvQueryLeavesKeysAndValuesZero, ()) {
  const Heads h = AnyHeads();
  const int64_t kv = h.groups * h.dim, q = h.heads() * h.dim;
  Origins rows;
  for (int64_t g = 0; g < h.groups; ++g) {
    for (int64_t row = 0; row < h.per_group * h.dim; ++row) {
      AppendRow(h, 0, g * h.per_group * h.dim + row, rows);
    }
    rows.resize(rows.size() + static_cast<size_t>(2 * h.dim * h.columns));  // zeros
  }
  CheckAgainst({"qkv_query", h.With(q + 2 * kv), DimsOf(h), {}}, {rows, {h.With(q)}}, AnySize());
}

// nk key heads of dk, nv value heads of dv, K columns.
struct DeltaNet {
  int64_t nk = Upto(4), per_key = Upto(3), dk = Upto(5), dv = Upto(5), columns = Upto(4);
  int64_t nv() const { return nk * per_key; }
  int64_t rows() const { return 2 * nk * dk + 2 * nv() * dv + 2 * nv(); }
  std::map<std::string, int64_t, std::less<>> Dims() const {
    return {{"key_heads", nk}, {"value_heads", nv()}, {"key_dim", dk}, {"value_dim", dv}};
  }
  void Append(int source, int64_t row, Origins& out) const {
    for (int64_t k = 0; k < columns; ++k) out.push_back({source, row * columns + k});
  }
};

// HF, for each key head: q, k, the v of its value heads, their z; and apart: their b, their a.
RC_GTEST_PROP(Transforms, GdnInProjGathersEachPartOfAllKeyHeads, ()) {
  const DeltaNet n;
  const int64_t own = n.per_key * n.dv, group = 2 * n.dk + 2 * own;
  Origins rows;
  for (const auto& [begin, count] : {std::pair{int64_t{0}, n.dk}, std::pair{n.dk, n.dk},
                                     std::pair{2 * n.dk, own}, std::pair{2 * n.dk + own, own}}) {
    for (int64_t head = 0; head < n.nk; ++head) {
      for (int64_t i = 0; i < count; ++i) n.Append(0, head * group + begin + i, rows);
    }
  }
  for (int64_t part = 0; part < 2; ++part) {
    for (int64_t head = 0; head < n.nk; ++head) {
      for (int64_t i = 0; i < n.per_key; ++i) {
        n.Append(1, (2 * head + part) * n.per_key + i, rows);
      }
    }
  }
  CheckAgainst({"gdn_in_proj", {n.rows(), n.columns}, n.Dims(), {}},
               {rows, {{n.nk * group, n.columns}, {2 * n.nv(), n.columns}}}, AnySize());
}

RC_GTEST_PROP(Transforms, GdnInProjFlatPutsFourTensorsOneAfterAnother, ()) {
  const DeltaNet n;
  const std::vector<int64_t> sizes = {2 * n.nk * n.dk + n.nv() * n.dv, n.nv() * n.dv, n.nv(),
                                      n.nv()};
  Origins rows;
  std::vector<Shape> shapes;
  for (int source = 0; source < 4; ++source) {
    const int64_t count = sizes[static_cast<size_t>(source)];
    for (int64_t row = 0; row < count; ++row) n.Append(source, row, rows);
    shapes.push_back({count, n.columns});
  }
  CheckAgainst({"gdn_in_proj_flat", {n.rows(), n.columns}, n.Dims(), {}}, {rows, shapes},
               AnySize());
}

RC_GTEST_PROP(Transforms, RowsTakesAStretchOfATallerTensor, ()) {
  const int64_t rows = Upto(5), columns = Upto(5), before = Upto(4) - 1, after = Upto(4) - 1;
  Origins elements;
  for (int64_t i = 0; i < rows * columns; ++i) elements.push_back({0, before * columns + i});
  CheckAgainst({"rows", {rows, columns}, {{"begin", before}, {"of", before + rows + after}}, {}},
               {elements, {{before + rows + after, columns}}}, AnySize());
}

RC_GTEST_PROP(Transforms, RowsSqueezedIsOneRowWithoutItsAxis, ()) {
  const int64_t columns = Upto(5), of = Upto(4), begin = *rc::gen::inRange<int64_t>(0, of);
  Origins elements;
  for (int64_t i = 0; i < columns; ++i) elements.push_back({0, begin * columns + i});
  Case c{"rows", {columns}, {{"begin", begin}, {"of", of}}, {}};
  c.flags = {"squeeze"};
  CheckAgainst(c, {elements, {{of, columns}}}, AnySize());
}

RC_GTEST_PROP(Transforms, SwapHalvesExchangesTheColumns, ()) {
  const int64_t rows = Upto(5), half = Upto(5);
  Origins elements;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < 2 * half; ++c) {
      elements.push_back({0, r * 2 * half + (c < half ? c + half : c - half)});
    }
  }
  CheckAgainst({"swap_halves", {rows, 2 * half}, {}, {}}, {elements, {{rows, 2 * half}}},
               AnySize());
}

RC_GTEST_PROP(Transforms, ExpertGateUpTakesItsSlicesOfTwoTensors, ()) {
  const int64_t ffn = Upto(5), columns = Upto(4);
  Case c{"expert_gate_up", {2 * ffn, columns}, {}, {}};
  c.experts = Upto(4);
  c.expert = *rc::gen::inRange<int64_t>(0, c.experts);
  Origins elements;
  for (int source = 0; source < 2; ++source) {
    for (int64_t i = 0; i < ffn * columns; ++i) {
      elements.push_back({source, c.expert * ffn * columns + i});
    }
  }
  CheckAgainst(c, {elements, {{c.experts, ffn, columns}, {c.experts, ffn, columns}}}, AnySize());
}

TEST(Transforms, RefuseSizesThatContradictTheNewTransforms) {
  const auto refused = [](const Case& c) { return !PlanOf(c).has_value(); };
  const std::map<std::string, int64_t, std::less<>> net = {
      {"key_heads", 2}, {"value_heads", 4}, {"key_dim", 3}, {"value_dim", 5}};
  for (const char* name : {"gdn_in_proj", "gdn_in_proj_flat"}) {
    EXPECT_FALSE(refused({name, {60, 3}, net, {}}));
    EXPECT_TRUE(refused({name, {59, 3}, net, {}}));
    EXPECT_TRUE(refused({name, {60}, net, {}}));
    auto odd = net;
    odd["value_heads"] = 3;
    EXPECT_TRUE(refused({name, {60, 3}, odd, {}}));
    odd["key_dim"] = INT64_MAX;
    odd["value_heads"] = 4;
    EXPECT_TRUE(refused({name, {60, 3}, odd, {}}));
  }
  EXPECT_TRUE(refused({"rows", {4, 2}, {{"begin", 1}, {"of", 4}}, {}}));
  EXPECT_TRUE(refused({"rows", {4, 2}, {{"begin", -1}, {"of", 9}}, {}}));
  EXPECT_TRUE(refused({"rows", {}, {{"begin", 0}, {"of", 1}}, {}}));
  Case transposed{"identity", {4, 2, 3}, {}, {}};
  transposed.flags = {"transposed"};
  EXPECT_TRUE(refused(transposed));
  EXPECT_TRUE(refused({"swap_halves", {4, 3}, {}, {}}));
  EXPECT_TRUE(refused({"swap_halves", {4}, {}, {}}));
  EXPECT_TRUE(refused({"expert_gate_up", {3, 2}, {}, {}}));
  const std::map<std::string, int64_t, std::less<>> heads = {
      {"heads", 4}, {"groups", 2}, {"head_dim", 3}, {"v_head_dim", 2}};
  EXPECT_FALSE(refused({"qkv_unequal", {22, 3}, heads, {}}));
  EXPECT_TRUE(refused({"qkv_unequal", {23, 3}, heads, {}}));
  auto huge = heads;
  huge["v_head_dim"] = INT64_MAX;
  EXPECT_TRUE(refused({"qkv_unequal", {22, 3}, huge, {}}));
}

TEST(KnownAnswers, QkvOfFourHeadsInTwoGroups) {
  EXPECT_THAT(
      RowLabels({"qkv", {16}, {{"heads", 4}, {"groups", 2}, {"head_dim", 2}}, {}}, {0, 100, 200}),
      testing::ElementsAre(0, 1, 2, 3, 100, 101, 200, 201,  //
                           4, 5, 6, 7, 102, 103, 202, 203));
}

TEST(KnownAnswers, GatedQkvOfFourHeadsInTwoGroups) {
  EXPECT_THAT(RowLabels({"qkv_gated", {24}, {{"heads", 4}, {"groups", 2}, {"head_dim", 2}}, {}},
                        {0, 100, 200}),
              testing::ElementsAre(0, 1, 4, 5, 2, 3, 6, 7, 100, 101, 200, 201,  //
                                   8, 9, 12, 13, 10, 11, 14, 15, 102, 103, 202, 203));
}

// -- what does not fit is refused, whatever the numbers --

TEST(Transforms, RefuseShapesThatContradictTheDims) {
  const auto refused = [](const Case& c) {
    const auto plan = PlanOf(c);
    EXPECT_FALSE(plan) << c.transform << " " << ToString(c.shape);
    return plan ? ErrorKind::kInternal : plan.error().kind;
  };
  const auto heads = [](int64_t h, int64_t g, int64_t d) {
    return std::map<std::string, int64_t, std::less<>>{
        {"heads", h}, {"groups", g}, {"head_dim", d}};
  };
  for (const char* qkv : {"qkv", "qkv_concat", "qkv_gated"}) {
    EXPECT_EQ(refused({qkv, {16, 3}, heads(4, 3, 2), {}}), ErrorKind::kInvalid);  // 4 % 3
    EXPECT_EQ(refused({qkv, {17, 3}, heads(4, 2, 2), {}}), ErrorKind::kInvalid);  // rows
    EXPECT_EQ(refused({qkv, {}, heads(4, 2, 2), {}}), ErrorKind::kInvalid);       // scalar
    EXPECT_EQ(refused({qkv, {16}, heads(0, 0, 0), {}}), ErrorKind::kInvalid);
    EXPECT_EQ(refused({qkv, {16}, heads(-4, -2, -2), {}}), ErrorKind::kInvalid);
    EXPECT_EQ(refused({qkv, {16}, {}, {}}), ErrorKind::kInvalid);  // no dims at all
    constexpr int64_t kHuge = INT64_MAX;
    EXPECT_EQ(refused({qkv, {16}, heads(kHuge, 1, 1), {}}), ErrorKind::kInvalid);
    EXPECT_EQ(refused({qkv, {16}, heads(kHuge, kHuge, kHuge), {}}), ErrorKind::kInvalid);
    EXPECT_EQ(refused({qkv, {16}, heads(int64_t{1} << 62, 2, 8), {}}), ErrorKind::kInvalid);
  }
  EXPECT_EQ(refused({"gated_mlp", {5, 2}, {}, {}}), ErrorKind::kInvalid);
  EXPECT_EQ(refused({"gated_mlp", {}, {}, {}}), ErrorKind::kInvalid);
  EXPECT_EQ(refused({"expert", {2, 2, 2}, {}, {}}), ErrorKind::kInvalid);
  EXPECT_EQ(refused({"expert", {4}, {}, {"transposed"}}), ErrorKind::kInvalid);
  EXPECT_EQ(refused({"expert", {}, {}, {}}), ErrorKind::kInvalid);
  EXPECT_EQ(refused({"expert_gated_mlp", {3, 2}, {}, {"interleaved"}}), ErrorKind::kInvalid);
  EXPECT_EQ(refused({"expert_gated_mlp", {4}, {}, {"transposed"}}), ErrorKind::kInvalid);
  Case pad{"pad_vocab", {8, 2}, {}, {}};
  pad.vocab = 9;
  EXPECT_EQ(refused(pad), ErrorKind::kInvalid);
  pad.shape = {};
  EXPECT_EQ(refused(pad), ErrorKind::kInvalid);
}

TEST(Transforms, AreSortedByNameAndFoundByIt) {
  std::string last;
  for (const Transform& t : AllTransforms()) {
    EXPECT_LT(last, t.name);
    last = t.name;
    EXPECT_EQ(FindTransform(t.name), &t);
  }
  EXPECT_EQ(FindTransform("qk"), nullptr);
  EXPECT_EQ(FindTransform(""), nullptr);
}

}  // namespace
}  // namespace weighbridge
