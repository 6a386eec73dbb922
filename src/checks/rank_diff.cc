#include "checks/rank_diff.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "base/strings.h"
#include "base/threads.h"
#include "checks/difference_cause.h"
#include "checks/metrics.h"
#include "checks/moves.h"
#include "checks/rank_names.h"
#include "mapping/sharding.h"

namespace weighbridge {
namespace {

// One way in which a rank may hold its part.
struct Candidate {
  TensorCut cut;
  int size = 1, rank = 0;

  std::string Text() const {
    if (cut.replicated()) return "replicated";
    if (cut.components.empty()) return fmt::format("axis {}", cut.axis);
    return fmt::format("axis {} in {} parts", cut.axis, cut.components.size());
  }
  bool operator==(const Candidate& other) const {
    return rank == other.rank && size == other.size && cut.axis == other.cut.axis &&
           cut.components == other.cut.components;
  }
};

bool IsVocabulary(const std::string& name) {
  return name.ends_with("word_embeddings.weight") || name.ends_with("output_layer.weight");
}

// The axis along which `part` is a share of `whole`, and into how many; nullopt when there is no
// single one. A vocabulary may be padded.
struct Share {
  int axis = -1, size = 1;
};
std::optional<Share> FindShare(const Shape& whole, const Shape& part, bool vocabulary, int ranks) {
  if (whole == part) return Share{};
  if (whole.size() != part.size()) return std::nullopt;
  std::optional<Share> share;
  for (size_t axis = 0; axis < whole.size(); ++axis) {
    if (whole[axis] == part[axis]) continue;
    if (share || part[axis] == 0) return std::nullopt;
    const int64_t size = vocabulary && axis == 0 ? ranks : whole[axis] / part[axis];
    const bool fits = vocabulary && axis == 0 ? size * part[axis] >= whole[axis]
                                              : size * part[axis] == whole[axis];
    if (!fits || size > ranks) return std::nullopt;
    share = Share{static_cast<int>(axis), static_cast<int>(size)};
  }
  return share;
}

class RankDiffer {
 public:
  RankDiffer(const Checkpoint& whole, const std::string& prefix, const TorchLegacyCheckpoint& ranks,
             const DiffOptions& options)
      : whole_(whole), prefix_(prefix), ranks_(ranks), names_(ranks), options_(options) {}

  Report Judge() {
    const auto start = std::chrono::steady_clock::now();
    for (file_ = 0; file_ < ranks_.ranks().size(); ++file_) {
      const RankFile& rank = ranks_.ranks()[file_];
      for (size_t part = 0; part < rank.parts.size(); ++part) {
        for (const RankTensor& tensor : rank.parts[part]) Compare(rank, part, tensor);
      }
    }
    NameWhatNobodyHolds();
    for (auto& [id, cause] : causes_) report_.causes.push_back(std::move(cause));
    Describe();
    Conclude(report_);
    report_.wall_s =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(report_);
  }

 private:
  void Compare(const RankFile& rank, size_t part, const RankTensor& tensor) {
    if (tensor.name.ends_with("_extra_state")) return;
    const std::string name = names_.Global(rank, part, tensor.name);
    ResultRow row;
    row.megatron = {fmt::format("{}/{}", rank.folder, tensor.name), tensor.shape, tensor.dtype};
    row.rank = RankId{rank.tp, rank.pp, static_cast<int>(part), rank.ep, 0};
    row.bytes = tensor.nbytes;
    if (const std::string* pattern = SkippedBy(name)) {
      row.hf = {{name, {}, std::nullopt}};
      row.status = RowStatus::kSkipped;
      row.why = fmt::format("--allow-skip {}", *pattern);
      row.metrics = NotCompared();
      report_.results.push_back(std::move(row));
      return;
    }
    const TensorInfo* whole = Find(name);
    if (whole == nullptr) {
      row.hf = {{name, {}, std::nullopt}};
      Extra(row);
    } else {
      row.hf = {{whole->name, whole->shape, whole->dtype}};
      CompareWith(*whole, tensor, row);
    }
    report_.results.push_back(std::move(row));
  }

  // Also under the name that the other module spec gives a norm; the tied output layer of a last
  // stage is the embedding.
  const TensorInfo* Find(const std::string& name) const {
    for (const std::string& candidate : names_.Spellings(name)) {
      if (const TensorInfo* found = whole_.Find(prefix_ + candidate)) return found;
    }
    return nullptr;
  }

  // The pattern of --allow-skip that the whole tensor's name matches.
  const std::string* SkippedBy(const std::string& name) const {
    const auto& patterns = options_.allow_skip;
    const auto it = std::find_if(patterns.begin(), patterns.end(),
                                 [&](const std::string& p) { return GlobMatch(p, name); });
    return it == patterns.end() ? nullptr : &*it;
  }

  void Extra(ResultRow& row) {
    row.status = RowStatus::kExtra;
    row.why = "the whole checkpoint does not have it";
    row.metrics = NotCompared();
    AddCause("tensor-extra", Proof::kStructural, row.megatron.name,
             "a rank holds what the whole checkpoint does not have", "", "");
  }

  void CompareWith(const TensorInfo& whole, const RankTensor& tensor, ResultRow& row) {
    const auto share = FindShare(whole.shape, tensor.shape, IsVocabulary(tensor.name), ranks_.tp());
    if (!share) {
      row.status = RowStatus::kMismatch;
      row.metrics = NotCompared();
      row.why = fmt::format("{} is no share of {} for {} ranks", ToString(tensor.shape),
                            ToString(whole.shape), ranks_.tp());
      AddCause("shape-mismatch", Proof::kStructural, row.megatron.name,
               "a rank's tensor is no share of the whole", row.why, "");
      return;
    }
    // All ranks cut a tensor alike, and one shard each is the whole.
    Held& held = held_[&whole];
    if (held.shards.empty()) held.share = *share;
    held.shards.insert(share->axis < 0 ? 0 : row.rank->tp % share->size);
    if (held.share.axis != share->axis || held.share.size != share->size) {
      row.status = RowStatus::kMismatch;
      row.metrics = NotCompared();
      row.why = "other ranks hold another share of it than this one";
      AddCause("shape-mismatch", Proof::kStructural, row.megatron.name,
               "ranks do not cut a tensor alike", row.why, "");
      return;
    }
    report_.bytes += 2 * tensor.nbytes;
    if (options_.progress) options_.progress(2 * tensor.nbytes);
    const Candidate lawful = Lawful(whole, *share, row.rank->tp);
    row.transform = lawful.Text();
    if (!Equal(whole, tensor, lawful)) return Mismatch(whole, tensor, lawful, row);
    const bool wider = BitsOf(tensor.dtype) > BitsOf(whole.dtype);
    if (whole.dtype != tensor.dtype && wider) row.status = RowStatus::kMatchWidened;
  }

  // The cut that Megatron makes; of a gated layer gate and up are cut apart.
  Candidate Lawful(const TensorInfo& whole, const Share& share, int tp) const {
    if (share.axis < 0) return {};
    Candidate out{{share.axis, {}}, share.size, tp % share.size};
    const int64_t extent = whole.shape[static_cast<size_t>(share.axis)];
    if (share.axis == 0 && IsGated(whole) && extent % (2 * share.size) == 0) {
      out.cut.components = {extent / 2, extent / 2};
    }
    return out;
  }

  // A first layer of an MLP that gives twice what the second one takes.
  bool IsGated(const TensorInfo& fc1) const {
    constexpr std::string_view kFirst = "linear_fc1.", kBias = "linear_fc1.bias";
    std::string name = fc1.name;
    const size_t at = name.find(kFirst);
    if (at == std::string::npos) return false;
    if (name.compare(at, kBias.size(), kBias) == 0)
      name.replace(at, kBias.size(), "linear_fc1.weight");
    name.replace(at, kFirst.size(), "linear_fc2.");
    const TensorInfo* fc2 = whole_.Find(name);
    return fc2 != nullptr && fc2->shape.size() == 2 && fc1.shape[0] == 2 * fc2->shape[1];
  }

  // What the rank should hold by `candidate`; rows of a padded vocabulary are zero.
  std::optional<std::vector<std::byte>> Shard(const TensorInfo& whole, const Shape& local,
                                              const Candidate& candidate) const {
    const int64_t size = BitsOf(whole.dtype) / 8;
    Layout layout = Layout::Source(0, whole.shape);
    if (!candidate.cut.replicated()) {
      Shape padded = whole.shape;
      const auto axis = static_cast<size_t>(candidate.cut.axis);
      padded[axis] = local[axis] * candidate.size;
      layout = CutLayout(padded, candidate.cut, candidate.size, candidate.rank);
    }
    auto plan = CompileByTarget(layout, size);
    if (!plan) return std::nullopt;
    std::vector<std::byte> out(static_cast<size_t>(plan->bytes()));
    const auto data = whole_.Data(whole);
    const auto end = static_cast<int64_t>(data.size());
    for (const Run& run : plan->runs()) {
      // Rows beyond the whole tensor stay zero; a run of the vocabulary is one stretch of rows.
      if (run.count == 1) {
        const int64_t n = std::clamp<int64_t>(end - run.other_offset, 0, run.length);
        std::copy_n(data.begin() + std::min(run.other_offset, end), n, out.begin() + run.offset);
      } else {
        GatherRun(run, data.data(), out.data() + run.offset);
      }
    }
    return out;
  }

  std::span<const std::byte> Bytes(const RankTensor& tensor) const {
    return ranks_.Bytes({static_cast<uint32_t>(file_), tensor.offset, tensor.nbytes});
  }

  TensorView View(const RankTensor& tensor) const {
    return {tensor.dtype, tensor.shape, Bytes(tensor)};
  }

  bool Equal(const TensorInfo& whole, const RankTensor& tensor, const Candidate& candidate) const {
    const auto shard = Shard(whole, tensor.shape, candidate);
    if (!shard) return false;
    const TensorView expected{whole.dtype, tensor.shape, *shard}, actual = View(tensor);
    if (whole.dtype == tensor.dtype && BytesEqual(expected.bytes, actual.bytes, options_.threads)) {
      return true;
    }
    if (whole.dtype == tensor.dtype && options_.tolerance.bitwise()) return false;
    return CompareElements(expected, actual, options_.tolerance, options_.threads).mismatched == 0;
  }

  // Another rank's shard, or one of a gated layer that was cut as one block.
  std::optional<Candidate> FindUnlawful(const TensorInfo& whole, const RankTensor& tensor,
                                        const Candidate& lawful) const {
    std::vector<TensorCut> cuts = {lawful.cut};
    if (!lawful.cut.components.empty()) cuts.push_back({lawful.cut.axis, {}});
    for (const TensorCut& cut : cuts) {
      for (int rank = 0; rank < lawful.size; ++rank) {
        const Candidate candidate{cut, lawful.size, rank};
        if (!(candidate == lawful) && Equal(whole, tensor, candidate)) return candidate;
      }
    }
    return std::nullopt;
  }

  void Mismatch(const TensorInfo& whole, const RankTensor& tensor, const Candidate& lawful,
                ResultRow& row) {
    row.status = RowStatus::kMismatch;
    const auto shard = Shard(whole, tensor.shape, lawful);
    if (!shard) return;
    const TensorView expected{whole.dtype, tensor.shape, *shard}, actual = View(tensor);
    const ElementStats stats =
        CompareElements(expected, actual, options_.tolerance, options_.threads);
    row.metrics = ToMetrics(stats);
    row.first = DescribePair(whole.name, expected, row.megatron.name, actual, stats.first_mismatch);
    row.first->rank = row.rank;
    row.first->hf_index = WholeIndex(whole, tensor.shape, lawful, row.first->megatron_index);
    row.why = fmt::format("{} of {} values differ from the shard of TP rank {} ({})",
                          stats.mismatched, stats.elements, row.rank->tp, row.transform);
    if (const auto other = FindUnlawful(whole, tensor, lawful)) {
      row.why += fmt::format("; they are the shard of TP rank {} ({})", other->rank, other->Text());
      const bool one_block = other->cut.components != lawful.cut.components;
      AddCause(one_block ? "tp-gate-up" : "tp-order", Proof::kExact, row.megatron.name,
               one_block ? "gate and up are cut as one block instead of apart"
                         : "a rank holds the shard of another rank",
               row.why, "");
      return;
    }
    const auto cause =
        ExplainDifference(expected, actual, stats, options_.tolerance, options_.threads);
    if (cause) {
      AddCause(cause->id, cause->proof, row.megatron.name, cause->message,
               cause->evidence.empty() ? row.why : cause->evidence, cause->hint);
    } else {
      AddCause("unexplained", Proof::kStructural, row.megatron.name,
               "a rank's values are not its shard of the whole, and no simple cause fits", row.why,
               "`weighbridge verify HF MEGATRON` knows the family's layouts");
    }
  }

  // Where the rank's element is in the whole tensor.
  static std::vector<int64_t> WholeIndex(const TensorInfo& whole, const Shape& local,
                                         const Candidate& candidate, std::vector<int64_t> index) {
    if (candidate.cut.replicated()) return index;
    const auto axis = static_cast<size_t>(candidate.cut.axis);
    const int64_t parts = std::max<int64_t>(1, std::ssize(candidate.cut.components));
    const int64_t in_part = local[axis] / parts, part = index[axis] / in_part;
    index[axis] =
        part * whole.shape[axis] / parts + candidate.rank * in_part + index[axis] % in_part;
    return index;
  }

  void NameWhatNobodyHolds() {
    for (const TensorInfo& tensor : whole_.tensors()) {
      const bool weight =
          std::string_view(tensor.name).starts_with(prefix_) &&
          !tensor.name.ends_with("_extra_state") &&
          !std::string_view(tensor.name).substr(prefix_.size()).starts_with("optimizer.");
      const auto held = held_.find(&tensor);
      const bool whole = held != held_.end() &&
                         std::ssize(held->second.shards) == std::max(1, held->second.share.size);
      if (!weight || whole || SkippedBy(tensor.name) != nullptr) continue;
      ResultRow row;
      row.hf = {{tensor.name, tensor.shape, tensor.dtype}};
      row.megatron.name = tensor.name;
      row.status = RowStatus::kMissing;
      row.why =
          held == held_.end() ? "no rank holds a part of it" : "not every shard of it is there";
      row.metrics = NotCompared();
      AddCause("tensor-missing", Proof::kStructural, tensor.name, row.why, "", "");
      report_.results.push_back(std::move(row));
    }
  }

  void AddCause(const std::string& id, Proof proof, const std::string& where,
                const std::string& message, const std::string& evidence, const std::string& hint) {
    Cause& cause = causes_[id];
    if (cause.id.empty()) {
      cause.id = id;
      cause.proof = proof;
      cause.message = message;
      cause.evidence = evidence;
      cause.hint = hint;
    }
    cause.where.push_back(where);
  }

  void Describe() {
    report_.command = "diff";
    report_.level = "L1";
    report_.details.emplace_back("grid", ToString(ParallelGrid{.tp = ranks_.tp(),
                                                               .pp = ranks_.pp(),
                                                               .vpp = ranks_.vpp(),
                                                               .ep = ranks_.ep(),
                                                               .etp = ranks_.etp().value_or(1)}));
    report_.tolerances = {{"atol", options_.tolerance.atol}, {"rtol", options_.tolerance.rtol}};
    report_.unproven.push_back(
        "which axis a rank is cut along was read off the shapes: a replicated tensor whose shape "
        "is the whole one is taken as lawful");
    for (const FileInfo& file : whole_.files()) {
      report_.inputs.push_back({file.path.string(), file.nbytes, file.header_xxh3, std::nullopt});
    }
    for (const FileInfo& file : ranks_.identity()) {
      report_.inputs.push_back({file.path.string(), file.nbytes, file.header_xxh3, std::nullopt});
    }
  }

  const Checkpoint& whole_;
  const std::string& prefix_;
  const TorchLegacyCheckpoint& ranks_;
  const RankNames names_;
  const DiffOptions& options_;
  Report report_;
  std::map<std::string, Cause> causes_;
  // What the ranks hold of a whole tensor.
  struct Held {
    Share share;
    std::set<int> shards;
  };
  std::map<const TensorInfo*, Held> held_;
  size_t file_ = 0;  // of the rank under comparison
};

}  // namespace

Report DiffRanks(const Checkpoint& whole, const std::string& prefix,
                 const TorchLegacyCheckpoint& ranks, const DiffOptions& options) {
  return RankDiffer(whole, prefix, ranks, options).Judge();
}

}  // namespace weighbridge
