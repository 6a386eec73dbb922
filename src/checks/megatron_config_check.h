// What a Megatron checkpoint's own config says, beside what a Hugging Face config makes of the same
// fields. Field by field: comparing two configs by effect is more than this.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "checks/result.h"
#include "family/model.h"
#include "formats/megatron_config/megatron_config.h"

namespace weighbridge {

struct FieldDifference {
  std::string field;
  nlohmann::json found, expected;  // in the Megatron config; by the HF config. null is None
};

// The fields that both say and in which they differ, by name. Fields that only steer training
// (dropout, initialisation, load balancing), sequence lengths, and those that this config gives no
// effect are left out, and so is the vocabulary's size, which padding changes.
std::vector<FieldDifference> CompareFields(const Model& model, const MegatronConfig& config);

// The fields to which `config` gives a value (not None or false, nor a list of those) and `model`
// the same one: what a family carries over of what the Megatron config says. What the family gives
// to every model alike is left out.
std::set<std::string> SharedFields(const Model& model, const MegatronConfig& config);

// "hidden_size is 64 in run_config.yaml and 48 by the HF config"
std::string Describe(const FieldDifference& difference, const MegatronConfig& config);

// "size-mismatch" or "head-geometry" for a field that shapes weights; "" for another.
std::string SizeCause(const std::string& field);

// "layernorm_epsilon is nan and has to be a finite number": of a field by which nothing can be
// computed; "" for another.
std::string ImpossibleNumber(const std::string& field, const MegatronConfig& config);

// Adds to `report`: how the checkpoint was built and cut (details); a cause with origin config for
// each kind of size that contradicts the HF config (size-mismatch, head-geometry) and for a value
// of the wrong kind or an impossible number (header-corrupt); a note for every other field that
// differs, but for those that were compared `by_effect`. A field that the config leaves out or that
// `model` does not have says nothing.
void CheckMegatronConfig(const Model& model, const MegatronConfig& config, bool by_effect,
                         Report& report);

}  // namespace weighbridge
