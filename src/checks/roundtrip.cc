#include "checks/roundtrip.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <tuple>

#include "base/stop.h"
#include "base/threads.h"
#include "checks/copies.h"
#include "checks/inventory.h"
#include "checks/parameter_source.h"
#include "checks/scales.h"
#include "checks/shard_plan.h"
#include "checks/verify_ranks.h"
#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

constexpr int64_t kMaxBlockBytes = 128 << 10;  // stays in a core's second-level cache
constexpr int64_t kChunkBytes = 8 << 20;       // what a thread takes at a time

// What is known of one HF tensor; parameters that share it add up. There may be a million of them,
// so what few of them have is kept in Oddity.
struct TensorState {
  std::atomic<int64_t> covered{0};
  const Parameter* parameter = nullptr;  // the first that reads it
  bool shared = false;                   // others read it too
};

// A tensor that did not come back bit for bit.
struct Oddity {
  using Order = std::tuple<size_t, int, int64_t>;  // parameter, rank, element of it
  std::optional<Order> order;
  int64_t mismatched = 0, rounded = 0;
  FirstDifference difference;
};

class RoundTripper {
 public:
  RoundTripper(const Model& model, const Placement& placement, const Checkpoint& hf,
               const RoundTripOptions& options, const Inventory& inventory)
      : model_(model),
        placement_(placement),
        hf_(hf),
        options_(options),
        inventory_(inventory),
        states_(hf.tensors().size()) {
    const int threads = Threads();
    // Two buffers per thread, the second for ops.
    block_bytes_ = std::clamp<int64_t>(options.memory_bytes / (2 * threads), 4096, kMaxBlockBytes);
    homes_.reserve(model.parameters().size());
    for (const PlacedParameter& placed : placement.parameters()) {
      if (!placed.is_copy()) homes_.push_back(&placed);
    }
    for (const ResultRow& row : inventory.rows) reported_.insert(row.hf[0].name);
    for (const Parameter* p : inventory_.usable) {
      for (const std::string& name : p->hf) {
        TensorState& state = StateOf(name);
        state.shared = state.parameter != nullptr;
        if (!state.shared) state.parameter = p;
      }
    }
  }

  // Moves and compares every byte. Stops at the first error.
  Status Run() {
    const auto threads = static_cast<size_t>(Threads());
    ParallelFor(threads, Threads(), [this](size_t) { Work(); });
    if (error_) return Fail(*error_);
    WB_TRY(scales_, JudgeScales(hf_, Threads()));
    return {};
  }

  const ScaleJudgement& scales() const { return scales_; }

  // HF bytes that were taken there and back; of tensors that no check read, none.
  uint64_t BytesCompared() const {
    uint64_t bytes = 0;
    for (size_t i = 0; i < states_.size(); ++i) {
      const auto bits = static_cast<uint64_t>(BitsOf(hf_.tensors()[i].dtype));
      bytes += static_cast<uint64_t>(states_[i].covered.load()) * bits / 8;
    }
    return bytes;
  }

  // Adds a row per tensor that was judged to those in `others`, which are sorted, by name. In one
  // pass: of a big model the rows are most of what is held in memory.
  std::vector<ResultRow> RowsWith(std::vector<ResultRow> others) const {
    std::vector<ResultRow> rows;
    rows.reserve(states_.size() + others.size());
    auto other = others.begin();
    const auto add_until = [&](const std::string* name) {
      for (; other != others.end() && (name == nullptr || other->hf[0].name <= *name); ++other) {
        rows.push_back(std::move(*other));
      }
    };
    for (size_t i = 0; i < states_.size(); ++i) {
      const std::string& name = hf_.tensors()[i].name;
      if (states_[i].parameter == nullptr || reported_.contains(name)) continue;
      add_until(&name);
      rows.push_back(RowOf(i));
    }
    add_until(nullptr);
    return rows;
  }

 private:
  struct Chunk {
    std::shared_ptr<const ShardPlan> plan;
    int rank = 0;
    int64_t begin = 0, end = 0;  // elements of the rank's tensor
  };

  size_t IndexOf(const Parameter& p) const {
    return static_cast<size_t>(&p - model_.parameters().data());
  }

  int Threads() const {
    return std::max(1, options_.threads > 0 ? options_.threads : DefaultThreads());
  }

  TensorState& StateOf(const std::string& name) {
    return states_[static_cast<size_t>(hf_.Find(name) - hf_.tensors().data())];
  }

  void Work() {
    std::vector<std::byte> block(static_cast<size_t>(block_bytes_)), scratch;
    while (std::optional<Chunk> chunk = Next()) {
      if (StopRequested()) return Stop(Interrupted());
      if (auto status = Process(*chunk, block, scratch); !status) return Stop(status.error());
      if (options_.progress) {
        options_.progress(static_cast<uint64_t>((chunk->end - chunk->begin) *
                                                BitsOf(chunk->plan->hf_dtype()) / 8));
      }
    }
  }

  void Stop(Error error) {
    const std::lock_guard lock(mutex_);
    // The first error to arrive is kept; the others only follow it.
    if (!error_) error_ = std::move(error);
    stopped_ = true;
  }

  std::optional<Chunk> Next() {
    {
      const std::lock_guard lock(mutex_);
      if (stopped_) return std::nullopt;
      if (!chunks_.empty()) {
        Chunk chunk = std::move(chunks_.front());
        chunks_.pop_front();
        return chunk;
      }
    }
    const size_t index = next_parameter_.fetch_add(1);
    if (index >= inventory_.usable.size()) return std::nullopt;
    Result<ShardPlan> plan = ShardPlan::Create(model_, placement_, *inventory_.usable[index], hf_);
    if (!plan) {
      Stop(plan.error());
      return std::nullopt;
    }
    return Split(std::make_shared<const ShardPlan>(std::move(*plan)));
  }

  // The first chunk is the caller's, the others are there for every thread.
  Chunk Split(std::shared_ptr<const ShardPlan> plan) {
    const int64_t step = std::max<int64_t>(1, kChunkBytes * 8 / BitsOf(plan->hf_dtype()));
    std::optional<Chunk> own;
    const std::lock_guard lock(mutex_);
    for (int rank = 0; rank < plan->ranks(); ++rank) {
      for (int64_t at = 0; at < plan->local_numel(); at += step) {
        Chunk chunk{plan, rank, at, std::min(at + step, plan->local_numel())};
        if (own) {
          chunks_.push_back(std::move(chunk));
        } else {
          own = std::move(chunk);
        }
      }
    }
    return *own;
  }

  Status Process(const Chunk& chunk, std::vector<std::byte>& block,
                 std::vector<std::byte>& scratch) {
    const ShardPlan& plan = *chunk.plan;
    const int64_t element = std::max(BitsOf(plan.megatron_dtype()), BitsOf(plan.hf_dtype())) / 8;
    const int64_t megatron_element = BitsOf(plan.megatron_dtype()) / 8;
    const int64_t step = block_bytes_ / element;
    std::vector<int64_t> covered(plan.sources().size()), rounded(plan.sources().size());
    for (int64_t at = chunk.begin; at < chunk.end; at += step) {
      const int64_t n = std::min(step, chunk.end - at);
      const std::span<std::byte> bytes =
          std::span(block).first(static_cast<size_t>(n * megatron_element));
      WB_RETURN_IF_ERROR(plan.Gather(chunk.rank, at, bytes, scratch));
      WB_TRY(const ShardPlan::Difference difference,
             plan.Compare(chunk.rank, at, bytes, covered, rounded, scratch));
      if (difference.mismatched > 0) Record(plan, chunk.rank, difference);
    }
    for (size_t i = 0; i < covered.size(); ++i) {
      TensorState& state = StateOf(plan.sources()[i]->name);
      state.covered += covered[i];
      if (rounded[i] == 0) continue;
      const std::lock_guard lock(mutex_);
      odd_[plan.sources()[i]->name].rounded += rounded[i];
    }
    return {};
  }

  // The first fault of a tensor is the first of its first parameter and rank: which blocks a thread
  // happened to take changes nothing.
  void Record(const ShardPlan& plan, int rank, const ShardPlan::Difference& difference) {
    for (const ShardPlan::Difference::OfSource& fault : difference.by_source) {
      const TensorInfo& source = *plan.sources()[fault.source];
      const std::lock_guard lock(mutex_);
      Oddity& first = odd_[source.name];
      first.mismatched += fault.mismatched;
      const Oddity::Order order{IndexOf(plan.parameter()), rank, fault.local_element};
      if (first.order && *first.order <= order) continue;
      first.order = order;
      FirstDifference& d = first.difference;
      d.hf_tensor = source.name;
      d.hf_index = plan.HfIndex(fault.source, fault.hf_element);
      d.megatron_tensor = model_.MegatronName(plan.parameter(), Dialect::kTe);
      d.megatron_index = plan.LocalIndex(fault.local_element);
      const PlacedParameter& home = *homes_[IndexOf(plan.parameter())];
      d.rank = RankId{plan.parameter().is_expert() ? 0 : rank, home.pp, home.vpp, home.ep,
                      plan.parameter().is_expert() ? rank : 0};
    }
  }

  ResultRow RowOf(size_t index) const {
    const TensorInfo& t = hf_.tensors()[index];
    const TensorState& state = states_[index];
    const Parameter& p = *state.parameter;
    const DType megatron_dtype = p.rule->dtype.value_or(t.dtype);
    ResultRow row;
    row.hf.push_back({t.name, t.shape, t.dtype});
    row.megatron = {state.shared ? model_.MegatronPattern(p, Dialect::kTe)
                                 : model_.MegatronName(p, Dialect::kTe),
                    p.shape, megatron_dtype};
    row.transform = p.storage->transform;
    row.op = OpText(hf_.Quantized(t), p.op, t.dtype, megatron_dtype);
    row.bytes = t.nbytes;
    if (options_.headers_only) row.metrics = NotCompared();
    const auto found = odd_.find(t.name);
    const int64_t mismatched = found == odd_.end() ? 0 : found->second.mismatched;
    const int64_t rounded = found == odd_.end() ? 0 : found->second.rounded;
    row.metrics.mismatched = mismatched;
    if (mismatched > 0) {
      row.status = RowStatus::kMismatch;
      row.why = fmt::format("{} element(s) are not restored", mismatched);
      row.first = found->second.difference;
    } else if (!options_.headers_only && state.covered != Numel(t.shape)) {
      row.status = RowStatus::kMismatch;
      row.why = fmt::format("{} of {} elements came back", state.covered.load(), Numel(t.shape));
    } else if (rounded > 0) {
      row.status = RowStatus::kMatchRounded;
      row.why = fmt::format("{} element(s) are the correctly rounded inverse", rounded);
    } else if (megatron_dtype != t.dtype && BitsOf(megatron_dtype) > BitsOf(t.dtype)) {
      row.status = RowStatus::kMatchWidened;
    }
    TakeScaleFaults(scales_, row);
    return row;
  }

  const Model& model_;
  const Placement& placement_;
  const Checkpoint& hf_;
  const RoundTripOptions& options_;
  const Inventory& inventory_;
  std::vector<TensorState> states_;
  std::set<std::string> reported_;             // tensors of which the inventory already has a row
  std::vector<const PlacedParameter*> homes_;  // by the parameter's place in the model
  int64_t block_bytes_ = 0;
  ScaleJudgement scales_;

  std::mutex mutex_;
  std::deque<Chunk> chunks_;           // guarded by mutex_
  std::map<std::string, Oddity> odd_;  // guarded by mutex_
  std::optional<Error> error_;         // guarded by mutex_
  bool stopped_ = false;               // guarded by mutex_
  std::atomic<size_t> next_parameter_{0};
};

void Describe(const Model& model, const Placement& placement, const RoundTripOptions& options,
              Report& report) {
  report.command = "roundtrip";
  report.level = options.headers_only ? "L0" : "L1";
  report.details.emplace_back("family", model.spec().name);
  report.details.emplace_back("grid", ToString(placement.grid()));
  report.details.emplace_back("megatron tensors", fmt::format("{}", model.parameters().size()));
  report.details.emplace_back("rank tensors", fmt::format("{}", placement.ShardCount()));
  report.details.emplace_back("ranks", fmt::format("{}", placement.WorldSize()));
  if (model.padded_vocab() != model.vocab()) {
    const bool needed = model.padded_vocab() == PaddedVocab(model.vocab(), placement.grid().tp);
    report.notes.push_back(
        {"vocab-padded",
         fmt::format("the vocabulary of {} rows is padded with zeros to {}, {}", model.vocab(),
                     model.padded_vocab(), needed ? "the grid needs it" : "as --pad-vocab asks")});
  }
  for (const GridNote& note : placement.notes()) report.notes.push_back({note.id, note.message});
  if (options.headers_only) {
    report.unproven.push_back("no tensor data was read: --level L1 compares every byte");
  }
  report.unproven.push_back(
      "no Megatron file was read: an import and an export that are wrong in the same way pass "
      "every round "
      "trip; `verify` judges the files that a bridge wrote");
}

Result<JudgedRanks> RanksOf(const Model& model, const Placement& placement, const Checkpoint& hf,
                            const Inventory& inventory, const RoundTripOptions& options) {
  RanksOptions ranks;
  ranks.imported = true;
  ranks.dialect = options.dialect;
  ranks.threads = options.threads > 0 ? options.threads : DefaultThreads();
  return JudgeRanks(model, placement, hf, HfParameters::OfUsable(model, hf), inventory.usable,
                    ranks);
}

}  // namespace

Result<Report> RoundTrip(const Model& model, const Checkpoint& hf,
                         const RoundTripOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  Report report;
  WB_TRY(Placement placement, Placement::Create(model, options.grid));
  WB_TRY(const Inventory inventory, TakeInventory(model, hf));
  Describe(model, placement, options, report);
  RoundTripper tripper(model, placement, hf, options, inventory);
  if (options.headers_only) {
    for (const Parameter* p : inventory.usable) {
      WB_RETURN_IF_ERROR(CheckCut(p->shape, p->cut, placement.GroupSize(*p)));
    }
  }
  if (!options.headers_only) WB_RETURN_IF_ERROR(tripper.Run());
  report.results = inventory.rows;
  report.causes = inventory.causes;
  const ScaleJudgement& scales = tripper.scales();
  report.causes.insert(report.causes.end(), scales.causes.begin(), scales.causes.end());
  report.notes.insert(report.notes.end(), scales.notes.begin(), scales.notes.end());
  for (const CheckpointNote& note : hf.notes()) report.notes.push_back({note.id, note.message});
  report.notes.insert(report.notes.end(), inventory.notes.begin(), inventory.notes.end());
  JudgedCopies copies = JudgeCopies(hf, inventory, options.headers_only);
  report.results.insert(report.results.end(), std::make_move_iterator(copies.rows.begin()),
                        std::make_move_iterator(copies.rows.end()));
  report.causes.insert(report.causes.end(), copies.causes.begin(), copies.causes.end());
  std::stable_sort(
      report.results.begin(), report.results.end(),
      [](const ResultRow& a, const ResultRow& b) { return a.hf[0].name < b.hf[0].name; });
  std::optional<JudgedRanks> ranks;
  if (options.ranks) {
    WB_TRY(ranks, RanksOf(model, placement, hf, inventory, options));
  }
  // Where every tensor stands is not asked any more; the rows take its place in memory.
  { [[maybe_unused]] const Placement done = std::move(placement); }
  report.results = tripper.RowsWith(std::move(report.results));
  if (ranks) {
    // The ranks' rows stand for those of HF tensors that came back bit for bit.
    std::erase_if(report.results, [](const ResultRow& row) {
      return Passed(row.status) && row.status != RowStatus::kMatchRounded &&
             !row.megatron.name.empty();
    });
    for (ResultRow& row : ranks->rows) TakeScaleFaults(scales, row);
    AddRanks(*std::move(ranks), report);
  }
  report.bytes = options.headers_only ? 0 : tripper.BytesCompared() + copies.bytes;
  for (const FileInfo& file : hf.files()) {
    report.inputs.push_back({file.path.string(), file.nbytes, file.header_xxh3, std::nullopt});
  }
  report.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace weighbridge
