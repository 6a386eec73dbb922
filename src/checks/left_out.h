// What a command passes over: tensors of one side that the other has no place for, by a rule of the
// family or as asked. Every command says it in the same words.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checks/result.h"
#include "family/model.h"
#include "formats/checkpoint.h"

namespace weighbridge {

struct LeftOut {
  std::string side = "HF";  // or "Megatron"
  std::string pattern;      // "vision_tower.*"
  std::string why;
  int64_t tensors = 0;  // 0: the rule is known, its tensors are not at hand
  uint64_t bytes = 0;   // as stored
};

// Adds a tensor to its group.
void AddLeftOut(const Checkpoint& hf, const TensorInfo& tensor, const NotNeeded& rule,
                std::vector<LeftOut>& groups);
void AddLeftOut(const std::string& side, const NotNeeded& rule, uint64_t bytes,
                std::vector<LeftOut>& groups);

// The parts of a model of which no tensor is made ("vision_tower.*"), without a checkpoint of
// Hugging Face at hand that tells how many they are.
std::vector<LeftOut> PartsNotMade(const Model& model);

// Id "not-needed".
Note Describe(const LeftOut& group);

}  // namespace weighbridge
