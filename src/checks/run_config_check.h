// What an existing checkpoint's run_config.yaml says, beside what the HF config says: sizes only.
// Comparing two configs by effect is more than this.
#pragma once

#include "checks/result.h"
#include "family/model.h"
#include "formats/megatron_config/run_config.h"

namespace weighbridge {

// Adds to `report`: how the checkpoint was built and cut (details), and a cause with origin config
// for each kind of size that contradicts the HF config (size-mismatch, head-geometry) and for a
// value of the wrong kind (header-corrupt). A field that the run config leaves out or that `model`
// does not have says nothing.
void CheckRunConfig(const Model& model, const RunConfig& run_config, Report& report);

}  // namespace weighbridge
