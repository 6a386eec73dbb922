// Are all tensors there, in the shapes that the config asks for, and is each used exactly once?
// Reads headers, and of a tensor with too many rows whether those are zeros.
#pragma once

#include <vector>

#include "base/result.h"
#include "checks/left_out.h"
#include "checks/result.h"
#include "family/model.h"
#include "formats/checkpoint.h"

namespace weighbridge {

struct Inventory {
  // Rows for what is missing, extra, of another shape, or not covered exactly once; never matches.
  std::vector<ResultRow> rows;
  std::vector<Cause> causes;
  std::vector<Note> notes;
  // Parameters all of whose HF tensors are there in the right shape.
  std::vector<const Parameter*> usable;
  // Copies that are there, with the tensor that they must equal.
  struct Copy {
    const TensorCopy* rule = nullptr;
    const TensorInfo* copy = nullptr;
    const TensorInfo* original = nullptr;
  };
  std::vector<Copy> copies;
  std::vector<LeftOut> left_out;  // HF tensors that a rule names as not needed; `notes` has them
};

// Every HF tensor that is neither usable, nor ignored, nor a copy has a row. Errors, kUnsupported:
// "quantized" (a quantized checkpoint that was opened without ShowValues), "dtype" (weights that
// are no floating point numbers).
Result<Inventory> TakeInventory(const Model& model, const Checkpoint& hf);

// The model is expanded as `hf` stores it. `hf` outlives what is done with `options`.
void ChooseStorageBy(const Checkpoint& hf, ExpandOptions& options);

// kCorrupt with the first cause's id, message and place when there is one; `hint` instead of the
// cause's own when it is not empty.
Status RequireNoCause(const std::vector<Cause>& causes, const std::string& hint = "");

// For what converts: kCorrupt with the first cause's id when anything is missing or of another
// shape.
Status RequireComplete(const Model& model, const Checkpoint& hf);

}  // namespace weighbridge
