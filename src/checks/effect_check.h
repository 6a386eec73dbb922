// Two configs compared by effect: what both models compute, never how a config calls it.
#pragma once

#include "checks/result.h"
#include "family/effects/runtime.h"
#include "family/model.h"
#include "formats/megatron_config/megatron_config.h"

namespace weighbridge {

// Adds to `report` a cause for each kind of effect in which the two differ, with the layers, both
// values, and the keys and fields behind them. Origin is runtime where the difference is gone
// without the hidden behaviours, else config. What differs only beyond the longest position is a
// note; `without_mtp` leaves the depth of multi-token prediction out. False: they cannot be
// compared, and `unproven` says why.
bool CompareEffects(const Model& model, const MegatronConfig& config, const RuntimeChoice& choice,
                    bool without_mtp, Report& report);

}  // namespace weighbridge
