#include "checks/verify_ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "base/hash.h"
#include "base/threads.h"
#include "mapping/sharding.h"

namespace weighbridge {
namespace {

constexpr int64_t kBlockElements = 64 << 10;

// What was found of one rank's part of a parameter.
struct Shard {
  Xxh3Digest xxh3;
  ShardPlan::Difference difference;
  std::vector<std::byte> first;  // the bytes of the first element that differs
};

// Adds what a later block has.
void Join(const ShardPlan::Difference& block, ShardPlan::Difference& whole) {
  if (whole.mismatched == 0 && block.mismatched > 0) {
    whole.source = block.source;
    whole.hf_element = block.hf_element;
    whole.local_element = block.local_element;
  }
  whole.mismatched += block.mismatched;
  whole.padding_not_zero += block.padding_not_zero;
}

class RankJudge {
 public:
  RankJudge(const Model& model, const Placement& placement, const Checkpoint& hf,
            const ParameterSource& source, const RanksOptions& options)
      : model_(model), placement_(placement), hf_(hf), source_(source), options_(options) {}

  Result<JudgedRanks> Run(const std::vector<const Parameter*>& there) {
    for (const PlacedParameter& placed : placement_.parameters()) {
      homes_[placed.parameter].push_back(&placed);
    }
    std::vector<JudgedRanks> found(there.size());
    WB_RETURN_IF_ERROR(TryParallelFor(there.size(), options_.threads, [&](size_t i) -> Status {
      WB_TRY(found[i], Judge(*there[i]));
      return {};
    }));
    JudgedRanks out;
    for (JudgedRanks& part : found) {
      std::move(part.rows.begin(), part.rows.end(), std::back_inserter(out.rows));
      std::move(part.causes.begin(), part.causes.end(), std::back_inserter(out.causes));
      std::move(part.notes.begin(), part.notes.end(), std::back_inserter(out.notes));
    }
    const auto order = [](const ResultRow& row) {
      return std::tie(row.rank->pp, row.rank->vpp, row.rank->ep, row.rank->etp, row.rank->tp);
    };
    std::stable_sort(out.rows.begin(), out.rows.end(),
                     [&](const auto& a, const auto& b) { return order(a) < order(b); });
    return out;
  }

 private:
  // All ranks of one parameter.
  Result<JudgedRanks> Judge(const Parameter& p) const {
    WB_TRY(const ParameterBytes bytes, source_.Open(p));
    std::optional<DType> dtype;
    if (!options_.imported) dtype = bytes.sources.dtype;
    WB_TRY(const ShardPlan plan, ShardPlan::Create(model_, placement_, p, hf_, dtype));
    std::vector<Shard> shards;
    for (int rank = 0; rank < plan.ranks(); ++rank) {
      WB_TRY(Shard shard, JudgeShard(plan, bytes, rank));
      shards.push_back(std::move(shard));
    }
    JudgedRanks out;
    for (const PlacedParameter* placed : homes_.at(&p)) {
      for (int r = 0; r < placement_.GroupSize(p); ++r) {
        AddRow(plan, *placed, r, shards[p.cut.replicated() ? 0 : static_cast<size_t>(r)], out);
      }
    }
    return out;
  }

  Result<Shard> JudgeShard(const ShardPlan& plan, const ParameterBytes& bytes, int rank) const {
    const Parameter& p = plan.parameter();
    const auto size = static_cast<size_t>(BitsOf(plan.megatron_dtype()) / 8);
    WB_TRY(const Plan cut, CompileByTarget(CutLayout(p.shape, p.cut, plan.ranks(), rank),
                                           BitsOf(bytes.sources.dtype) / 8));
    const Plan local = Compose(cut, bytes.plan);
    Shard shard;
    Xxh3Stream hash;
    std::vector<std::byte> block, scratch;
    for (int64_t at = 0; at < plan.local_numel(); at += kBlockElements) {
      const int64_t n = std::min(kBlockElements, plan.local_numel() - at);
      block.resize(static_cast<size_t>(n) * size);
      WB_RETURN_IF_ERROR(GatherElements(local, bytes.sources, bytes.op, plan.megatron_dtype(), at,
                                        block, scratch));
      hash.Update(block);
      int64_t judged = 0;
      WB_TRY(const ShardPlan::Difference found, plan.Verify(rank, at, block, judged));
      if (judged != n) {
        return Fail(ErrorKind::kInternal, "coverage",
                    fmt::format("{} of {} elements were judged", judged, n));
      }
      if (shard.first.empty() && found.mismatched > 0) {
        const auto* first = block.data() + static_cast<size_t>(found.local_element - at) * size;
        shard.first.assign(first, first + size);
      }
      Join(found, shard.difference);
      if (options_.progress) options_.progress(block.size());
    }
    shard.xxh3 = hash.Digest();
    return shard;
  }

  void AddRow(const ShardPlan& plan, const PlacedParameter& placed, int rank, const Shard& shard,
              JudgedRanks& out) const {
    ResultRow row =
        ShardRow(plan, RankOf(placed, rank), placement_.RankName(placed, options_.dialect));
    row.bytes = static_cast<uint64_t>(plan.local_numel() * BitsOf(plan.megatron_dtype()) / 8);
    row.xxh3 = shard.xxh3;
    TakeDifference(plan, shard.difference, shard.first, row);
    if (shard.difference.mismatched == 0 && plan.hf_dtype() != plan.megatron_dtype()) {
      auto cause = JudgeCast(plan.parameter(), plan.hf_dtype(), options_.cast, row);
      if (cause) out.causes.push_back(*std::move(cause));
    }
    if (shard.difference.padding_not_zero > 0) JudgePadding(shard, row, out);
    out.rows.push_back(std::move(row));
  }

  void JudgePadding(const Shard& shard, ResultRow& row, JudgedRanks& out) const {
    const int64_t elements = shard.difference.padding_not_zero;
    if (!options_.strict_padding) {
      out.notes.push_back({"vocab-padding", PaddingText(row.megatron.name, elements)});
      return;
    }
    row.status = RowStatus::kMismatch;
    row.why = PaddingText(row.megatron.name, elements);
    out.causes.push_back(PaddingCause(row.megatron.name, elements));
  }

  const Model& model_;
  const Placement& placement_;
  const Checkpoint& hf_;
  const ParameterSource& source_;
  const RanksOptions& options_;
  std::unordered_map<const Parameter*, std::vector<const PlacedParameter*>> homes_;
};

}  // namespace

Result<JudgedRanks> JudgeRanks(const Model& model, const Placement& placement, const Checkpoint& hf,
                               const ParameterSource& source,
                               const std::vector<const Parameter*>& there,
                               const RanksOptions& options) {
  return RankJudge(model, placement, hf, source, options).Run(there);
}

void AddRanks(JudgedRanks judged, Report& report) {
  for (Cause& cause : judged.causes) AddCause(std::move(cause), report);
  std::move(judged.notes.begin(), judged.notes.end(), std::back_inserter(report.notes));
  for (ResultRow& row : judged.rows) {
    report.bytes += row.bytes;
    report.results.push_back(std::move(row));
  }
}

}  // namespace weighbridge
