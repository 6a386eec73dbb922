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
                                    const Parameter& p, const Checkpoint& hf,
                                    std::optional<DType> dtype) {
  ShardPlan out;
  out.parameter_ = &p;
  WB_TRY(ParameterPlan whole, ParameterPlan::Create(model, p, hf));
  out.sources_ = whole.tensors();
  out.data_ = whole.sources();
  out.hf_dtype_ = whole.sources().dtype;
  out.transform_ = whole.transform();
  out.megatron_dtype_ = dtype.value_or(p.rule->dtype.value_or(out.hf_dtype_));
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

Status ShardPlan::Gather(int rank, int64_t begin, std::span<std::byte> out,
                         std::vector<std::byte>& scratch) const {
  return GatherElements(forward_[static_cast<size_t>(rank)], data_, parameter_->op, megatron_dtype_,
                        begin, out, scratch);
}

void ShardPlan::Difference::Add(size_t of_source, int64_t hf_at, int64_t local_at) {
  ++mismatched;
  if (local_element < 0 || local_at < local_element) {
    source = of_source;
    hf_element = hf_at;
    local_element = local_at;
  }
  auto entry = std::find_if(by_source.begin(), by_source.end(),
                            [&](const OfSource& s) { return s.source == of_source; });
  if (entry == by_source.end()) {
    entry = by_source.insert(by_source.end(), {of_source, 0, hf_at, local_at});
  }
  ++entry->mismatched;
  if (local_at < entry->local_element) {
    entry->hf_element = hf_at;
    entry->local_element = local_at;
  }
}

Result<ShardPlan::Difference> ShardPlan::Compare(int rank, int64_t begin,
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
  thread_local std::vector<std::byte> expected;
  backward_[static_cast<size_t>(rank)].Visit(from, from + elements * hf_size, [&](const Run& run) {
    const std::byte* found = block.data() + (run.offset - from);
    if (run.other == kZeroSource) {
      const auto is_zero = [](std::byte b) { return b == std::byte{0}; };
      for (int64_t at = 0; at < run.bytes(); at += hf_size) {
        difference.padding_not_zero += !std::all_of(found + at, found + at + hf_size, is_zero);
      }
      return;
    }
    const auto s = static_cast<size_t>(run.other);
    if (!run.copy) covered[s] += run.bytes() / hf_size;
    if (EqualRun(run, data_, found)) return;
    expected.resize(static_cast<size_t>(run.bytes()));
    GatherRun(run, data_, expected.data());
    for (int64_t at = 0; at < run.bytes(); at += hf_size) {
      const std::byte* source = expected.data() + at;
      if (std::memcmp(source, found + at, static_cast<size_t>(hf_size)) == 0) continue;
      if (lossy && lawful(source, found + at)) {
        ++rounded[s];
        continue;
      }
      const int64_t chunk = at / run.length;
      const int64_t hf_byte = run.other_offset + chunk * run.other_stride + at % run.length;
      difference.Add(s, hf_byte / hf_size, (run.offset + at) / hf_size);
    }
  });
  return difference;
}

Result<ShardPlan::Difference> ShardPlan::Verify(int rank, int64_t begin,
                                                std::span<const std::byte> megatron,
                                                int64_t& local) const {
  constexpr int64_t kBlockElements = 1 << 14;
  const int64_t hf_size = ElementBytes(hf_dtype_), size = ElementBytes(megatron_dtype_);
  const int64_t elements = static_cast<int64_t>(megatron.size()) / size;
  const int64_t from = begin * hf_size;
  std::vector<std::byte> moved(static_cast<size_t>(kBlockElements * hf_size));
  std::vector<std::byte> expected(static_cast<size_t>(kBlockElements * size));
  Difference difference;
  Status failed;
  const auto judge = [&](const Run& run) {
    const int64_t n = run.bytes() / hf_size;
    const int64_t first = (run.offset - from) / hf_size;  // in `megatron`
    const bool padding = run.other == kZeroSource;
    const std::span<std::byte> source = std::span(moved).first(static_cast<size_t>(n * hf_size));
    const std::span<std::byte> wanted = std::span(expected).first(static_cast<size_t>(n * size));
    if (padding) {
      std::memset(wanted.data(), 0, wanted.size());
    } else {
      GatherRun(run, data_, source.data());
      if (auto applied = Apply(parameter_->op, hf_dtype_, source, megatron_dtype_, wanted);
          !applied) {
        failed = applied;
        return;
      }
    }
    local += n;
    const std::byte* found = megatron.data() + first * size;
    if (std::memcmp(wanted.data(), found, wanted.size()) == 0) return;
    for (int64_t i = 0; i < n; ++i) {
      if (std::memcmp(wanted.data() + i * size, found + i * size, static_cast<size_t>(size)) == 0) {
        continue;
      }
      if (padding) {
        ++difference.padding_not_zero;
        continue;
      }
      const int64_t byte = i * hf_size;
      const int64_t hf_byte =
          run.other_offset + byte / run.length * run.other_stride + byte % run.length;
      difference.Add(static_cast<size_t>(run.other), hf_byte / hf_size, begin + first + i);
    }
  };
  for (int64_t at = 0; at < elements && failed; at += kBlockElements) {
    const int64_t n = std::min(kBlockElements, elements - at);
    backward_[static_cast<size_t>(rank)].Visit(from + at * hf_size, from + (at + n) * hf_size,
                                               judge);
  }
  if (!failed) return Fail(failed.error());
  return difference;
}

void ShardPlan::HfElement(size_t source, int64_t element, std::byte* out) const {
  const int64_t size = ElementBytes(hf_dtype_);
  GatherRun({.other = static_cast<int>(source), .other_offset = element * size, .length = size},
            data_, out);
}

std::vector<int64_t> ShardPlan::LocalIndex(int64_t element) const {
  return MultiIndex(local_shape_, element);
}

std::vector<int64_t> ShardPlan::HfIndex(size_t source, int64_t element) const {
  return MultiIndex(sources_[source]->shape, element);
}

}  // namespace weighbridge
