#include "checks/parameter_plan.h"

#include <fmt/format.h>

#include <vector>

namespace weighbridge {

Result<ParameterPlan> ParameterPlan::Create(const Model& model, const Parameter& p,
                                            const Checkpoint& hf) {
  ParameterPlan out;
  out.parameter_ = &p;
  out.bytes_.shape = p.shape;
  out.bytes_.op = p.op;
  WB_TRY(out.transform_, model.Plan(p));
  std::vector<SourceExtent> extents;
  for (size_t i = 0; i < p.hf.size(); ++i) {
    const TensorInfo* info = hf.Find(p.hf[i]);
    if (info == nullptr) {
      return Fail(ErrorKind::kInternal, "inventory", fmt::format("'{}' is not there", p.hf[i]));
    }
    auto& tensors = out.tensors_;
    if (i > 0 && info->dtype != tensors[0]->dtype) {
      return Fail(
          ErrorKind::kUnsupported, "mixed-dtypes",
          fmt::format("{} is {}, {} is {}: one Megatron tensor cannot hold both", tensors[0]->name,
                      ShortName(tensors[0]->dtype), info->name, ShortName(info->dtype)),
          p.hf[i]);
    }
    tensors.push_back(info);
    out.bytes_.sources.Add(hf.Data(*info).data(), hf.Quantized(*info));
    extents.push_back(out.transform_.sources[i].extent());
  }
  const DType dtype = out.tensors_[0]->dtype;
  out.bytes_.sources.dtype = dtype;
  if (BitsOf(dtype) % 8 != 0) {
    return Fail(ErrorKind::kUnsupported, "dtype",
                fmt::format("{} packs several elements into a byte", ShortName(dtype)), p.hf[0]);
  }
  WB_RETURN_IF_ERROR(ProveBijection(out.transform_.layout, extents));
  WB_TRY(out.bytes_.plan, CompileByTarget(out.transform_.layout, BitsOf(dtype) / 8));
  return out;
}

ParameterPlan::Origin ParameterPlan::OriginOf(int64_t element) const {
  const int64_t size = BitsOf(sources().dtype) / 8;
  Origin origin;
  plan().Visit(element * size, (element + 1) * size, [&](const Run& run) {
    origin.source = run.other;
    origin.element = run.other_offset / size;
  });
  return origin;
}

}  // namespace weighbridge
