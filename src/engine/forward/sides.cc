#include "engine/forward/sides.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/parallel/team.h"
#include "engine/parallel/team_stage.h"

namespace weighbridge::engine {
namespace {

using at::Tensor;
using nlohmann::json;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Session::Side::Side(const json& description, std::span<const WbEngineTensor> tensors,
                    const std::string& name, BufferPool& pool, at::Device device)
    : weights(pool, device), recorded(pool, device) {
  for (const WbEngineTensor& tensor : tensors) {
    weights.Add(tensor, name + ".");
    recorded.Add(tensor, name + ".recorded.");
  }
  sequence_first = description.value("sequence_first", false);
  const json& spec = description.at("spec");
  if (description.at("model") == "hf") {
    stage = MakeHfStage(spec, weights);
  } else if (description.contains("team")) {
    stage = std::make_unique<TeamStage>(*Team::Current(), description.at("team"), spec, weights);
  } else {
    stage = MakeMegatronStage(spec, weights);
  }
}

std::optional<Tensor> Session::Side::Recorded(const std::string& part) const {
  if (!recorded.Has(part)) return std::nullopt;
  // A copy: it outlives the stage.
  const Tensor values = recorded.Get(part, at::kFloat).clone();
  return sequence_first && part != "logits" ? values.transpose(0, 1) : values;
}

Session::Clock::Clock(std::map<std::string, double>& seconds, const char* pass)
    : seconds_(seconds[pass]), start_(Now()) {}
Session::Clock::~Clock() { seconds_ += Now() - start_; }

std::vector<Tensor> InDType(std::vector<Tensor> tensors, at::ScalarType dtype) {
  for (Tensor& x : tensors) x = x.defined() && x.is_floating_point() ? x.to(dtype) : x;
  return tensors;
}

std::vector<Tensor> Inputs(Activations& states, const ModuleInfo& module, at::ScalarType dtype) {
  std::vector<Tensor> in;
  for (const Slot slot : module.in) in.push_back(At(states, slot));
  return InDType(std::move(in), dtype);
}

std::vector<Tensor> RunOr(const Stage& stage, const ModuleInfo& module,
                          std::span<const Tensor> in) {
  if (stage.Has(module.id)) return stage.Run(module.id, in);
  return {in.begin(),
          in.begin() + static_cast<std::ptrdiff_t>(std::min(in.size(), module.out.size()))};
}

void Store(Activations& states, const ModuleInfo& module, std::vector<Tensor> out) {
  for (size_t i = 0; i < out.size() && i < module.out.size(); ++i) {
    At(states, module.out[i]) = std::move(out[i]);
  }
}

bool IsFilled(Activations& states, const ModuleInfo& module) {
  return std::any_of(module.out.begin(), module.out.end(),
                     [&](Slot slot) { return At(states, slot).defined(); });
}

Activations Chain(const Stage& stage, std::span<const ModuleInfo> modules, Activations states,
                  const Tensor& routing) {
  for (const ModuleInfo& module : modules) {
    if (!stage.Has(module.id) && IsFilled(states, module)) continue;
    const Tensor& first = At(states, module.in[0]);
    const at::ScalarType dtype = first.is_floating_point() ? first.scalar_type() : at::kFloat;
    const std::vector<Tensor> in = Inputs(states, module, dtype);
    Store(states, module, RunOr(stage, module, in));
    if (module.id == ModuleId::kRouter && routing.defined()) At(states, Slot::kRouting) = routing;
  }
  return states;
}

Tensor RunLayer(const Stage& stage, const Tensor& x) {
  Activations own{};
  At(own, Slot::kX) = x;
  own = Chain(stage, LayerModules(), std::move(own));
  return At(own, Slot::kOut);
}

}  // namespace weighbridge::engine
