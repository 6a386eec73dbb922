#include "checks/megatron_tree.h"

#include <fmt/format.h>

#include <map>
#include <set>
#include <span>
#include <tuple>

#include "checks/inventory.h"
#include "checks/shard_plan.h"
#include "checks/shard_row.h"

namespace weighbridge {
namespace {

class Verifier {
 public:
  Verifier(const Model& model, const Placement& placement, const Checkpoint& hf, Dialect dialect)
      : model_(model), placement_(placement), hf_(hf), dialect_(dialect) {}

  Result<Report> Run(const MegatronTree& tree) {
    report_.command = "verify";
    report_.level = "L1";
    for (const MegatronTensor& t : tree.tensors) by_key_[{t.rank, t.name}].push_back(&t);
    for (const PlacedParameter& placed : placement_.parameters()) {
      WB_TRY(const ShardPlan plan, ShardPlan::Create(model_, placement_, *placed.parameter, hf_));
      for (int r = 0; r < placement_.GroupSize(*placed.parameter); ++r) {
        WB_RETURN_IF_ERROR(Judge(plan, placed, r));
      }
    }
    for (const auto& [key, tensors] : by_key_) {
      for (size_t i = judged_.contains(key) ? 1 : 0; i < tensors.size(); ++i) {
        ResultRow row;
        row.megatron = {tensors[i]->name, tensors[i]->shape, tensors[i]->dtype};
        row.rank = tensors[i]->rank;
        row.status = RowStatus::kExtra;
        row.why =
            i > 0 ? "the rank holds this name more than once" : "no rule explains it on this rank";
        Add(std::move(row), i > 0 ? "duplicate-name" : "tensor-extra");
      }
    }
    Conclude(report_);
    return std::move(report_);
  }

 private:
  using Key = std::pair<RankId, std::string>;

  void Add(ResultRow row, const std::string& cause) {
    report_.causes.push_back(
        {cause, Proof::kStructural, Origin::kCheckpoint, {row.megatron.name}, row.why, "", ""});
    report_.results.push_back(std::move(row));
  }

  Status Judge(const ShardPlan& plan, const PlacedParameter& placed, int group_rank) {
    const Key key{RankOf(placed, group_rank), placement_.RankName(placed, dialect_)};
    judged_.insert(key);
    ResultRow row = ShardRow(plan, key.first, key.second);
    const auto it = by_key_.find(key);
    if (it == by_key_.end()) {
      row.status = RowStatus::kMissing;
      row.why = "the rank does not hold it";
      Add(std::move(row), "tensor-missing");
      return {};
    }
    // Each of several is judged; those after the first are extra besides.
    for (const MegatronTensor* tensor : it->second) {
      WB_RETURN_IF_ERROR(JudgeTensor(plan, placed, group_rank, *tensor, row));
    }
    return {};
  }

  Status JudgeTensor(const ShardPlan& plan, const PlacedParameter& placed, int group_rank,
                     const MegatronTensor& tensor, ResultRow row) {
    if (tensor.shape != plan.local_shape() || tensor.dtype != plan.megatron_dtype()) {
      row.status = RowStatus::kMismatch;
      row.why =
          fmt::format("{} {}, expected {} {}", ShortName(tensor.dtype), ToString(tensor.shape),
                      ShortName(plan.megatron_dtype()), ToString(plan.local_shape()));
      Add(std::move(row), "shape-mismatch");
      return {};
    }
    const auto expected_bytes = BytesFor(tensor.dtype, plan.local_numel());
    if (tensor.bytes.size() != expected_bytes) {
      row.status = RowStatus::kMismatch;
      row.why = fmt::format("{} bytes, {} of {} have {}", tensor.bytes.size(),
                            ToString(tensor.shape), ShortName(tensor.dtype), *expected_bytes);
      Add(std::move(row), "file-truncated");
      return {};
    }
    row.bytes = tensor.bytes.size();
    report_.bytes += row.bytes;
    return Compare(plan, placed.parameter->cut.replicated() ? 0 : group_rank, tensor,
                   std::move(row));
  }

  Status Compare(const ShardPlan& plan, int plan_rank, const MegatronTensor& tensor,
                 ResultRow row) {
    int64_t judged = 0;
    WB_TRY(const ShardPlan::Difference d, plan.Verify(plan_rank, 0, tensor.bytes, judged));
    if (judged != plan.local_numel()) {
      return Fail(ErrorKind::kInternal, "coverage",
                  fmt::format("{} of {} elements of {} were judged", judged, plan.local_numel(),
                              tensor.name));
    }
    if (d.padding_not_zero > 0) {
      report_.notes.push_back({"vocab-padding", PaddingText(tensor.name, d.padding_not_zero)});
    }
    if (d.mismatched > 0) {
      const auto size = static_cast<size_t>(BitsOf(tensor.dtype) / 8);
      TakeDifference(
          plan, d,
          std::span(tensor.bytes).subspan(static_cast<size_t>(d.local_element) * size, size), row);
    } else if (plan.parameter().op == Op::kNone && plan.hf_dtype() != plan.megatron_dtype()) {
      row.status = RowStatus::kMatchWidened;
    }
    report_.results.push_back(std::move(row));
    return {};
  }

  const Model& model_;
  const Placement& placement_;
  const Checkpoint& hf_;
  const Dialect dialect_;
  std::map<Key, std::vector<const MegatronTensor*>> by_key_;
  std::set<Key> judged_;
  Report report_;
};

}  // namespace

Result<MegatronTree> ImportTree(const Model& model, const Placement& placement,
                                const Checkpoint& hf, Dialect dialect) {
  WB_RETURN_IF_ERROR(RequireComplete(model, hf));
  MegatronTree tree;
  std::vector<std::byte> scratch;
  for (const PlacedParameter& placed : placement.parameters()) {
    WB_TRY(const ShardPlan plan, ShardPlan::Create(model, placement, *placed.parameter, hf));
    for (int r = 0; r < placement.GroupSize(*placed.parameter); ++r) {
      MegatronTensor tensor;
      tensor.rank = RankOf(placed, r);
      tensor.name = placement.RankName(placed, dialect);
      tensor.parameter = placed.parameter;
      tensor.dtype = plan.megatron_dtype();
      tensor.shape = plan.local_shape();
      tensor.bytes.resize(static_cast<size_t>(plan.local_numel() * BitsOf(tensor.dtype) / 8));
      const int plan_rank = placed.parameter->cut.replicated() ? 0 : r;
      WB_RETURN_IF_ERROR(plan.Gather(plan_rank, 0, tensor.bytes, scratch));
      tree.tensors.push_back(std::move(tensor));
    }
  }
  return tree;
}

Result<Report> VerifyTree(const Model& model, const Placement& placement, const Checkpoint& hf,
                          const MegatronTree& tree, Dialect dialect) {
  WB_RETURN_IF_ERROR(RequireComplete(model, hf));
  return Verifier(model, placement, hf, dialect).Run(tree);
}

}  // namespace weighbridge
