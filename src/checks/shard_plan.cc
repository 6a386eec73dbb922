#include "checks/shard_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "checks/moves.h"
#include "checks/parameter_plan.h"

namespace weighbridge {
namespace {

int64_t ElementBytes(DType dtype) { return BitsOf(dtype) / 8; }

}  // namespace

Result<ShardPlan> ShardPlan::Create(const Model& model, const Placement& placement,
                                    const Parameter& p, const Checkpoint& hf) {
  ShardPlan out;
  out.parameter_ = &p;
  WB_TRY(ParameterPlan whole, ParameterPlan::Create(model, p, hf));
  out.sources_ = whole.sources().tensors;
  out.hf_dtype_ = whole.sources().dtype;
  out.transform_ = whole.transform();
  out.megatron_dtype_ = p.rule->dtype.value_or(out.hf_dtype_);
  out.ranks_ = p.cut.replicated() ? 1 : placement.GroupSize(p);
  if (auto cut = CheckCut(p.shape, p.cut, out.ranks_); !cut) {
    Error error = cut.error();
    error.at = model.MegatronName(p, Dialect::kTe);
    return Fail(std::move(error));
  }
  out.local_shape_ = CutShape(p.shape, p.cut, out.ranks_);
  out.local_numel_ = Numel(out.local_shape_);
  const int64_t element = ElementBytes(out.hf_dtype_);
  const Layout join = JoinLayout(p.shape, p.cut, out.ranks_);
  WB_RETURN_IF_ERROR(ProveBijection(
      join, std::vector<SourceExtent>(static_cast<size_t>(out.ranks_), {0, out.local_numel_})));
  for (int r = 0; r < out.ranks_; ++r) {
    WB_TRY(const Plan cut, CompileByTarget(CutLayout(p.shape, p.cut, out.ranks_, r), element));
    WB_TRY(const Plan back, CompileBySource(join, r, {0, out.local_numel_}, element));
    out.forward_.push_back(Compose(cut, whole.plan()));
    out.backward_.push_back(Compose(back, whole.plan()));
  }
  return out;
}

Status ShardPlan::Gather(const Checkpoint& hf, int rank, int64_t begin, std::span<std::byte> out,
                         std::vector<std::byte>& scratch) const {
  return GatherElements(forward_[static_cast<size_t>(rank)], {&hf, sources_, hf_dtype_},
                        parameter_->op, megatron_dtype_, begin, out, scratch);
}

Result<ShardPlan::Difference> ShardPlan::Compare(const Checkpoint& hf, int rank, int64_t begin,
                                                 std::span<const std::byte> megatron,
                                                 std::span<int64_t> covered,
                                                 std::span<int64_t> rounded,
                                                 std::vector<std::byte>& scratch) const {
  const int64_t hf_size = ElementBytes(hf_dtype_);
  const int64_t elements = static_cast<int64_t>(megatron.size()) / ElementBytes(megatron_dtype_);
  std::span<const std::byte> block = megatron;
  const bool lossy =
      InvertibilityOf(parameter_->op, hf_dtype_, megatron_dtype_) == Invertibility::kRounded;
  if (changes_values()) {
    scratch.resize(static_cast<size_t>(elements * hf_size));
    WB_RETURN_IF_ERROR(
        Apply(Inverse(parameter_->op), megatron_dtype_, megatron, hf_dtype_, std::span(scratch)));
    block = scratch;
  }
  Difference difference;
  const int64_t from = begin * hf_size;
  // The expected HF value of an op that rounds: f^-1(round(f(x))), per element.
  const auto lawful = [&](const std::byte* source_element, const std::byte* found) {
    std::byte forward[8] = {}, back[8] = {};
    const auto hf_bytes = static_cast<size_t>(hf_size);
    const auto megatron_bytes = static_cast<size_t>(ElementBytes(megatron_dtype_));
    if (!Apply(parameter_->op, hf_dtype_, {source_element, hf_bytes}, megatron_dtype_,
               {forward, megatron_bytes}) ||
        !Apply(Inverse(parameter_->op), megatron_dtype_, {forward, megatron_bytes}, hf_dtype_,
               {back, hf_bytes})) {
      return false;
    }
    return std::memcmp(back, found, hf_bytes) == 0;
  };
  backward_[static_cast<size_t>(rank)].Visit(from, from + elements * hf_size, [&](const Run& run) {
    const std::byte* found = block.data() + (run.offset - from);
    if (run.other == kZeroSource) {
      for (int64_t i = 0; i < run.bytes(); ++i) {
        difference.padding_not_zero += found[i] != std::byte{0} ? 1 : 0;
      }
      return;
    }
    const auto s = static_cast<size_t>(run.other);
    covered[s] += run.bytes() / hf_size;
    const std::byte* source = hf.Data(*sources_[s]).data();
    if (EqualRun(run, source, found)) return;
    for (int64_t at = 0; at < run.bytes(); at += hf_size) {
      const int64_t chunk = at / run.length;
      const int64_t hf_byte = run.other_offset + chunk * run.other_stride + at % run.length;
      if (std::memcmp(source + hf_byte, found + at, static_cast<size_t>(hf_size)) == 0) continue;
      if (lossy && lawful(source + hf_byte, found + at)) {
        ++rounded[s];
        continue;
      }
      ++difference.mismatched;
      const int64_t local = (run.offset + at) / hf_size;
      if (difference.local_element < 0 || local < difference.local_element) {
        difference.source = s;
        difference.hf_element = hf_byte / hf_size;
        difference.local_element = local;
      }
    }
  });
  return difference;
}

std::vector<int64_t> ShardPlan::LocalIndex(int64_t element) const {
  return MultiIndex(local_shape_, element);
}

std::vector<int64_t> ShardPlan::HfIndex(size_t source, int64_t element) const {
  return MultiIndex(sources_[source]->shape, element);
}

}  // namespace weighbridge
