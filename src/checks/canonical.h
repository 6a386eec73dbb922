// The tensors of a model as Hugging Face names them, whichever checkpoint holds them: the family's
// primary names, per expert where it has such, each once (no tied copies). What a manifest lists.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "checks/parameter_source.h"
#include "checks/result.h"
#include "family/model.h"
#include "formats/checkpoint.h"
#include "formats/megatron_checkpoint.h"

namespace weighbridge {

struct CanonicalTensor {
  std::string name;
  Shape shape;
  DType stored = DType::kF32;
  std::optional<DType> declared;  // by the family: it stays in this dtype in Megatron
  // Where it is: a tensor of Hugging Face as it is, or parts of parameters in their order.
  const TensorInfo* hf = nullptr;
  uint32_t first_part = 0, parts = 0;
  // The tensor of Hugging Face that has these values, and no others, when it is stored quantized.
  const TensorInfo* quantized = nullptr;

  uint64_t bytes() const { return static_cast<uint64_t>(Numel(shape) * BitsOf(stored) / 8); }
};

struct CanonicalOptions {
  bool headers_only = false;
  bool without_mtp = false;
  int threads = 1;
};

// Immutable; may be used from any thread.
class CanonicalTensors {
 public:
  // Two expansions of one family and config: `primary` without ExpandOptions::has, `stored` as the
  // checkpoint is. All must outlive this. Tensors that are not complete are left out and have rows.
  // Errors: those of TakeInventory, of RequireEqualCopies.
  static Result<CanonicalTensors> OfHf(const Model& primary, const Model& stored,
                                       const Checkpoint& hf, const CanonicalOptions& options);
  static Result<CanonicalTensors> OfMegatron(const Model& primary, const Model& stored,
                                             const MegatronCheckpoint& megatron,
                                             const CanonicalOptions& options);

  const std::vector<CanonicalTensor>& tensors() const { return tensors_; }  // sorted by name
  // What the checkpoint itself lacks, has beside, and keeps as copies: failed rows have a cause.
  const std::vector<ResultRow>& rows() const { return rows_; }
  const std::vector<Cause>& causes() const { return causes_; }
  const std::vector<Note>& notes() const { return notes_; }
  // Tensors that are none of these, in any checkpoint of the model.
  const std::vector<NotNeeded>& not_held() const { return primary_->not_needed(); }

  // How tensor.quantized is stored; nullptr without one.
  const QuantizedTensor* Quantized(const CanonicalTensor& tensor) const {
    return tensor.quantized != nullptr ? hf_->Quantized(*tensor.quantized) : nullptr;
  }
  // The files' tensors as they are, which QuantizedTensor::stored names. Only of Hugging Face.
  const Checkpoint& Stored() const { return hf_->Stored(); }

  // Visits the elements in order, as Hugging Face has them, in the stored dtype; of a quantized
  // tensor its values. Memory is constant, but for layouts whose elements alternate
  // (checks/hf_part.h).
  Status Visit(const CanonicalTensor& tensor,
               const std::function<Status(std::span<const std::byte>)>& visit) const;

 private:
  // The same of a tensor whose columns several parameters hold: row by row.
  Status VisitColumns(const CanonicalTensor& tensor,
                      const std::function<Status(std::span<const std::byte>)>& visit) const;
  struct Part {
    size_t parameter = 0;  // of both models
    size_t source = 0;
    int64_t begin = 0, numel = 0;
  };

  CanonicalTensors(const Model& primary, const Model& stored)
      : primary_(&primary), stored_(&stored) {}
  Status CheckSameParameters() const;
  Status Collect(const std::vector<const Parameter*>& there);

  const Model* primary_;
  const Model* stored_;
  const Checkpoint* hf_ = nullptr;  // or nullptr
  std::unique_ptr<const ParameterSource> source_;
  std::vector<CanonicalTensor> tensors_;
  std::vector<Part> parts_;
  std::vector<ResultRow> rows_;
  std::vector<Cause> causes_;
  std::vector<Note> notes_;
};

}  // namespace weighbridge
