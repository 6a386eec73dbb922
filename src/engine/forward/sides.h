// One side of a stage under comparison, with its tensors; shared by the parts of a session.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/boundary.h"
#include "engine/forward/module.h"
#include "engine/forward/session.h"
#include "engine/forward/weights.h"

namespace weighbridge::engine {

struct Session::Side {
  Side(const nlohmann::json& description, std::span<const WbEngineTensor> tensors,
       const std::string& name, BufferPool& pool, at::Device device);
  // What was captured elsewhere, batch first.
  std::optional<at::Tensor> Recorded(const std::string& part) const;

  Weights weights, recorded;
  bool sequence_first = false;  // of the recorded hidden states
  std::unique_ptr<Stage> stage;
};

struct Session::Pair {
  Side reference, candidate;
};

// Adds the time of its life to one of the passes.
class Session::Clock {
 public:
  Clock(std::map<std::string, double>& seconds, const char* pass);
  ~Clock();

 private:
  double& seconds_;
  const double start_;
};

inline at::Tensor& At(Activations& states, Slot slot) { return states[static_cast<size_t>(slot)]; }

// A side without the module hands on what comes in.
std::vector<at::Tensor> RunOr(const Stage& stage, const ModuleInfo& module,
                              std::span<const at::Tensor> in);
// Numbers in `dtype`; ids, and what is not there, as they are.
std::vector<at::Tensor> InDType(std::vector<at::Tensor> tensors, at::ScalarType dtype);
std::vector<at::Tensor> Inputs(Activations& states, const ModuleInfo& module, at::ScalarType dtype);
void Store(Activations& states, const ModuleInfo& module, std::vector<at::Tensor> out);
// Whether a module that neither side has may hand its inputs on: its outputs may be another's.
bool IsFilled(Activations& states, const ModuleInfo& module);
// One side's own way through a stage; with `routing`, by those weights of experts instead of what
// its router gives.
Activations Chain(const Stage& stage, std::span<const ModuleInfo> modules, Activations states,
                  const at::Tensor& routing = {});

// The state after a layer of one side.
at::Tensor RunLayer(const Stage& stage, const at::Tensor& x);

}  // namespace weighbridge::engine
