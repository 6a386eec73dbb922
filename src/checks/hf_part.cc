#include "checks/hf_part.h"

#include <algorithm>
#include <utility>

namespace weighbridge {

Result<HfPart> HfPart::Open(const Model& model, const Parameter& p, size_t source,
                            const ParameterBytes& bytes) {
  HfPart out;
  WB_TRY(const TransformPlan transform, model.Plan(p));
  out.extent_ = transform.sources[source].extent();
  out.sources_ = bytes.sources;
  out.op_ = bytes.op == Op::kNone ? Inverse(p.op) : Op::kNone;
  const Result<Plan> by_source = CompileBySource(transform.layout, static_cast<int>(source),
                                                 out.extent_, BitsOf(bytes.sources.dtype) / 8);
  if (by_source) {
    out.plan_ = Compose(*by_source, bytes.plan);
    return out;
  }
  const bool alternates = by_source.error().id == "interleaved" && out.extent_.stride == 0;
  if (!alternates) return Fail(by_source.error());
  WB_RETURN_IF_ERROR(out.Scatter(transform.layout, static_cast<int>(source), bytes));
  return out;
}

// For layouts whose elements alternate: the parameter is walked in its own order and scattered.
Status HfPart::Scatter(const Layout& layout, int source, const ParameterBytes& bytes) {
  constexpr int64_t kBlockBytes = 1 << 20;
  const int64_t element = BitsOf(bytes.sources.dtype) / 8;
  WB_TRY(const Plan whole, CompileByTarget(layout, element));
  scattered_.resize(static_cast<size_t>(numel() * element));
  std::vector<std::byte> block;
  for (int64_t at = 0; at < whole.bytes(); at += kBlockBytes) {
    const int64_t end = std::min(at + kBlockBytes, whole.bytes());
    block.resize(static_cast<size_t>(end - at));
    GatherBytes(bytes.plan, bytes.sources, at, block);
    whole.Visit(at, end, [&](const Run& run) {
      if (run.other != source || run.copy) return;
      ScatterRun(run, block.data() + (run.offset - at),
                 scattered_.data() - extent_.begin * element);
    });
  }
  sources_ = {};
  sources_.dtype = bytes.sources.dtype;
  sources_.Add(scattered_.data(), nullptr);
  plan_ = Plan({Run{.other = 0,
                    .offset = 0,
                    .other_offset = 0,
                    .length = numel() * element,
                    .count = 1,
                    .other_stride = 0}});
  return {};
}

int64_t HfPart::ElementAt(int64_t i) const {
  const auto& [begin, numel, run, stride] = extent_;
  return stride == 0 ? begin + i : begin + i / run * stride + i % run;
}

int64_t HfPart::Following(int64_t i) const {
  return extent_.stride == 0 ? extent_.numel - i : extent_.run - i % extent_.run;
}

Status HfPart::Read(int64_t at, DType dtype, std::span<std::byte> out,
                    std::vector<std::byte>& scratch) const {
  return GatherElements(plan_, sources_, op_, dtype, at, out, scratch);
}

std::optional<std::span<const std::byte>> HfPart::InPlace() const {
  if (op_ != Op::kNone || plan_.runs().size() != 1) return std::nullopt;
  const Run& run = plan_.runs()[0];
  if (run.count != 1 || run.other == kZeroSource) return std::nullopt;
  if (sources_.Quantized(run.other) != nullptr) return std::nullopt;
  return std::span(sources_.Data(run.other) + run.other_offset, static_cast<size_t>(run.length));
}

}  // namespace weighbridge
