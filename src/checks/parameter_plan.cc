#include "checks/parameter_plan.h"

#include <fmt/format.h>

#include <vector>

#include "mapping/boxes.h"

namespace weighbridge {

Result<ParameterPlan> ParameterPlan::Create(const Model& model, const Parameter& p,
                                            const Checkpoint& hf) {
  ParameterPlan out;
  out.parameter_ = &p;
  out.sources_.hf = &hf;
  WB_TRY(out.transform_, model.Plan(p));
  std::vector<SourceExtent> extents;
  for (size_t i = 0; i < p.hf.size(); ++i) {
    const TensorInfo* info = hf.Find(p.hf[i]);
    if (info == nullptr) {
      return Fail(ErrorKind::kInternal, "inventory", fmt::format("'{}' is not there", p.hf[i]));
    }
    auto& tensors = out.sources_.tensors;
    if (i > 0 && info->dtype != tensors[0]->dtype) {
      return Fail(
          ErrorKind::kUnsupported, "mixed-dtypes",
          fmt::format("{} is {}, {} is {}: one Megatron tensor cannot hold both", tensors[0]->name,
                      ShortName(tensors[0]->dtype), info->name, ShortName(info->dtype)),
          p.hf[i]);
    }
    tensors.push_back(info);
    extents.push_back({out.transform_.sources[i].begin, out.transform_.sources[i].numel});
  }
  out.sources_.dtype = out.sources_.tensors[0]->dtype;
  if (BitsOf(out.sources_.dtype) % 8 != 0) {
    return Fail(ErrorKind::kUnsupported, "dtype",
                fmt::format("{} packs several elements into a byte", ShortName(out.sources_.dtype)),
                p.hf[0]);
  }
  WB_RETURN_IF_ERROR(ProveBijection(out.transform_.layout, extents));
  WB_TRY(out.plan_, CompileByTarget(out.transform_.layout, BitsOf(out.sources_.dtype) / 8));
  return out;
}

Result<Plan> ParameterPlan::Box(const Shape& offsets, const Shape& sizes) const {
  if (sizes == parameter_->shape) return plan_;
  WB_TRY(const Plan cut, BoxPlan(parameter_->shape, {offsets, sizes}, BitsOf(sources_.dtype) / 8));
  return Compose(cut, plan_);
}

ParameterPlan::Origin ParameterPlan::OriginOf(int64_t element) const {
  const int64_t size = BitsOf(sources_.dtype) / 8;
  Origin origin;
  plan_.Visit(element * size, (element + 1) * size, [&](const Run& run) {
    origin.source = run.other;
    origin.element = run.other_offset / size;
  });
  return origin;
}

}  // namespace weighbridge
