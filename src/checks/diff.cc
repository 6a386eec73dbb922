#include "checks/diff.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <map>

#include "base/strings.h"
#include "base/threads.h"
#include "checks/difference_cause.h"
#include "checks/metrics.h"
#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

// Tensors are compared in windows of about this many bytes a side, so that what is kept per block
// stays small and both files are read in order.
constexpr uint64_t kWindowBytes = uint64_t{256} << 20;

struct Pair {
  const TensorInfo* expected = nullptr;
  const TensorInfo* actual = nullptr;
  ResultRow* row = nullptr;
};

struct Block {
  size_t pair = 0;
  int64_t first = 0, count = 0;
};

TensorRef Ref(const TensorInfo& t) { return {t.name, t.shape, t.dtype}; }

bool IsExtraState(const std::string& name) { return name.ends_with("_extra_state"); }

// Names of layers and experts as one pattern: "layers.*.weight".
std::string NumbersAsStars(const std::string& name) {
  std::string out;
  for (size_t i = 0; i < name.size();) {
    size_t end = name.find('.', i);
    if (end == std::string::npos) end = name.size();
    const std::string part = name.substr(i, end - i);
    const bool number = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    out += number ? "*" : part;
    if (end < name.size()) out += '.';
    i = end + 1;
  }
  return out;
}

// Collects causes by id: the first one's evidence, and where all of them are.
class Causes {
 public:
  void Add(const std::string& name, const DifferenceCause& cause) {
    auto [it, fresh] = by_id_.try_emplace(cause.id);
    Entry& entry = it->second;
    if (fresh) {
      entry.first = cause;
      entry.first_name = name;
    }
    entry.names.push_back(name);
  }

  std::vector<Cause> Take() {
    std::vector<Cause> out;
    for (auto& [id, entry] : by_id_) {
      const DifferenceCause& first = entry.first;
      Cause cause{.id = id, .proof = first.proof, .origin = Origin::kCheckpoint};
      cause.where = Where(entry.names);
      cause.message = first.message;
      if (entry.names.size() > 1) {
        cause.message = fmt::format("{} tensors: {}", entry.names.size(), cause.message);
      }
      if (!first.evidence.empty()) {
        cause.evidence = fmt::format("{}: {}", entry.first_name, first.evidence);
      }
      cause.hint = first.hint;
      out.push_back(std::move(cause));
    }
    return out;
  }

 private:
  struct Entry {
    DifferenceCause first;
    std::string first_name;
    std::vector<std::string> names;
  };

  static std::vector<std::string> Where(const std::vector<std::string>& names) {
    if (names.size() <= 8) return names;
    std::vector<std::string> patterns;
    for (const std::string& name : names) patterns.push_back(NumbersAsStars(name));
    std::sort(patterns.begin(), patterns.end());
    patterns.erase(std::unique(patterns.begin(), patterns.end()), patterns.end());
    return patterns;
  }

  std::map<std::string, Entry> by_id_;
};

class Differ {
 public:
  Differ(const Checkpoint& expected, const Checkpoint& actual, const DiffOptions& options)
      : expected_(expected), actual_(actual), options_(options) {}

  Report Run() {
    const auto start = std::chrono::steady_clock::now();
    PairUp();
    for (size_t begin = 0; begin < pairs_.size();) begin = CompareWindow(begin);
    report_.command = "diff";
    report_.level = "L1";
    for (ResultRow& row : rows_) report_.results.push_back(std::move(row));
    report_.causes = causes_.Take();
    for (const Checkpoint* side : {&expected_, &actual_}) {
      for (const CheckpointNote& note : side->notes()) {
        report_.notes.push_back({note.id, note.message});
      }
    }
    if (extra_states_ > 0) {
      report_.notes.push_back(
          {"extra-state-ignored",
           fmt::format("{} _extra_state entries were not compared", extra_states_)});
    }
    AddInputs(expected_);
    AddInputs(actual_);
    report_.tolerances = {{"atol", options_.tolerance.atol}, {"rtol", options_.tolerance.rtol}};
    if (!options_.tolerance.bitwise()) {
      report_.details.emplace_back("atol", fmt::format("{}", options_.tolerance.atol));
      report_.details.emplace_back("rtol", fmt::format("{}", options_.tolerance.rtol));
    }
    if (narrowed_ > 0) {
      report_.notes.push_back(
          {"match-narrowed",
           fmt::format("{} tensor(s) are in a narrower dtype in the second checkpoint; no value of "
                       "them changed",
                       narrowed_)});
    }
    Conclude(report_);
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
    report_.wall_s = wall.count();
    return std::move(report_);
  }

 private:
  // Both inventories are sorted by name: one walk over the two.
  void PairUp() {
    const auto& e = expected_.tensors();
    const auto& a = actual_.tensors();
    size_t i = 0, k = 0;
    while (i < e.size() || k < a.size()) {
      const bool in_e = i < e.size() && (k == a.size() || e[i].name <= a[k].name);
      const bool in_a = k < a.size() && (i == e.size() || a[k].name <= e[i].name);
      AddRow(in_e ? &e[i] : nullptr, in_a ? &a[k] : nullptr);
      i += in_e;
      k += in_a;
    }
  }

  void AddRow(const TensorInfo* e, const TensorInfo* a) {
    const std::string& name = e != nullptr ? e->name : a->name;
    if (IsExtraState(name)) {
      ++extra_states_;
      return;
    }
    ResultRow& row = rows_.emplace_back();
    row.hf = {e != nullptr ? Ref(*e) : TensorRef{name, {}, std::nullopt}};
    row.megatron = a != nullptr ? Ref(*a) : TensorRef{name, {}, std::nullopt};
    row.bytes = e != nullptr ? e->nbytes : a->nbytes;
    for (const std::string& pattern : options_.allow_skip) {
      if (!GlobMatch(pattern, name)) continue;
      row.status = RowStatus::kSkipped;
      row.why = fmt::format("--allow-skip {}", pattern);
      row.metrics = NotCompared();
      return;
    }
    if (a == nullptr) {
      row.status = RowStatus::kMissing;
      row.why = "only in the first checkpoint";
      causes_.Add(name, {"tensor-missing", Proof::kStructural,
                         "in the first checkpoint, not in the second", "", ""});
    } else if (e == nullptr) {
      row.status = RowStatus::kExtra;
      row.why = "only in the second checkpoint";
      causes_.Add(name, {"tensor-extra", Proof::kStructural,
                         "in the second checkpoint, not in the first", "", ""});
    } else if (e->shape != a->shape) {
      row.status = RowStatus::kMismatch;
      row.why = fmt::format("shape {} against {}", ToString(e->shape), ToString(a->shape));
      causes_.Add(name,
                  {"shape-mismatch", Proof::kStructural, "same name, other shape", row.why, ""});
    } else {
      pairs_.push_back({e, a, &row});
    }
    if (row.status != RowStatus::kMatch) row.metrics = NotCompared();
  }

  // Compares pairs from `begin` on and returns the first one that is left.
  size_t CompareWindow(size_t begin) {
    std::vector<Block> blocks;
    uint64_t bytes = 0;
    size_t end = begin;
    for (; end < pairs_.size() && (end == begin || bytes < kWindowBytes); ++end) {
      const TensorView view = expected_.View(*pairs_[end].expected);
      const int64_t count = ComponentCount(view);
      for (int64_t first = 0; first < count; first += kCompareBlock) {
        blocks.push_back({end, first, std::min(kCompareBlock, count - first)});
      }
      bytes += pairs_[end].expected->nbytes;
    }
    // A deque, since an atomic does not move.
    std::deque<std::atomic<bool>> differs(end - begin);
    ParallelFor(blocks.size(), options_.threads, [&](size_t i) {
      std::atomic<bool>& flag = differs[blocks[i].pair - begin];
      if (!flag.load(std::memory_order_relaxed) && BlockDiffers(blocks[i])) flag = true;
    });
    std::vector<size_t> differing;
    for (size_t i = 0; i < blocks.size(); ++i) {
      if (differs[blocks[i].pair - begin]) differing.push_back(i);
    }
    std::vector<ElementStats> parts(differing.size());
    ParallelFor(differing.size(), options_.threads, [&](size_t i) {
      const Block& block = blocks[differing[i]];
      const Pair& pair = pairs_[block.pair];
      parts[i] = CompareBlock(expected_.View(*pair.expected), actual_.View(*pair.actual),
                              block.first, block.count, options_.tolerance);
    });
    std::vector<ElementStats> stats(end - begin);
    for (size_t i = 0; i < parts.size(); ++i) {
      stats[blocks[differing[i]].pair - begin].Append(parts[i]);
    }
    for (size_t i = begin; i < end; ++i) {
      if (differs[i - begin]) Judge(pairs_[i], stats[i - begin]);
      NoteDTypes(pairs_[i]);
      Finish(pairs_[i]);
    }
    return end;
  }

  bool BlockDiffers(const Block& block) const {
    const Pair& pair = pairs_[block.pair];
    if (pair.expected->dtype != pair.actual->dtype) return true;
    const auto bits = static_cast<uint64_t>(BitsOf(ComponentDType(pair.expected->dtype)));
    const size_t offset = static_cast<uint64_t>(block.first) * bits / 8;
    const size_t size = (static_cast<uint64_t>(block.count) * bits + 7) / 8;
    return std::memcmp(expected_.Data(*pair.expected).data() + offset,
                       actual_.Data(*pair.actual).data() + offset, size) != 0;
  }

  void Judge(const Pair& pair, const ElementStats& stats) {
    const TensorView e = expected_.View(*pair.expected), a = actual_.View(*pair.actual);
    ResultRow& row = *pair.row;
    row.metrics = ToMetrics(stats);
    if (stats.mismatched == 0) {
      if (!options_.tolerance.bitwise()) row.why = "within the tolerance";
      return;
    }
    row.status = RowStatus::kMismatch;
    row.first = DescribePair(pair.expected->name, e, pair.actual->name, a, stats.first_mismatch);
    row.why = fmt::format("{} of {} values differ", stats.mismatched, stats.elements);
    if (stats.non_finite_mismatched > 0) {
      row.why += fmt::format(", {} of them not finite on a side (largest finite difference {})",
                             stats.non_finite_mismatched, stats.max_abs_diff);
    }
    const auto cause = ExplainDifference(e, a, stats, options_.tolerance, options_.threads);
    causes_.Add(
        pair.expected->name,
        cause.value_or(DifferenceCause{
            "unexplained", Proof::kStructural, "values differ and no simple cause fits",
            fmt::format("{}; first at {}: {} against {}", row.why,
                        IndexToString(e.shape, stats.first_mismatch / ComponentsOf(e.dtype)),
                        row.first->expected, row.first->actual),
            "`weighbridge inspect --stats --tensor NAME` shows what each of the two holds"}));
  }

  void NoteDTypes(const Pair& pair) {
    if (pair.expected->dtype == pair.actual->dtype) return;
    ResultRow& row = *pair.row;
    const std::string dtypes = fmt::format("dtype {} against {}", ShortName(pair.expected->dtype),
                                           ShortName(pair.actual->dtype));
    const bool exact = row.status == RowStatus::kMatch && row.metrics.max_diff == 0;
    const bool narrower = BitsOf(pair.actual->dtype) < BitsOf(pair.expected->dtype);
    if (exact && !narrower) row.status = RowStatus::kMatchWidened;
    narrowed_ += exact && narrower;
    const std::string rest = exact ? "every value is equal" : row.why;
    row.why = rest.empty() ? dtypes : fmt::format("{}; {}", dtypes, rest);
  }

  void Finish(const Pair& pair) {
    const uint64_t bytes = pair.expected->nbytes + pair.actual->nbytes;
    report_.bytes += bytes;
    expected_.DropBehind(*pair.expected);
    actual_.DropBehind(*pair.actual);
    if (options_.progress) options_.progress(bytes);
  }

  void AddInputs(const Checkpoint& checkpoint) {
    for (const FileInfo& file : checkpoint.files()) {
      report_.inputs.push_back({file.path.string(), file.nbytes, file.header_xxh3, std::nullopt});
    }
  }

  const Checkpoint& expected_;
  const Checkpoint& actual_;
  const DiffOptions& options_;
  Report report_;
  std::deque<ResultRow> rows_;  // rows stay where they are while pairs point to them
  std::vector<Pair> pairs_;
  Causes causes_;
  int64_t extra_states_ = 0;
  int64_t narrowed_ = 0;  // tensors whose second side is narrower, with every value equal
};

}  // namespace

Report Diff(const Checkpoint& expected, const Checkpoint& actual, const DiffOptions& options) {
  return Differ(expected, actual, options).Run();
}

}  // namespace weighbridge
