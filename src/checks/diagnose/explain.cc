#include "checks/diagnose/explain.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "checks/diagnose/cause_text.h"
#include "checks/diagnose/readings.h"
#include "checks/diagnose/search.h"
#include "checks/parameter_source.h"
#include "mapping/boxes.h"
#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

constexpr size_t kFingerprint = 24;  // elements
constexpr size_t kMostNear = 256;    // other tensors that are tried with changes too
constexpr size_t kMostInexact = 6;   // of one rule, explained by no bytes; the rest gets no pairs
constexpr size_t kMostWhats = 4;     // that a cause's evidence lists

// Where the values came from when they are another tensor's.
struct Other {
  const Parameter* parameter = nullptr;  // or nullptr: the HF tensor `hf`
  std::string hf;
};

// What is known of one tensor that differs, or of one HF tensor in it.
struct Finding {
  const Parameter* parameter = nullptr;
  std::string part;  // "q_proj.weight: ", "rows 3 to 7: "; empty: all of it
  std::vector<Step> steps;
  Proof proof = Proof::kExact;
  std::optional<Other> other;
  int64_t left = 0;
  std::string evidence;
};

bool IsUnexplained(const Finding& finding) {
  return !finding.steps.empty() && finding.steps[0].cause == "unexplained";
}

// Elements at fixed places of a tensor of that size.
std::vector<int64_t> FingerprintPlaces(int64_t numel) {
  std::mt19937_64 random(static_cast<uint64_t>(numel) * 31 + 1);
  std::vector<int64_t> places;
  for (size_t i = 0; i < kFingerprint; ++i) {
    places.push_back(static_cast<int64_t>(random() % static_cast<uint64_t>(numel)));
  }
  return places;
}

uint64_t Fingerprint(const ParameterBytes& bytes, Op op, DType dtype,
                     const std::vector<int64_t>& places) {
  uint64_t hash = 14695981039346656037ULL;
  for (int64_t place : places) {
    hash = (hash ^ ReadElement(bytes, op, dtype, place).value_or(0)) * 1099511628211ULL;
  }
  return hash;
}

class Explainer {
 public:
  Explainer(const DifferingTensors& input, int threads)
      : in_(input),
        limits_{threads},
        hf_(HfParameters::OfUsable(input.model, input.hf)),
        megatron_(MegatronParameters::OfBound(input.megatron, input.binding)) {}

  Result<Diagnosis> Explain() {
    for (const Parameter* p : in_.differ) failing_.insert(p);
    for (const Parameter* q : in_.sources) sources_of_[q->rule].push_back(q);
    for (const Parameter* q : in_.usable)
      tensors_of_[{q->stack, q->layer}] += q->is_expert() ? 0 : 1;
    for (const Parameter* p : in_.differ) WB_RETURN_IF_ERROR(ExplainOne(*p));
    NameOthers();
    return Collect();
  }

 private:
  TensorForm FormOf(const Parameter& p) const {
    TensorForm form;
    form.shape = p.shape;
    form.rows = MegatronRows(in_.model, p);
    form.cut = p.cut;
    const std::string& name = p.rule->megatron;
    form.convolution = p.shape.size() > 2 || name.find("conv1d") != std::string::npos;
    form.vocabulary =
        name.ends_with("word_embeddings.weight") || name.ends_with("output_layer.weight");
    form.expert_rows = name.find(".router.") != std::string::npos;
    form.tp_sizes = {2, 4, 8, 16, 3, 6, 32};
    return form;
  }

  static ValueForm ValuesOf(const Parameter& p, DType from, DType to) {
    const std::string& name = p.rule->megatron;
    ValueForm form{p.op, from, to};
    form.norm = name.find("norm") != std::string::npos && name.find("bias") == std::string::npos;
    form.router_bias = name.find("router") != std::string::npos && name.ends_with("bias");
    return form;
  }

  Status ExplainOne(const Parameter& p) {
    WB_TRY(const ParameterBytes expected, hf_.Open(p));
    WB_TRY(const ParameterBytes actual, megatron_.Open(p));
    const TensorPair pair{expected, actual};
    const TensorForm form = FormOf(p);
    const ValueForm values = ValuesOf(p, expected.sources.dtype, pair.dtype());
    TensorSearch search(pair, form, values, limits_);
    WB_RETURN_IF_ERROR(search.TakeSample());
    if (search.sample().mismatched == 0) return {};
    if (auto found = WholeTensor(p, pair, search)) {
      findings_.push_back(*std::move(found));
      return {};
    }
    WB_TRY(std::vector<Finding> parts, InPieces(p, pair, form, values, search));
    if (parts.empty()) parts.push_back(Statistical(p, search, ""));
    if (!AreExact(parts)) ++inexact_[p.rule];
    for (Finding& part : parts) findings_.push_back(std::move(part));
    return {};
  }

  bool TriesPairs(const Parameter& p) { return inexact_[p.rule] < kMostInexact; }

  // One mistake, or a pair, for all of the tensor.
  std::optional<Finding> WholeTensor(const Parameter& p, const TensorPair& pair,
                                     TensorSearch& search) {
    if (auto found = Misread(p, "", p.hf, pair.expected, search, false)) return found;
    if (auto found = search.Search(TriesPairs(p))) return FindingOf(p, "", *found, pair.expected);
    if (TriesPairs(p)) {
      if (auto found = Misread(p, "", p.hf, pair.expected, search, true)) return found;
    }
    if (const Parameter* other = Elsewhere(p, pair)) {
      const auto bytes = hf_.Open(*other);
      if (bytes) {
        if (auto found = FromOther(p, "", search, *bytes, {other, ""}, false)) return found;
      }
    }
    if (auto found = ExpertStacking(p, search)) return found;
    if (!TriesPairs(p)) return std::nullopt;
    for (const Parameter* near : Near(p)) {
      const auto bytes = hf_.Open(*near);
      if (!bytes) continue;
      if (auto found = FromOther(p, "", search, *bytes, {near, ""}, true)) return found;
    }
    return std::nullopt;
  }

  // Codes of `expected`, which is of HF tensors `names`, that were read otherwise than they are
  // meant, those of all tensors alike; `changed`: and the values then changed or moved. Comes
  // before changes of values: a scale that was left out is a constant factor too.
  std::optional<Finding> Misread(const Parameter& p, const std::string& part,
                                 std::span<const std::string> names, const ParameterBytes& expected,
                                 TensorSearch& search, bool changed) {
    const auto& right = expected.sources.quantized;
    std::vector<std::vector<CodeReading>> readings(right.size());
    std::vector<std::unordered_map<std::string_view, const CodeReading*>> by_what(right.size());
    const std::vector<CodeReading>* first = nullptr;
    for (size_t i = 0; i < right.size(); ++i) {
      if (right[i] == nullptr) continue;
      readings[i] = OwnReadings(*right[i]);
      if (!changed) AddDonated(*in_.hf.Find(names[i]), readings[i]);
      for (const CodeReading& reading : readings[i]) by_what[i].emplace(reading.what, &reading);
      if (first == nullptr) first = &readings[i];
    }
    if (first == nullptr) return std::nullopt;
    ParameterBytes bytes = expected;
    for (const CodeReading& reading : *first) {
      if (changed && reading.cause == "scale-misaligned") continue;
      for (size_t i = 0; i < right.size(); ++i) {
        const auto same = by_what[i].find(reading.what);
        bytes.sources.quantized[i] = same != by_what[i].end() ? &same->second->tensor : right[i];
      }
      const auto found = search.SearchFrom(bytes, changed);
      if (!found) continue;
      Finding finding = FindingOf(p, part, *found, bytes);
      finding.steps.insert(finding.steps.begin(), {std::string(reading.cause), reading.what});
      return finding;
    }
    return std::nullopt;
  }

  void AddDonated(const TensorInfo& tensor, std::vector<CodeReading>& readings) {
    if (!donors_) donors_.emplace(in_.hf);
    std::vector<CodeReading> donated = donors_->ReadingsOf(tensor);
    std::move(donated.begin(), donated.end(), std::back_inserter(readings));
  }

  // The values of `other`, `bytes`, in the place that is searched; `changed`: also once more.
  std::optional<Finding> FromOther(const Parameter& p, const std::string& part,
                                   TensorSearch& search, const ParameterBytes& bytes, Other other,
                                   bool changed) const {
    const auto found = search.SearchFrom(bytes, changed);
    if (!found) return std::nullopt;
    Finding finding = FindingOf(p, part, *found, bytes);
    finding.other = std::move(other);
    return finding;
  }

  // All experts of a layer as one tensor whose axes were confused: [experts, out, in] read as [out,
  // experts, in], or the reverse.
  std::optional<Finding> ExpertStacking(const Parameter& p, TensorSearch& search) {
    if (!p.is_expert() || p.experts < 2 || p.shape.size() != 2) return std::nullopt;
    const ParameterBytes* all = AllExperts(p);
    if (all == nullptr) return std::nullopt;
    const int64_t n = p.shape[0], k = p.shape[1], e = p.experts;
    std::vector<StridedPiece> ways = {{0, p.expert * k, 0, {{n, e * k, k}, {k, 1, 1}}}};
    if (n % e == 0) {
      ways.push_back({0, p.expert * (n / e) * k, 0, {{n / e, k, e * k}, {e, n * k, k}, {k, 1, 1}}});
    }
    for (const StridedPiece& way : ways) {
      const auto outer = CompileByTarget(std::span(&way, 1), n * k, BitsOf(all->sources.dtype) / 8);
      if (!outer) continue;
      ParameterBytes bytes = *all;
      bytes.plan = Compose(*outer, all->plan);
      bytes.shape = p.shape;
      const auto found = search.SearchFrom(bytes, false);
      if (!found) continue;
      Finding finding;
      finding.parameter = &p;
      finding.left = found->left;
      finding.steps = {{"expert-stacking", &way == &ways[0]
                                               ? "[experts, out, in] read as [out, experts, in]"
                                               : "[out, experts, in] read as [experts, out, in]"}};
      return finding;
    }
    return std::nullopt;
  }

  // The experts of p's layer one behind the other; nullptr where they are not all there, in one
  // dtype.
  const ParameterBytes* AllExperts(const Parameter& p) {
    auto& known = experts_[{p.rule, p.layer}];
    if (known) return known->shape.empty() ? nullptr : &*known;
    known.emplace();
    std::map<int64_t, const Parameter*> by_expert;
    for (const Parameter* q : sources_of_[p.rule]) {
      if (q->layer == p.layer) by_expert[q->expert] = q;
    }
    if (static_cast<int64_t>(by_expert.size()) != p.experts) return nullptr;
    ParameterBytes out;
    std::vector<Run> runs;
    for (const auto& [expert, q] : by_expert) {
      const auto bytes = hf_.Open(*q);
      if (!bytes || q->shape != p.shape) return nullptr;
      if (expert == 0) out.sources.dtype = bytes->sources.dtype;
      if (bytes->sources.dtype != out.sources.dtype) return nullptr;
      out.op = bytes->op;
      const int64_t begin = runs.empty() ? 0 : runs.back().end();
      const auto first = static_cast<int>(out.sources.starts.size());
      for (Run run : bytes->plan.runs()) {
        run.offset += begin;
        if (run.other != kZeroSource) run.other += first;
        runs.push_back(run);
      }
      for (size_t i = 0; i < bytes->sources.starts.size(); ++i) {
        out.sources.Add(bytes->sources.starts[i], bytes->sources.Quantized(static_cast<int>(i)));
      }
    }
    out.plan = Plan(std::move(runs));
    out.shape = {p.experts, p.shape[0], p.shape[1]};
    known = std::move(out);
    return &*known;
  }

  // Piece by piece, where the pieces are cut in the way that explains them exactly; else the first
  // way that tells anything.
  Result<std::vector<Finding>> InPieces(const Parameter& p, const TensorPair& pair,
                                        const TensorForm& form, const ValueForm& values,
                                        const TensorSearch& search) {
    WB_TRY(std::vector<Finding> by_source, BySource(p, pair.actual));
    if (AreExact(by_source)) return by_source;
    WB_TRY(std::vector<Finding> by_part, ByPart(p, pair, form, values));
    if (AreExact(by_part)) return by_part;
    WB_TRY(std::vector<Finding> by_region, ByRegion(p, pair, values, search, ""));
    if (!by_region.empty()) return by_region;
    return by_source.empty() ? std::move(by_part) : std::move(by_source);
  }

  static bool AreExact(const std::vector<Finding>& findings) {
    return !findings.empty() && std::all_of(findings.begin(), findings.end(), [](const Finding& f) {
      return f.proof == Proof::kExact;
    });
  }

  // Each part of the rows on its own (the rotated rows of all heads, one component). Empty when one
  // of them cannot be explained.
  Result<std::vector<Finding>> ByPart(const Parameter& p, const TensorPair& pair,
                                      const TensorForm& form, const ValueForm& values) {
    std::vector<Finding> findings;
    const RowStructure& rows = form.rows;
    const int64_t columns = pair.numel() / std::max<int64_t>(1, rows.groups * rows.group_rows());
    int64_t at = 0;
    for (size_t i = 0; rows.parts.size() > 1 && i < rows.parts.size(); ++i) {
      const RowPart& part = rows.parts[i];
      const int64_t own = part.rows * columns, stride = rows.group_rows() * columns;
      StridedPiece piece{0, at, 0, {}};
      if (rows.groups > 1) piece.axes.push_back({rows.groups, stride, own});
      if (own > 1) piece.axes.push_back({own, 1, 1});
      at += own;
      const auto cut = [&](ParameterBytes& bytes) -> Status {
        const int64_t size = BitsOf(bytes.sources.dtype) / 8;
        WB_TRY(const Plan outer, CompileByTarget(std::span(&piece, 1), rows.groups * own, size));
        bytes.plan = Compose(outer, bytes.plan);
        bytes.shape[0] = rows.groups * part.rows;
        return {};
      };
      TensorPair some = pair;
      some.expected.shape = pair.actual.shape;
      WB_RETURN_IF_ERROR(cut(some.expected));
      WB_RETURN_IF_ERROR(cut(some.actual));
      TensorForm own_form;
      own_form.shape = some.actual.shape;
      own_form.rows = {RowKind::kPlain,
                       1,
                       {{part.name, rows.groups * part.rows, rows.groups * part.heads, part.rope}}};
      TensorSearch search(some, own_form, values, limits_);
      WB_RETURN_IF_ERROR(search.TakeSample());
      if (search.sample().mismatched == 0) continue;
      const std::string name = part.name + ": ";
      if (auto found = search.Search(TriesPairs(p))) {
        findings.push_back(FindingOf(p, name, *found, some.expected));
        continue;
      }
      findings.push_back(Statistical(p, search, name));
      if (IsUnexplained(findings.back())) return std::vector<Finding>();
    }
    return findings;
  }

  // Same rule: other layers, other experts of the layer; the nearest first.
  std::vector<const Parameter*> Near(const Parameter& p) {
    std::vector<const Parameter*> near;
    for (const Parameter* q : sources_of_[p.rule]) {
      if (q == &p || q->shape != p.shape) continue;
      if (q->layer == p.layer || q->expert == p.expert) near.push_back(q);
    }
    std::stable_sort(near.begin(), near.end(), [&](const Parameter* a, const Parameter* b) {
      return std::abs(a->layer - p.layer) < std::abs(b->layer - p.layer);
    });
    if (near.size() > kMostNear) near.resize(kMostNear);
    return near;
  }

  // The parameter whose values stand in p's place, by their fingerprint.
  const Parameter* Elsewhere(const Parameter& p, const TensorPair& pair) {
    const DType dtype = pair.dtype();
    const auto places = FingerprintPlaces(pair.numel());
    auto& index = index_[{p.shape, dtype}];
    if (!index) {
      index.emplace();
      for (const Parameter* q : in_.sources) {
        if (q->shape != p.shape) continue;
        const auto bytes = hf_.Open(*q);
        if (bytes) index->emplace(Fingerprint(*bytes, bytes->op, dtype, places), q);
      }
    }
    const uint64_t found = Fingerprint(pair.actual, Op::kNone, dtype, places);
    const auto [begin, end] = index->equal_range(found);
    const Parameter* best = nullptr;
    for (auto it = begin; it != end; ++it) {
      const Parameter* q = it->second;
      if (q == &p) continue;
      const bool same_rule = q->rule == p.rule;
      if (best == nullptr || (same_rule && best->rule != p.rule) ||
          (same_rule && std::abs(q->layer - p.layer) < std::abs(best->layer - p.layer))) {
        best = q;
      }
    }
    return best;
  }

  // The tensor as it would be exported: each HF tensor in it on its own. Empty when one of them
  // cannot be explained.
  Result<std::vector<Finding>> BySource(const Parameter& p, const ParameterBytes& actual) {
    std::vector<Finding> findings;
    WB_TRY(const TransformPlan transform, in_.model.Plan(p));
    for (size_t s = 0; s < p.hf.size(); ++s) {
      const TensorInfo* info = in_.hf.Find(p.hf[s]);
      const TransformSource& source = transform.sources[s];
      if (source.run != 0) return std::vector<Finding>();
      const auto plan = CompileBySource(transform.layout, static_cast<int>(s), source.extent(),
                                        BitsOf(actual.sources.dtype) / 8);
      if (!plan) return std::vector<Finding>();
      TensorPair pair;
      const int64_t size = BitsOf(info->dtype) / 8;
      pair.expected.plan =
          Plan({Run{.other_offset = source.begin * size, .length = source.numel * size}});
      pair.expected.sources.dtype = info->dtype;
      pair.expected.sources.Add(in_.hf.Data(*info).data(), in_.hf.Quantized(*info));
      pair.expected.op = p.op;
      pair.expected.shape = SourceShape(source);
      pair.actual = actual;
      pair.actual.plan = Compose(*plan, actual.plan);
      pair.actual.shape = pair.expected.shape;
      WB_TRY(std::vector<Finding> found, OneSource(p, s, pair));
      if (std::any_of(found.begin(), found.end(), IsUnexplained)) return std::vector<Finding>();
      std::move(found.begin(), found.end(), std::back_inserter(findings));
    }
    return findings;
  }

  static Shape SourceShape(const TransformSource& source) {
    if (Numel(source.shape) == source.numel) return source.shape;
    // One expert of a stacked tensor.
    Shape rest(source.shape.begin() + 1, source.shape.end());
    return Numel(rest) == source.numel ? rest : Shape{source.numel};
  }

  Result<std::vector<Finding>> OneSource(const Parameter& p, size_t s, const TensorPair& pair) {
    TensorForm form;
    form.shape = pair.actual.shape;
    form.rows = HfRows(in_.model, p, s, form.shape);
    const ValueForm values = ValuesOf(p, pair.expected.sources.dtype, pair.dtype());
    TensorSearch search(pair, form, values, limits_);
    WB_RETURN_IF_ERROR(search.TakeSample());
    if (search.sample().mismatched == 0) return std::vector<Finding>();
    const std::string part = p.hf[s] + ": ";
    const auto own = std::span(p.hf).subspan(s, 1);
    if (auto found = Misread(p, part, own, pair.expected, search, false)) {
      return std::vector<Finding>{*std::move(found)};
    }
    if (auto found = search.Search(TriesPairs(p))) {
      return std::vector<Finding>{FindingOf(p, part, *found, pair.expected)};
    }
    if (auto found = SourceElsewhere(p, s, pair, search)) return std::vector<Finding>{*found};
    WB_TRY(std::vector<Finding> region, ByRegion(p, pair, values, search, part));
    if (!region.empty()) return region;
    return std::vector<Finding>{Statistical(p, search, part)};
  }

  std::optional<Finding> SourceElsewhere(const Parameter& p, size_t s, const TensorPair& pair,
                                         TensorSearch& search) {
    const TensorInfo* own = in_.hf.Find(p.hf[s]);
    if (Numel(own->shape) != pair.numel()) return std::nullopt;
    const auto bytes_of = [&](const TensorInfo& info) {
      ParameterBytes bytes = pair.expected;
      bytes.sources.starts.clear();
      bytes.sources.quantized.clear();
      bytes.sources.Add(in_.hf.Data(info).data(), in_.hf.Quantized(info));
      bytes.plan = Plan({Run{.length = static_cast<int64_t>(info.nbytes)}});
      return bytes;
    };
    const auto places = FingerprintPlaces(pair.numel());
    auto& index = hf_index_[{own->shape, own->dtype, p.op, pair.dtype()}];
    if (!index) {
      index.emplace();
      for (const TensorInfo& info : in_.hf.tensors()) {
        if (info.shape != own->shape || info.dtype != own->dtype) continue;
        index->emplace(Fingerprint(bytes_of(info), p.op, pair.dtype(), places), &info);
      }
    }
    const uint64_t wanted = Fingerprint(pair.actual, Op::kNone, pair.dtype(), places);
    const auto [begin, end] = index->equal_range(wanted);
    for (auto it = begin; it != end; ++it) {
      const TensorInfo& info = *it->second;
      if (info.name == own->name) continue;
      if (auto found =
              FromOther(p, own->name + ": ", search, bytes_of(info), {nullptr, info.name}, false)) {
        return found;
      }
    }
    return std::nullopt;
  }

  // Only some rows or columns differ: they are searched alone.
  Result<std::vector<Finding>> ByRegion(const Parameter& p, const TensorPair& pair,
                                        const ValueForm& values, const TensorSearch& whole,
                                        const std::string& part) {
    const ElementSample& sample = whole.sample();
    const Shape& shape = pair.actual.shape;
    if (shape.empty()) return std::vector<Finding>();
    const int64_t rows = shape[0], columns = pair.numel() / rows;
    const int64_t some_rows = sample.last_row - sample.first_row + 1;
    const bool matrix = shape.size() == 2;
    const int64_t some_columns = matrix ? sample.last_column - sample.first_column + 1 : columns;
    if (some_rows == rows && some_columns == columns) return std::vector<Finding>();
    Shape offsets = {sample.first_row}, sizes = {some_rows};
    for (size_t axis = 1; axis < shape.size(); ++axis) {
      offsets.push_back(matrix ? sample.first_column : 0);
      sizes.push_back(matrix ? some_columns : shape[axis]);
    }
    const auto box = [&](const ParameterBytes& bytes) -> Result<ParameterBytes> {
      ParameterBytes out = bytes;
      WB_TRY(out.plan, bytes.Box(offsets, sizes));
      out.shape = sizes;
      return out;
    };
    TensorPair region;
    WB_TRY(region.expected, box(pair.expected));
    WB_TRY(region.actual, box(pair.actual));
    TensorForm form;
    form.shape = sizes;
    form.rows = {RowKind::kPlain, 1, {{"rows", some_rows}}};
    TensorSearch search(region, form, values, limits_);
    WB_RETURN_IF_ERROR(search.TakeSample());
    const std::string where =
        part +
        (some_rows < rows ? fmt::format("rows {} to {}", sample.first_row, sample.last_row)
                          : std::string()) +
        (some_columns < columns ? fmt::format("{}columns {} to {}", some_rows < rows ? ", " : "",
                                              sample.first_column, sample.last_column)
                                : std::string()) +
        ": ";
    if (auto found = search.Search(false)) {
      return std::vector<Finding>{FindingOf(p, where, *found, region.expected)};
    }
    if (!part.empty()) return std::vector<Finding>();
    for (const Parameter* near : Near(p)) {
      const auto bytes = hf_.Open(*near);
      if (!bytes) continue;
      WB_TRY(const ParameterBytes same_box, box(*bytes));
      if (auto found = FromOther(p, where, search, same_box, {near, ""}, false)) {
        return std::vector<Finding>{*std::move(found)};
      }
    }
    return std::vector<Finding>();
  }

  // What values alone tell when nothing explains them bit for bit.
  Finding Statistical(const Parameter& p, TensorSearch& search, const std::string& part) {
    Finding finding;
    finding.parameter = &p;
    finding.part = part;
    finding.proof = Proof::kStatistical;
    const ValueStatistics s = search.Statistics();
    const int64_t mismatched = search.sample().mismatched;
    if (s.not_finite > 0) {
      finding.proof = Proof::kStructural;
      finding.steps = {
          {"not-finite", fmt::format("{} of {} values looked at", s.not_finite, s.seen)}};
    } else if (const auto few = search.BitFlips(/*any=*/true)) {
      finding.steps = few->steps;
    } else if (const auto rank = std::fabs(s.correlation) > 0.3 ? search.LowRank() : std::nullopt;
               rank) {
      finding.steps = {{"adapter-unmerged",
                        fmt::format("the difference has rank {}; merged twice or with another "
                                    "scale looks the same",
                                    *rank)}};
    } else if (mismatched >= 16 && s.correlation > 0.9 && 2 * mismatched > search.BoxElements()) {
      finding.steps = {
          {"stale", fmt::format("close to the source's values (correlation {:.4f}), as "
                                "those of another step of training are",
                                s.correlation)}};
    } else if (mismatched >= 16 && s.constant) {
      finding.steps = {{"uninitialized", "one value everywhere"}};
    } else if (mismatched >= 16 && s.seen >= 16 &&
               std::fabs(s.correlation) < 0.15 + 2.5 / std::sqrt(static_cast<double>(s.seen)) &&
               !search.SameValues()) {
      finding.steps = {
          {"uninitialized", fmt::format("correlation with the source {:.2f}; values of another "
                                        "checkpoint look the same",
                                        s.correlation)}};
    } else {
      finding.proof = Proof::kStructural;
      finding.steps = {{"unexplained", NearestText(search)}};
    }
    return finding;
  }

  static std::string NearestText(TensorSearch& search) {
    std::string text;
    for (const Nearest& near : search.NearestOf(3)) {
      text += fmt::format("{}{} ({}) gives {:.0f} % of the values that differ",
                          text.empty() ? "nearest: " : ", ", near.step.cause, near.step.what,
                          100 * near.share);
    }
    if (search.SameValues())
      text += (text.empty() ? "" : "; ") + std::string("the same values in another order");
    return text;
  }

  Finding FindingOf(const Parameter& p, const std::string& part, const Explanation& found,
                    const ParameterBytes& from) const {
    Finding finding;
    finding.parameter = &p;
    finding.part = part;
    finding.steps = found.steps;
    finding.proof = found.proof;
    finding.left = found.left;
    if (found.source_element != found.element && part.empty()) {
      finding.evidence = EvidenceOf(p, found, from);
    }
    return finding;
  }

  // "linear_qkv.weight[24, 0] holds 0.5 (0x3f00), which is q_proj.weight[24, 0]"
  std::string EvidenceOf(const Parameter& p, const Explanation& found,
                         const ParameterBytes& from) const {
    const DType dtype = from.sources.dtype;
    const int64_t size = BitsOf(dtype) / 8, at = found.source_element * size;
    std::string text;
    from.plan.Visit(at, at + size, [&](const Run& run) {
      if (run.other == kZeroSource || static_cast<size_t>(run.other) >= p.hf.size()) return;
      const std::string& hf = p.hf[static_cast<size_t>(run.other)];
      const TensorInfo* info = in_.hf.Find(hf);
      const auto bits = ReadElement(from, Op::kNone, dtype, found.source_element);
      text =
          fmt::format("{}{} holds {}, which is {}{}", Name(p),
                      IndexToString(p.shape, found.element), bits ? FormatBits(dtype, *bits) : "",
                      hf, IndexToString(info->shape, run.other_offset / size));
    });
    return text;
  }

  std::string Name(const Parameter& p) const { return in_.model.MegatronName(p, Dialect::kTe); }

  // -- among tensors --

  void NameOthers() {
    // By rule: which layer's values stand in which layer's place.
    std::map<std::pair<const ParamRule*, int64_t>, std::map<int64_t, int64_t>> layers;
    std::map<int64_t, std::map<int64_t, int>> of_layer;  // layer -> source layer -> tensors
    for (const Finding& f : findings_) {
      if (!f.other || f.other->parameter == nullptr ||
          f.other->parameter->rule != f.parameter->rule)
        continue;
      const Parameter& from = *f.other->parameter;
      layers[{f.parameter->rule, f.parameter->expert}][f.parameter->layer] = from.layer;
      if (from.layer != f.parameter->layer) ++of_layer[f.parameter->layer][from.layer];
    }
    for (Finding& f : findings_) {
      if (!f.other) continue;
      f.steps.insert(f.steps.begin(), OtherStep(f, layers, of_layer));
    }
  }

  template <typename Layers, typename OfLayer>
  Step OtherStep(const Finding& f, const Layers& layers, const OfLayer& of_layer) const {
    const Parameter& p = *f.parameter;
    if (f.other->parameter == nullptr) return {"stale", "the values of " + f.other->hf};
    const Parameter& from = *f.other->parameter;
    if (from.rule != p.rule) return {"stale", "the values of " + Name(from)};
    if (from.layer == p.layer) {
      return {"expert-order", fmt::format("expert {} holds expert {}", p.expert, from.expert)};
    }
    const std::string what = fmt::format("layer {} holds layer {}", p.layer, from.layer);
    if (!f.part.empty()) return {"stale", "the values of " + Name(from)};
    const auto& moved = layers.at({p.rule, p.expert});
    const bool source_moved = moved.contains(from.layer) || IsFailing(from);
    int64_t same_shift = 0;
    for (const auto& [layer, source] : moved) same_shift += layer - source == p.layer - from.layer;
    if (source_moved || same_shift > 1) return {"layer-offset", what};
    return {
        of_layer.at(p.layer).at(from.layer) > 1 || TensorsOf(p) == 1 ? "layer-duplicated" : "stale",
        what};
  }

  bool IsFailing(const Parameter& p) const { return failing_.contains(&p); }
  int64_t TensorsOf(const Parameter& p) const { return tensors_of_.at({p.stack, p.layer}); }

  // -- the report --

  struct Group {
    std::string cause;
    Proof proof = Proof::kExact;
    std::vector<const Parameter*> parameters;
    std::vector<std::string> whats;  // the first different ones
    std::set<std::string> seen;      // all of them
    std::string evidence;
  };

  Result<Diagnosis> Collect() {
    Diagnosis out;
    std::vector<Group> groups;
    for (const Finding& f : findings_) {
      std::string& why = out.why[f.parameter];
      for (const Step& step : f.steps) {
        const std::string what = f.part + step.what;
        why += fmt::format("{}{}: {}", why.empty() ? "" : "; ", step.cause, what);
        Add(f, step.cause, what, groups);
      }
      if (f.left > 0) Add(f, "bit-flip", fmt::format("{} more value(s) differ", f.left), groups);
    }
    JoinRoundings(groups);
    for (const Group& group : groups) out.causes.push_back(CauseOf(group));
    return out;
  }

  // A checkpoint that went through a narrower dtype as a whole took the router's bias with it.
  void JoinRoundings(std::vector<Group>& groups) const {
    const auto named = [&](std::string_view cause) {
      return std::find_if(groups.begin(), groups.end(),
                          [&](const Group& g) { return g.cause == cause; });
    };
    const auto all = named("dtype-rounded"), bias = named("router-bias-rounded");
    if (all == groups.end() || bias == groups.end()) return;
    if (2 * all->parameters.size() < in_.usable.size() || all->seen != bias->seen) return;
    all->parameters.insert(all->parameters.end(), bias->parameters.begin(), bias->parameters.end());
    groups.erase(bias);
  }

  static void Add(const Finding& f, const std::string& cause, const std::string& what,
                  std::vector<Group>& groups) {
    auto it = std::find_if(groups.begin(), groups.end(),
                           [&](const Group& g) { return g.cause == cause; });
    if (it == groups.end())
      it = groups.insert(groups.end(), {cause, f.proof, {}, {}, {}, f.evidence});
    if (it->parameters.empty() || it->parameters.back() != f.parameter) {
      it->parameters.push_back(f.parameter);
    }
    if (!what.empty() && it->seen.insert(what).second && it->whats.size() < kMostWhats) {
      it->whats.push_back(what);
    }
    if (it->evidence.empty()) it->evidence = f.evidence;
  }

  Cause CauseOf(const Group& group) const {
    const bool another_step = group.cause == "stale" && group.proof == Proof::kStatistical;
    const CauseText& text = TextOf(another_step ? "stale-step" : group.cause);
    Cause cause;
    cause.id = group.cause;
    cause.proof = group.proof;
    cause.origin = Origin::kCheckpoint;
    cause.where = Patterns(group.parameters);
    cause.message = std::string(text.message);
    cause.evidence = fmt::format("{}", fmt::join(group.whats, "; "));
    if (group.seen.size() > group.whats.size()) {
      cause.evidence += fmt::format("; and {} more", group.seen.size() - group.whats.size());
    }
    if (!group.evidence.empty()) cause.evidence += "; " + group.evidence;
    if (!text.fix.empty()) cause.hint = fmt::format("made by {}: {}", text.rule, text.fix);
    return cause;
  }

  // All layers of a rule as one pattern, else the names.
  std::vector<std::string> Patterns(const std::vector<const Parameter*>& parameters) const {
    std::map<const ParamRule*, std::vector<const Parameter*>> by_rule;
    std::vector<const ParamRule*> order;
    for (const Parameter* p : parameters) {
      if (by_rule[p->rule].empty()) order.push_back(p->rule);
      by_rule[p->rule].push_back(p);
    }
    std::vector<std::string> out;
    for (const ParamRule* rule : order) {
      const auto& some = by_rule[rule];
      const auto all = std::count_if(in_.usable.begin(), in_.usable.end(),
                                     [&](const Parameter* q) { return q->rule == rule; });
      if (all > 1 && static_cast<size_t>(all) == std::set(some.begin(), some.end()).size()) {
        out.push_back(in_.model.MegatronPattern(*some[0], Dialect::kTe));
        continue;
      }
      for (const Parameter* p : some) out.push_back(Name(*p));
    }
    return out;
  }

  const DifferingTensors& in_;
  const SearchLimits limits_;
  const HfParameters hf_;
  const MegatronParameters megatron_;
  std::set<const Parameter*> failing_;
  std::optional<ScaleDonors> donors_;
  std::map<const ParamRule*, std::vector<const Parameter*>> sources_of_;
  std::map<std::pair<const StackRule*, int64_t>, int64_t> tensors_of_;  // of a layer, but experts
  std::map<const ParamRule*, size_t> inexact_;
  std::map<std::pair<Shape, DType>,
           std::optional<std::unordered_multimap<uint64_t, const Parameter*>>>
      index_;
  std::map<std::tuple<Shape, DType, Op, DType>,
           std::optional<std::unordered_multimap<uint64_t, const TensorInfo*>>>
      hf_index_;
  std::map<std::pair<const ParamRule*, int64_t>, std::optional<ParameterBytes>> experts_;
  std::vector<Finding> findings_;
};

}  // namespace

Result<Diagnosis> ExplainDifferences(const DifferingTensors& input, int threads) {
  return Explainer(input, threads).Explain();
}

}  // namespace weighbridge
