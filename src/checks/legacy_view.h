// The files of ranks (Megatron's legacy `torch` format) as global tensors: what a rank holds in
// memory is, by the family's cuts and names, boxes of the model's parameters one behind the other.
#pragma once

#include <memory>

#include "base/result.h"
#include "family/model.h"
#include "formats/megatron_checkpoint.h"

namespace weighbridge {

// `files` has rank_files(). Every parameter that is there is a tensor under its name in the modules
// with the model's numbers of layers and experts (Model::MegatronName), whatever stages the layers
// stand in. What a rank lacks or holds in another shape is in faults(); what no parameter explains
// stands under its own name. kUnsupported "unsupported-format" when nothing says how the experts
// are cut.
Result<std::unique_ptr<MegatronCheckpoint>> ViewAsGlobal(
    const Model& model, std::shared_ptr<const MegatronCheckpoint> files);

}  // namespace weighbridge
