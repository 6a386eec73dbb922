// Two configs compared by effect: what both models compute, never how a config calls it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "checks/result.h"
#include "family/effects/runtime.h"
#include "family/model.h"
#include "formats/megatron_config/megatron_config.h"

namespace weighbridge {

struct EffectPlace {
  std::vector<int64_t> layers;  // counted from 0; empty: the effect is one of the whole model
  std::string module;           // as Megatron-Core calls it, beneath its layer; empty: all of them
  std::string effect;           // family/effects/effects.h
  // Other modules that differ by it: the rotation where another kind of layer has another RoPE
  // table, what has norms within it (the projections of MLA, delta nets).
  std::vector<std::string> also;
};

struct EffectCause {
  Cause cause;
  std::vector<EffectPlace> places;  // of which cause.where is the text, one for one
  // Needs no forward pass to be wrong: the two have other parameters, or parameters of other
  // shapes, so that what the Megatron config builds has no room for the weights; or nothing is
  // built of it.
  bool structural = false;
};

struct EffectFindings {
  bool compared = false;  // else `unproven` says why they cannot be
  // Megatron's config with the sizes of the HF config, and without what is structural.
  MegatronConfig as_stored;
  std::vector<EffectCause> causes;
  std::vector<Note> notes;
  std::vector<std::string> unproven;
  std::vector<std::pair<std::string, std::string>> details;
};

// A cause for each kind of effect in which the two differ, with the layers, both values, and the
// keys and fields behind them. Origin is runtime where the difference is gone without the hidden
// behaviours, else config. What differs only beyond the longest position is a note; `without_mtp`
// leaves the depth of multi-token prediction out.
EffectFindings FindEffectDifferences(const Model& model, const MegatronConfig& config,
                                     const RuntimeChoice& choice, bool without_mtp);

// Adds them to `report`. False: they were not compared.
bool CompareEffects(const Model& model, const MegatronConfig& config, const RuntimeChoice& choice,
                    bool without_mtp, Report& report);

}  // namespace weighbridge
