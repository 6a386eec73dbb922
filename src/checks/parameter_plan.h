// The plan of one whole (global) Megatron parameter: where each of its bytes comes from in a
// Hugging Face checkpoint. What cuts it, into ranks or into the chunks of a file, is composed with
// it.
#pragma once

#include "base/result.h"
#include "checks/moves.h"
#include "checks/parameter_source.h"
#include "family/model.h"
#include "formats/checkpoint.h"
#include "mapping/plan.h"

namespace weighbridge {

class ParameterPlan {
 public:
  // Every HF tensor of `p` must be in `hf` with the shape that the transform wants (the inventory
  // check comes first). Proves that the layout is a bijection. `hf` must outlive this. Errors:
  // kUnsupported for mixed dtypes or elements smaller than a byte, kInternal when the proof fails.
  static Result<ParameterPlan> Create(const Model& model, const Parameter& p, const Checkpoint& hf);

  const Parameter& parameter() const { return *parameter_; }
  const TransformPlan& transform() const { return transform_; }
  // The HF tensors, in the transform's order; all of one dtype.
  const std::vector<const TensorInfo*>& tensors() const { return tensors_; }
  const ParameterBytes& bytes() const { return bytes_; }
  const Sources& sources() const { return bytes_.sources; }
  // Walks the global tensor, in HF's dtype.
  const Plan& plan() const { return bytes_.plan; }

  // The source and the element in it that element `element` of the global tensor comes from;
  // source kZeroSource for padding.
  struct Origin {
    int source = kZeroSource;
    int64_t element = 0;
  };
  Origin OriginOf(int64_t element) const;

 private:
  const Parameter* parameter_ = nullptr;
  TransformPlan transform_;
  std::vector<const TensorInfo*> tensors_;
  ParameterBytes bytes_;
};

}  // namespace weighbridge
