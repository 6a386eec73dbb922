// Whether a forward pass of both models fits this machine: what `check` decides by.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "family/model.h"

namespace weighbridge {

struct ForwardFit {
  bool fits = false;
  int64_t tokens = 0;    // so many random ids are to run
  uint64_t memory = 0;   // bytes, estimated
  double seconds = 0;    // estimated
  std::string sentence;  // "about 1.2 GB of memory and 40 s": for --explain
};

// By the model's sizes, the memory that is free and the number of processors. No tensor is read.
Result<ForwardFit> EstimateForward(const Model& model);

}  // namespace weighbridge
