// The plans of one parameter between a Hugging Face checkpoint and the ranks of a grid: where each
// byte of a rank's tensor comes from, and, by Megatron's own gather rule, where it goes back to.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "checks/moves.h"
#include "checks/result.h"
#include "family/shards.h"
#include "formats/checkpoint.h"
#include "mapping/plan.h"

namespace weighbridge {

class ShardPlan {
 public:
  // Every HF tensor of `p` must be in `hf` with the shape that the transform wants (the inventory
  // check comes first), which must outlive this. Proves that layout and joining rule are
  // bijections. Errors: kUsage "grid"
  // when the parameter cannot be cut, kUnsupported for mixed dtypes, kInternal when a proof fails.
  // `dtype`: in which the ranks hold it; by default as a faultless import gives it.
  static Result<ShardPlan> Create(const Model& model, const Placement& placement,
                                  const Parameter& p, const Checkpoint& hf,
                                  std::optional<DType> dtype = std::nullopt);

  const Parameter& parameter() const { return *parameter_; }
  int ranks() const { return ranks_; }
  const Shape& local_shape() const { return local_shape_; }
  DType hf_dtype() const { return hf_dtype_; }
  DType megatron_dtype() const { return megatron_dtype_; }
  // Elements of a rank's tensor, and its bytes on either side of the op.
  int64_t local_numel() const { return local_numel_; }
  const std::vector<const TensorInfo*>& sources() const { return sources_; }
  // How the values of a source are made; nullptr when it is stored as it is.
  const QuantizedTensor* Quantized(size_t source) const {
    return data_.Quantized(static_cast<int>(source));
  }
  // One value of a source, in hf_dtype().
  void HfElement(size_t source, int64_t element, std::byte* out) const;
  const TransformPlan& transform() const { return transform_; }
  bool changes_values() const {
    return parameter_->op != Op::kNone || hf_dtype_ != megatron_dtype_;
  }

  // Writes elements [begin, begin + out.size() / element size) of rank `rank`'s tensor, in
  // Megatron's dtype.  `scratch` is reused between calls.
  Status Gather(int rank, int64_t begin, std::span<std::byte> out,
                std::vector<std::byte>& scratch) const;

  // What a comparison found. Offsets are of the first difference, in elements.
  struct Difference {
    int64_t mismatched = 0;  // HF elements that differ (Verify: Megatron elements)
    size_t source = 0;       // of the first: index into sources()
    int64_t hf_element = -1, local_element = -1;
    int64_t padding_not_zero = 0;  // elements of the padding that are not zero
    // The same per source, of those with a mismatch, in no order.
    struct OfSource {
      size_t source = 0;
      int64_t mismatched = 0, hf_element = -1, local_element = -1;
    };
    std::vector<OfSource> by_source;

    // Counts one mismatch.
    void Add(size_t of_source, int64_t hf_at, int64_t local_at);
  };
  // Compares the bytes of rank `rank`'s tensor from element `begin` on (Megatron's dtype) with the
  // HF tensors that they belong to. `rounded` counts elements that differ from HF's by the lawful
  // rounding of an op that cannot restore every bit; they are not mismatches. `covered[i]` grows by
  // the elements of source i.
  Result<Difference> Compare(int rank, int64_t begin, std::span<const std::byte> megatron,
                             std::span<int64_t> covered, std::span<int64_t> rounded,
                             std::vector<std::byte>& scratch) const;

  // Judges the bytes of rank `rank`'s tensor, whoever wrote them, by the rule of verification: each
  // Megatron value is f(HF value), rounded once into Megatron's dtype, bit for bit. (Compare asks
  // what comes back in HF's dtype, to which bytes of a wider tensor may be lost.) Reads the same
  // runs; `local` grows by the elements judged, padding included.
  Result<Difference> Verify(int rank, int64_t begin, std::span<const std::byte> megatron,
                            int64_t& local) const;

  // Index of a local element in the rank's tensor, of an HF element in its tensor.
  std::vector<int64_t> LocalIndex(int64_t element) const;
  std::vector<int64_t> HfIndex(size_t source, int64_t element) const;

 private:
  const Parameter* parameter_ = nullptr;
  TransformPlan transform_;
  std::vector<const TensorInfo*> sources_;
  Sources data_;  // of sources_
  DType hf_dtype_ = DType::kF32, megatron_dtype_ = DType::kF32;
  int ranks_ = 1;
  Shape local_shape_;
  int64_t local_numel_ = 0;
  std::vector<Plan> forward_, backward_;  // per rank, in HF bytes
};

}  // namespace weighbridge
