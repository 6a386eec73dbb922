#include "checks/diagnose/search.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <set>
#include <tuple>

#include "base/threads.h"
#include "checks/difference_cause.h"
#include "checks/moves.h"
#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

constexpr size_t kDifferingInSample = 40, kAnyInSample = 32;
constexpr int64_t kStatistics = 4096;
constexpr int64_t kBlockElements = 256 << 10;
constexpr int64_t kFewElements = 8;
constexpr int64_t kMostBlocks = 1024;         // that are matched with each other
constexpr int64_t kMostRuns = 4 << 20;        // of a composed plan
constexpr int kMostConfirmed = 12;            // hypotheses that are tried on every byte
constexpr int64_t kTableElements = 64 << 10;  // from here on a table of all 16-bit values pays

uint64_t BitsAt(DType dtype, std::span<const std::byte> bytes, int64_t i) {
  return RawBits(dtype, bytes.data(), static_cast<size_t>(i));
}

uint64_t Mixed(uint64_t bits) {
  bits = (bits + 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9;
  bits = (bits ^ (bits >> 29)) * 0x94d049bb133111eb;
  return bits ^ (bits >> 32);
}

template <typename Word>
Word WordAt(std::span<const std::byte> bytes, size_t i) {
  Word word;
  std::memcpy(&word, &bytes[i * sizeof(Word)], sizeof(Word));
  return word;
}

// visit(i) for each element that differs.
template <typename Word, typename Visit>
void VisitDifferingWords(std::span<const std::byte> a, std::span<const std::byte> b,
                         const Visit& visit) {
  for (size_t i = 0; i < a.size() / sizeof(Word); ++i) {
    if (WordAt<Word>(a, i) != WordAt<Word>(b, i)) visit(static_cast<int64_t>(i));
  }
}

template <typename Visit>
void VisitDiffering(std::span<const std::byte> a, std::span<const std::byte> b, int64_t size,
                    const Visit& visit) {
  if (size == 2) return VisitDifferingWords<uint16_t>(a, b, visit);
  if (size == 4) return VisitDifferingWords<uint32_t>(a, b, visit);
  const auto bytes = static_cast<size_t>(size);
  for (size_t i = 0; i < a.size() / bytes; ++i) {
    if (std::memcmp(&a[i * bytes], &b[i * bytes], bytes) != 0) visit(static_cast<int64_t>(i));
  }
}

// "3, 0, 1, 2", the first of many.
std::string OrderText(const std::vector<int64_t>& order) {
  const auto shown = std::min<std::ptrdiff_t>(16, std::ssize(order));
  return fmt::format("{}{}", fmt::join(order.begin(), order.begin() + shown, ", "),
                     shown < std::ssize(order) ? ", ..." : "");
}

// A sum over elements that does not depend on their order.
template <typename Word>
uint64_t SumOfWords(std::span<const std::byte> bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes.size() / sizeof(Word); ++i) sum += Mixed(WordAt<Word>(bytes, i));
  return sum;
}

uint64_t SumOfElements(DType dtype, std::span<const std::byte> bytes, int64_t count) {
  if (BitsOf(dtype) == 16) return SumOfWords<uint16_t>(bytes);
  if (BitsOf(dtype) == 32) return SumOfWords<uint32_t>(bytes);
  uint64_t sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += Mixed(BitsAt(dtype, bytes, i));
  return sum;
}

}  // namespace

std::optional<uint64_t> ReadElement(const ParameterBytes& bytes, Op op, DType dtype, int64_t at) {
  thread_local std::vector<std::byte> scratch;
  std::byte buffer[16];
  const std::span<std::byte> out(buffer, static_cast<size_t>(BitsOf(dtype) / 8));
  if (!GatherElements(bytes.plan, bytes.sources, op, dtype, at, out, scratch)) return std::nullopt;
  return RawBits(dtype, buffer, 0);
}

struct TensorSearch::Candidate {
  const ParameterBytes* from = nullptr;
  std::vector<size_t> moves;             // of moves_, in their order
  const ValueChange* change = nullptr;   // of the values
  bool scaled = false;                   // by a constant that is to be found
  int64_t free_begin = 0, free_end = 0;  // elements that may be anything
};

// A candidate that is tried on every byte.
struct TensorSearch::Comparison {
  const Candidate& candidate;
  const Plan& plan;
  const std::vector<uint64_t>& table;  // of `change`, by the value's bits; empty: none
  ScaleInterval* scale;
};

TensorSearch::TensorSearch(const TensorPair& pair, const TensorForm& form, const ValueForm& values,
                           SearchLimits limits)
    : pair_(pair), form_(form), values_(values), limits_(limits) {}

int64_t TensorSearch::Columns() const {
  const Shape& shape = pair_.actual.shape;
  return shape.empty() || shape[0] == 0 ? 1 : pair_.numel() / shape[0];
}

// The elements of block `b` that differ: how many, and `each` of them spread over it.
Status TensorSearch::SampleBlock(size_t b, size_t each, BlockFound& found) const {
  thread_local std::vector<std::byte> expected, actual, scratch;
  const DType dtype = pair_.dtype();
  const int64_t size = BitsOf(dtype) / 8, begin = static_cast<int64_t>(b) * kBlockElements;
  const int64_t n = std::min(kBlockElements, pair_.numel() - begin);
  expected.resize(static_cast<size_t>(n * size));
  actual.resize(expected.size());
  WB_RETURN_IF_ERROR(GatherElements(pair_.expected.plan, pair_.expected.sources, pair_.expected.op,
                                    dtype, begin, expected, scratch));
  WB_RETURN_IF_ERROR(GatherElements(pair_.actual.plan, pair_.actual.sources, Op::kNone, dtype,
                                    begin, actual, scratch));
  std::vector<int64_t> differing;
  VisitDiffering(expected, actual, size, [&](int64_t i) { differing.push_back(begin + i); });
  found.mismatched = static_cast<int64_t>(differing.size());
  const int64_t columns = Columns();
  found.first_column = columns;
  for (int64_t e : differing) {
    found.first_column = std::min(found.first_column, e % columns);
    found.last_column = std::max(found.last_column, e % columns);
  }
  const size_t take = std::min(each, differing.size());
  for (size_t i = 0; i < take; ++i) {
    found.elements.push_back(differing[i * differing.size() / take]);
  }
  if (!differing.empty()) found.elements.push_back(differing.back());
  return {};
}

Status TensorSearch::TakeSample() {
  const DType dtype = pair_.dtype();
  const int64_t numel = pair_.numel();
  const auto blocks = static_cast<size_t>((numel + kBlockElements - 1) / kBlockElements);
  std::vector<BlockFound> found(blocks);
  const size_t each = std::max<size_t>(8, kDifferingInSample / std::max<size_t>(blocks, 1));
  WB_RETURN_IF_ERROR(TryParallelFor(blocks, limits_.threads,
                                    [&](size_t b) { return SampleBlock(b, each, found[b]); }));
  std::vector<int64_t> differing;
  sample_.first_column = Columns();
  for (BlockFound& f : found) {
    sample_.mismatched += f.mismatched;
    sample_.first_column = std::min(sample_.first_column, f.first_column);
    sample_.last_column = std::max(sample_.last_column, f.last_column);
    differing.insert(differing.end(), f.elements.begin(), f.elements.end());
  }
  std::sort(differing.begin(), differing.end());
  differing.erase(std::unique(differing.begin(), differing.end()), differing.end());
  if (differing.empty()) return {};
  sample_.first_row = differing.front() / Columns();
  sample_.last_row = differing.back() / Columns();
  const size_t take = std::min(kDifferingInSample, differing.size());
  for (size_t i = 0; i < take; ++i) {
    sample_.elements.push_back(differing[i * differing.size() / take]);
  }
  std::mt19937_64 random(static_cast<uint64_t>(numel));
  for (size_t i = 0; i < kAnyInSample; ++i) {
    sample_.elements.push_back(static_cast<int64_t>(random() % static_cast<uint64_t>(numel)));
  }
  for (int64_t e : sample_.elements) {
    sample_.found.push_back(ReadElement(pair_.actual, Op::kNone, dtype, e).value_or(0));
  }
  Generate();
  return {};
}

void TensorSearch::Generate() {
  moves_ = KnownRearrangements(form_);
  changes_ = KnownValueChanges(values_);
  Discover();
  maps_.clear();
  for (const Rearrangement& move : moves_) maps_.emplace_back(move.pieces);
}

bool TensorSearch::SameAt(int64_t found_element, int64_t expected_element) const {
  const DType dtype = pair_.dtype();
  return ReadElement(pair_.actual, Op::kNone, dtype, found_element) ==
         ReadElement(pair_.expected, pair_.expected.op, dtype, expected_element);
}

// Arrangements that no list holds are read off the tensor: which block stands where.
void TensorSearch::Discover() {
  known_ = moves_.size();
  if (pair_.actual.shape.empty() || MayBeFlips()) return;
  DiscoverShards();
  DiscoverShift();
  known_ = moves_.size();
  DiscoverHeads();
  DiscoverExperts();
}

void TensorSearch::DiscoverShards() {
  if (form_.cut.replicated()) return;
  const Shape& shape = form_.shape;
  const int64_t n = shape[0], k = Numel(shape) / std::max<int64_t>(n, 1);
  for (int t : form_.tp_sizes) {
    const std::vector<int64_t> whole = {n};
    const auto& components = form_.cut.components.empty() ? whole : form_.cut.components;
    bool fits = form_.cut.axis == 0 || (k % t == 0 && shape.size() == 2);
    // A rank holds whole query groups.
    if (form_.rows.kind == RowKind::kQkv) fits = fits && form_.rows.groups % t == 0;
    if (form_.cut.axis == 0) {
      for (int64_t c : components) fits = fits && c % t == 0 && c >= t;
    }
    if (!fits) continue;
    std::mt19937_64 random(static_cast<uint64_t>(t));
    std::vector<int> order;
    const auto same_shard = [&](int i, int j) {
      int64_t at = 0;
      for (int64_t component : form_.cut.axis == 0 ? components : whole) {
        for (int probe = 0; probe < 6; ++probe) {
          const auto pick = [&](int64_t extent) {
            return static_cast<int64_t>(random() % static_cast<uint64_t>(extent));
          };
          int64_t row = at + pick(form_.cut.axis == 0 ? component / t : component);
          int64_t column = pick(form_.cut.axis == 0 ? k : k / t);
          const auto element = [&](int shard) {
            if (form_.cut.axis == 0) return (row + shard * (component / t)) * k + column;
            return row * k + column + shard * (k / t);
          };
          if (!SameAt(element(i), element(j))) return false;
        }
        at += component;
      }
      return true;
    };
    for (int i = 0; i < t && static_cast<int>(order.size()) == i; ++i) {
      for (int step = 0; step < t; ++step) {
        const int j = (i + step) % t;
        if (!same_shard(i, j)) continue;
        order.push_back(j);
        break;
      }
    }
    if (static_cast<int>(order.size()) != t) continue;
    std::vector<int> plain(static_cast<size_t>(t));
    for (int i = 0; i < t; ++i) plain[static_cast<size_t>(i)] = i;
    if (order == plain) continue;
    const bool twice = std::set<int>(order.begin(), order.end()).size() < order.size();
    moves_.push_back({"tp-order",
                      fmt::format("shards of {} ranks: {}{}", t, fmt::join(order, ", "),
                                  twice ? " (one of them twice)" : ""),
                      ShardsInOrder(shape, form_.cut, order)});
    return;
  }
}

std::vector<int64_t> TensorSearch::MatchBlocks(int64_t blocks, int64_t rows) const {
  const int64_t k = pair_.numel() / pair_.actual.shape[0], size = rows * k;
  std::mt19937_64 random(static_cast<uint64_t>(blocks));
  std::vector<int64_t> probes;
  for (int i = 0; i < 6; ++i) {
    probes.push_back(static_cast<int64_t>(random() % static_cast<uint64_t>(size)));
  }
  std::vector<int64_t> order;
  for (int64_t i = 0; i < blocks; ++i) {
    int64_t match = -1;
    for (int64_t step = 0; step < blocks && match < 0; ++step) {
      const int64_t j = (i + step) % blocks;
      const bool same = std::all_of(probes.begin(), probes.end(), [&](int64_t probe) {
        return SameAt(i * size + probe, j * size + probe);
      });
      if (same) match = j;
    }
    if (match < 0) return {};
    order.push_back(match);
  }
  return order;
}

void TensorSearch::DiscoverHeads() {
  const RowStructure& rows = form_.rows;
  int64_t block = 0;
  if (rows.kind == RowKind::kQkv || (rows.kind == RowKind::kPlain && rows.parts[0].heads > 1)) {
    block = rows.parts[0].rows / rows.parts[0].heads;
  } else if (rows.kind == RowKind::kMlaQuery || rows.kind == RowKind::kMlaUp) {
    block = rows.group_rows();
  }
  const int64_t n = form_.shape[0];
  if (block < 1 || n % block != 0 || n / block < 2 || n / block > kMostBlocks) return;
  const std::vector<int64_t> order = MatchBlocks(n / block, block);
  bool moved = false, mixed = false;
  const auto part_of = [&](int64_t i) {
    int64_t row = i * block % rows.group_rows(), at = 0;
    for (size_t p = 0; p < rows.parts.size(); ++p) {
      if ((at += rows.parts[p].rows) > row) return p;
    }
    return rows.parts.size();
  };
  for (size_t i = 0; i < order.size(); ++i) {
    moved = moved || order[i] != static_cast<int64_t>(i);
    mixed = mixed || part_of(order[i]) != part_of(static_cast<int64_t>(i));
  }
  if (!moved) return;
  moves_.push_back({mixed ? "qkv-order" : "qkv-head-order",
                    "heads in the order " + OrderText(order),
                    BlocksInOrder(form_.shape, block, order)});
}

// Of a router: which expert's row stands where.
void TensorSearch::DiscoverExperts() {
  const int64_t n = form_.shape[0];
  if (!form_.expert_rows || n < 2 || n > kMostBlocks) return;
  const std::vector<int64_t> order = MatchBlocks(n, 1);
  if (order.empty() ||
      std::adjacent_find(order.begin(), order.end(), std::greater_equal<>()) == order.end())
    return;
  moves_.push_back({"expert-order", "the router's rows in the order " + OrderText(order),
                    BlocksInOrder(form_.shape, 1, order)});
}

// Of a vocabulary: the row that stands in the middle of what differs is looked for everywhere.
void TensorSearch::DiscoverShift() {
  const int64_t n = form_.shape[0], k = Numel(form_.shape) / n;
  if (!form_.vocabulary || k < 2) return;
  const size_t differing = sample_.elements.size() - kAnyInSample;
  const int64_t row = sample_.elements[differing / 2] / k;
  const auto same_row = [&](int64_t found, int64_t expected) {
    for (int64_t column : {int64_t{0}, k / 3, k / 2, k - 1}) {
      if (!SameAt(found * k + column, expected * k + column)) return false;
    }
    return true;
  };
  for (int64_t step = 1; step < n; ++step) {
    for (const int64_t source : {row - step, row + step}) {
      if (source < 0 || source >= n || !same_row(row, source)) continue;
      const int64_t shift = row - source;
      moves_.push_back(
          {"vocab-shifted",
           fmt::format("rows moved {} by {}", shift > 0 ? "down" : "up", std::abs(shift)),
           RowsShifted(form_.shape, shift)});
      shift_ = shift;
      return;
    }
  }
}

// The rows that a shift brings from nowhere may hold anything, as long as they are few.
void TensorSearch::FreeEdge(Candidate& candidate) const {
  if (4 * std::abs(shift_) > form_.shape[0]) return;
  const int64_t k = Numel(form_.shape) / form_.shape[0];
  candidate.free_begin = shift_ > 0 ? 0 : (form_.shape[0] + shift_) * k;
  candidate.free_end = shift_ > 0 ? shift_ * k : Numel(form_.shape);
}

bool TensorSearch::MayBeFlips() const {
  return sample_.mismatched <= kFewElements && pair_.numel() >= 16 * sample_.mismatched;
}

// A few elements with a bit or a byte changed, or with `any` other value.
std::optional<Explanation> TensorSearch::BitFlips(bool any) const {
  if (!MayBeFlips()) return std::nullopt;
  const DType dtype = pair_.dtype();
  std::string text;
  int64_t previous = -2;
  for (size_t i = 0; i + kAnyInSample < sample_.elements.size(); ++i) {
    const int64_t e = sample_.elements[i];
    const auto expected = Expected(e);
    const uint64_t found = sample_.found[i];
    if (!expected || e == previous + 1) return std::nullopt;
    if (!any && !FewBits(*expected ^ found)) return std::nullopt;
    previous = e;
    text += fmt::format("{}{}: {} became {}", text.empty() ? "" : "; ",
                        IndexToString(pair_.actual.shape, e), FormatBits(dtype, *expected),
                        FormatBits(dtype, found));
  }
  return Explanation{{{"bit-flip", text}}, Proof::kStatistical, 0};
}

std::optional<uint64_t> TensorSearch::Expected(int64_t element) const {
  return ReadElement(pair_.expected, pair_.expected.op, pair_.dtype(), element);
}

bool TensorSearch::GivesAt(const Candidate& candidate, int64_t element, uint64_t found) const {
  const ParameterBytes& from = *candidate.from;
  if (candidate.change == nullptr) {
    return ReadElement(from, from.op, pair_.dtype(), element) == found;
  }
  const DType dtype = from.sources.dtype;
  const auto bits = ReadElement(from, Op::kNone, dtype, element);
  return bits && candidate.change->Gives(BitsToDouble(dtype, *bits), found);
}

bool TensorSearch::HoldsOnSample(const Candidate& candidate) const {
  ScaleInterval scale(pair_.dtype());
  for (size_t i = 0; i < sample_.elements.size(); ++i) {
    int64_t e = sample_.elements[i];
    if (e >= candidate.free_begin && e < candidate.free_end) continue;
    for (size_t m = candidate.moves.size(); m-- > 0 && e >= 0;) e = maps_[candidate.moves[m]](e);
    if (e < 0) return false;
    if (candidate.scaled) {
      const auto bits =
          ReadElement(*candidate.from, candidate.from->op, candidate.from->sources.dtype, e);
      if (!bits ||
          !scale.Add(BitsToDouble(candidate.from->sources.dtype, *bits), sample_.found[i])) {
        return false;
      }
    } else if (!GivesAt(candidate, e, sample_.found[i])) {
      return false;
    }
  }
  return !candidate.scaled || scale.Constant().has_value();
}

// How many elements differ all the same; stops when it is too many. kUnsupported when the
// rearrangement breaks the tensor into too many runs.
Result<int64_t> TensorSearch::CountDifferences(const Candidate& candidate,
                                               ScaleInterval* scale) const {
  const DType from = candidate.from->sources.dtype;
  const int64_t from_size = BitsOf(from) / 8, numel = pair_.numel();
  Plan plan = candidate.from->plan;
  for (size_t m : candidate.moves) {
    WB_TRY(const Plan outer, CompileByTarget(moves_[m].pieces, numel, from_size));
    int64_t chunks = 0;
    for (const Run& run : outer.runs()) chunks += run.count;
    if (chunks > kMostRuns && plan.runs().size() > 1) {
      return Fail(ErrorKind::kUnsupported, "too-many-runs", "the rearrangement is too fine");
    }
    plan = plan.runs().size() == 1 && plan.runs()[0].count == 1 && plan.runs()[0].other == 0 &&
                   plan.runs()[0].other_offset == 0
               ? outer
               : Compose(outer, plan);
  }
  std::vector<uint64_t> table;
  if (candidate.change != nullptr && !candidate.change->holds && BitsOf(from) == 16 &&
      numel >= kTableElements) {
    for (uint64_t bits = 0; bits < 65536; ++bits) {
      table.push_back(candidate.change->apply(BitsToDouble(from, bits)).value_or(0));
    }
  }
  const Comparison comparison{candidate, plan, table, scale};
  const auto blocks = static_cast<size_t>((numel + kBlockElements - 1) / kBlockElements);
  std::atomic<int64_t> differing{0};
  WB_RETURN_IF_ERROR(TryParallelFor(blocks, scale ? 1 : limits_.threads, [&](size_t b) {
    return differing.load(std::memory_order_relaxed) > kFewElements
               ? Status()
               : CountBlock(comparison, b, differing);
  }));
  return differing.load();
}

Status TensorSearch::CountBlock(const Comparison& c, size_t b,
                                std::atomic<int64_t>& differing) const {
  thread_local std::vector<std::byte> expected, actual, scratch;
  const DType from = c.candidate.from->sources.dtype, to = pair_.dtype();
  const int64_t begin = static_cast<int64_t>(b) * kBlockElements;
  const int64_t n = std::min(kBlockElements, pair_.numel() - begin);
  // What is compared with: the expected bits, or HF's values, which are changed here.
  const bool values = c.candidate.change != nullptr || c.scale != nullptr;
  const Op op = c.candidate.change != nullptr ? Op::kNone : c.candidate.from->op;
  const DType read = values ? from : to;
  expected.resize(static_cast<size_t>(n * BitsOf(read) / 8));
  actual.resize(static_cast<size_t>(n * BitsOf(to) / 8));
  WB_RETURN_IF_ERROR(
      GatherElements(c.plan, c.candidate.from->sources, op, read, begin, expected, scratch));
  WB_RETURN_IF_ERROR(GatherElements(pair_.actual.plan, pair_.actual.sources, Op::kNone, to, begin,
                                    actual, scratch));
  if (!values && expected == actual) return {};
  int64_t count = 0;
  for (int64_t i = 0; i < n && count <= kFewElements; ++i) {
    const int64_t e = begin + i;
    if (e >= c.candidate.free_begin && e < c.candidate.free_end) continue;
    const uint64_t found = BitsAt(to, actual, i), bits = BitsAt(read, expected, i);
    if (c.scale != nullptr) {
      count += c.scale->Add(BitsToDouble(from, bits), found) ? 0 : kFewElements + 1;
    } else if (!values) {
      count += bits != found;
    } else if (!c.table.empty()) {
      count += c.table[bits] != found;
    } else {
      count += !c.candidate.change->Gives(BitsToDouble(from, bits), found);
    }
  }
  differing += count;
  return {};
}

std::optional<Explanation> TensorSearch::Confirm(const Candidate& candidate) {
  ScaleInterval interval(pair_.dtype());
  const Result<int64_t> left = CountDifferences(candidate, candidate.scaled ? &interval : nullptr);
  if (!left || *left > kFewElements || (*left > 0 && pair_.numel() < 64 * *left)) {
    return std::nullopt;
  }
  if (candidate.scaled && (*left > 0 || !interval.Constant())) return std::nullopt;
  Explanation out;
  for (size_t m : candidate.moves) {
    out.steps.push_back({std::string(moves_[m].cause), moves_[m].what});
  }
  if (candidate.change != nullptr) {
    out.steps.push_back({std::string(candidate.change->cause), candidate.change->what});
  }
  if (candidate.scaled) {
    out.steps.push_back({"scaled", fmt::format("multiplied by {:.9g}", *interval.Constant())});
  }
  out.left = *left;
  out.element = out.source_element = sample_.elements[0];
  for (size_t m = candidate.moves.size(); m-- > 0;) {
    out.source_element = maps_[candidate.moves[m]](out.source_element);
  }
  return out;
}

std::optional<Explanation> TensorSearch::TryAll(const std::vector<Candidate>& candidates) {
  int confirmed = 0;
  for (const Candidate& candidate : candidates) {
    if (!HoldsOnSample(candidate)) continue;
    if (auto found = Confirm(candidate)) return found;
    if (++confirmed == kMostConfirmed) break;
  }
  return std::nullopt;
}

std::optional<Explanation> TensorSearch::Search(bool pairs) {
  const ParameterBytes* own = &pair_.expected;
  std::vector<Candidate> alone;
  for (const ValueChange& change : changes_) alone.push_back({own, {}, &change});
  // A rounding may change a few values only.
  if (auto found = TryAll(alone)) return found;
  if (auto found = BitFlips(/*any=*/false)) return found;
  alone.clear();
  for (size_t m = 0; m < known_; ++m) {
    alone.push_back({own, {m}});
    if (moves_[m].cause == "vocab-shifted") FreeEdge(alone.back());
  }
  if (!changes_.empty()) alone.push_back({own, {}, nullptr, true});
  if (auto found = TryAll(alone)) return found;
  // An order of heads that has no name of its own: after pairs that have.
  std::vector<Candidate> last;
  for (size_t m = known_; m < moves_.size(); ++m) last.push_back({own, {m}});
  if (!pairs) return TryAll(last);
  std::vector<Candidate> both;
  for (size_t m = 0; m < known_; ++m) {
    for (const ValueChange& change : changes_) {
      if (change.cause != "zero-filled") both.push_back({own, {m}, &change});
    }
    if (!changes_.empty()) both.push_back({own, {m}, nullptr, true});
  }
  for (size_t a = 0; a < known_; ++a) {
    for (size_t b = 0; b < known_; ++b) {
      if (moves_[a].cause != moves_[b].cause) both.push_back({own, {a, b}});
    }
  }
  if (auto found = TryAll(both)) return found;
  return TryAll(last);
}

std::optional<Explanation> TensorSearch::SearchFrom(const ParameterBytes& other, bool changed) {
  std::vector<Candidate> candidates = {{&other, {}}};
  if (changed) {
    for (const ValueChange& change : changes_) {
      if (change.cause != "zero-filled") candidates.push_back({&other, {}, &change});
    }
    for (size_t m = 0; m < moves_.size(); ++m) candidates.push_back({&other, {m}});
  }
  return TryAll(candidates);
}

ValueStatistics TensorSearch::Statistics() const {
  ValueStatistics out;
  const DType dtype = pair_.dtype();
  std::mt19937_64 random(7);
  // Within the box of what differs.
  const int64_t rows = sample_.last_row - sample_.first_row + 1;
  const int64_t columns = sample_.last_column - sample_.first_column + 1;
  double sx = 0, sy = 0, sxx = 0, syy = 0, sxy = 0;
  std::optional<uint64_t> first;
  out.constant = true;
  // A few among many may not be met by chance.
  for (size_t i = 0; i + kAnyInSample < sample_.elements.size(); ++i) {
    const auto expected = Expected(sample_.elements[i]);
    out.not_finite += expected && std::isfinite(BitsToDouble(dtype, *expected)) &&
                      !std::isfinite(BitsToDouble(dtype, sample_.found[i]));
  }
  const int64_t picks = std::min<int64_t>(rows * columns, kStatistics);
  int64_t counted = 0;
  for (int64_t i = 0; i < picks; ++i) {
    const int64_t at = picks < kStatistics
                           ? i
                           : static_cast<int64_t>(random() % static_cast<uint64_t>(rows * columns));
    const int64_t e =
        (sample_.first_row + at / columns) * Columns() + sample_.first_column + at % columns;
    const auto expected = Expected(e);
    const auto found = ReadElement(pair_.actual, Op::kNone, dtype, e);
    if (!expected || !found) return out;
    const double x = BitsToDouble(dtype, *expected), y = BitsToDouble(dtype, *found);
    out.constant = out.constant && (!first || *first == *found);
    first = found;
    ++out.seen;
    if (std::isfinite(x) && !std::isfinite(y)) ++out.not_finite;
    if (!std::isfinite(x) || !std::isfinite(y)) continue;
    ++counted;
    sx += x;
    sy += y;
    sxx += x * x;
    syy += y * y;
    sxy += x * y;
  }
  const auto n = static_cast<double>(counted);
  const double vx = n * sxx - sx * sx, vy = n * syy - sy * sy;
  if (vx > 0 && vy > 0) out.correlation = (n * sxy - sx * sy) / std::sqrt(vx * vy);
  return out;
}

bool TensorSearch::SameValues() {
  if (!same_values_) same_values_ = HaveSameSums();
  return *same_values_;
}

bool TensorSearch::HaveSameSums() const {
  const DType dtype = pair_.dtype();
  const int64_t size = BitsOf(dtype) / 8;
  uint64_t sums[2] = {0, 0};
  std::vector<std::byte> block, scratch;
  for (int64_t begin = 0; begin < pair_.numel(); begin += kBlockElements) {
    const int64_t n = std::min(kBlockElements, pair_.numel() - begin);
    block.resize(static_cast<size_t>(n * size));
    for (const auto& [side, op, sum] : {std::tuple(&pair_.expected, pair_.expected.op, &sums[0]),
                                        std::tuple(&pair_.actual, Op::kNone, &sums[1])}) {
      if (!GatherElements(side->plan, side->sources, op, dtype, begin, block, scratch))
        return false;
      *sum += SumOfElements(dtype, block, n);
    }
  }
  return sums[0] == sums[1];
}

int64_t TensorSearch::BoxElements() const {
  return (sample_.last_row - sample_.first_row + 1) *
         (sample_.last_column - sample_.first_column + 1);
}

std::optional<int> TensorSearch::LowRank() const {
  constexpr int64_t kMostSide = 40, kLeastSide = 12;
  // Of the box that differs, and of one that differs nearly everywhere: rows of zeros between
  // equal ones are of low rank too.
  const int64_t rows = sample_.last_row - sample_.first_row + 1;
  const int64_t columns = sample_.last_column - sample_.first_column + 1;
  const int64_t side = std::min({kMostSide, rows, columns});
  if (side < kLeastSide || 3 * sample_.mismatched < BoxElements()) return std::nullopt;
  const int most_rank = static_cast<int>(std::min<int64_t>(12, side / 3));
  const DType dtype = pair_.dtype();
  std::mt19937_64 random(11);
  std::vector<int64_t> r, c;
  for (int64_t i = 0; i < side; ++i) {
    const auto pick = [&](int64_t extent) {
      return (extent * i + static_cast<int64_t>(random() % static_cast<uint64_t>(extent))) / side;
    };
    r.push_back(sample_.first_row + pick(rows));
    c.push_back(sample_.first_column + pick(columns));
  }
  std::vector<std::vector<double>> d(r.size(), std::vector<double>(c.size()));
  double all = 0;
  for (size_t i = 0; i < r.size(); ++i) {
    for (size_t j = 0; j < c.size(); ++j) {
      const int64_t e = r[i] * Columns() + c[j];
      const auto expected = Expected(e);
      const auto found = ReadElement(pair_.actual, Op::kNone, dtype, e);
      if (!expected || !found) return std::nullopt;
      d[i][j] = BitsToDouble(dtype, *found) - BitsToDouble(dtype, *expected);
      all += d[i][j] * d[i][j];
    }
  }
  if (!(all > 0) || !std::isfinite(all)) return std::nullopt;
  // Gaussian elimination with full pivoting: what is left after each step.
  double left = all;
  for (int rank = 0; rank <= most_rank; ++rank) {
    if (left < 0.02 * all) return rank;
    size_t pi = 0, pj = 0;
    for (size_t i = 0; i < d.size(); ++i) {
      for (size_t j = 0; j < d.size(); ++j) {
        if (std::fabs(d[i][j]) > std::fabs(d[pi][pj])) pi = i, pj = j;
      }
    }
    const double pivot = d[pi][pj];
    const std::vector<double> row = d[pi];
    left = 0;
    for (auto& line : d) {
      const double factor = line[pj] / pivot;
      for (size_t j = 0; j < line.size(); ++j) line[j] -= factor * row[j];
      for (double x : line) left += x * x;
    }
  }
  return std::nullopt;
}

std::vector<Nearest> TensorSearch::NearestOf(size_t count) {
  std::vector<Nearest> all;
  const size_t differing = sample_.elements.size() - kAnyInSample;
  const auto add = [&](const Candidate& candidate, std::string_view cause,
                       const std::string& what) {
    int64_t right = 0;
    for (size_t i = 0; i < differing; ++i) {
      int64_t e = sample_.elements[i];
      for (size_t m : candidate.moves) e = maps_[m](e);
      right += e >= 0 && GivesAt(candidate, e, sample_.found[i]);
    }
    if (right > 0) {
      all.push_back({{std::string(cause), what},
                     static_cast<double>(right) / static_cast<double>(differing)});
    }
  };
  for (const ValueChange& c : changes_) add({&pair_.expected, {}, &c}, c.cause, c.what);
  for (size_t m = 0; m < moves_.size(); ++m) {
    add({&pair_.expected, {m}}, moves_[m].cause, moves_[m].what);
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const Nearest& a, const Nearest& b) { return a.share > b.share; });
  if (all.size() > count) all.resize(count);
  return all;
}

}  // namespace weighbridge
