// One parameter's part of a Hugging Face tensor, read in that tensor's order from wherever the
// parameter is stored: what `export` writes, and what a manifest hashes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "checks/moves.h"
#include "checks/parameter_source.h"
#include "family/model.h"
#include "mapping/plan.h"

namespace weighbridge {

// What `bytes` refers to must outlive it. Immutable; may be used from any thread.
class HfPart {
 public:
  // The part of HF tensor p.hf[source]. Memory is that of the plan, but where a layout's elements
  // alternate the whole part is gathered at once. Errors: those of Model::Plan.
  static Result<HfPart> Open(const Model& model, const Parameter& p, size_t source,
                             const ParameterBytes& bytes);

  // Elements of the HF tensor; of one that several parameters hold by columns each has stretches.
  int64_t numel() const { return extent_.numel; }
  // The place of element i in the HF tensor, and how many elements from it on follow each other.
  int64_t ElementAt(int64_t i) const;
  int64_t Following(int64_t i) const;
  DType stored() const { return sources_.dtype; }

  // Elements [at, at + out.size() / element size) of the part, as Hugging Face has them, in
  // `dtype`. `scratch` is reused between calls.
  Status Read(int64_t at, DType dtype, std::span<std::byte> out,
              std::vector<std::byte>& scratch) const;
  // All of it in the stored dtype, where it lies in one piece as Hugging Face has it.
  std::optional<std::span<const std::byte>> InPlace() const;

 private:
  Status Scatter(const Layout& layout, int source, const ParameterBytes& bytes);

  Plan plan_;  // walks the part, in the stored dtype
  Sources sources_;
  Op op_ = Op::kNone;  // from the stored values to those of Hugging Face
  SourceExtent extent_;
  std::vector<std::byte> scattered_;
};

}  // namespace weighbridge
