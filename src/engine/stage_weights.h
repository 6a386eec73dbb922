// The tensors of one stage of one side, read when the stage is due and dropped after it.
#pragma once

#include <cstddef>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "checks/parameter_source.h"
#include "engine/component.h"
#include "engine/describe.h"
#include "formats/checkpoint.h"

namespace weighbridge {

// Views into files, and the bytes that are in none. Cleared for the next stage, whose bytes take
// the place of the last one's: fresh memory costs more than what it is filled with.
class StageTensors {
 public:
  std::vector<NamedTensor> tensors;

  // Not initialized; stays where it is until Clear().
  std::span<std::byte> Own(uint64_t bytes);
  void Clear();

 private:
  struct Buffer {
    std::unique_ptr<std::byte[]> bytes;
    uint64_t size = 0;
  };
  std::vector<Buffer> used_, free_;
};

// Appends the stage's tensors as "SIDE.ROLE" and completes `spec`. Errors: those of HfTensorsOf;
// kNotFound "tensor-missing".
Status AddHfTensors(const Model& model, const Checkpoint& hf, StageId stage,
                    const std::string& side, nlohmann::json& spec, StageTensors& out);

// The same of Megatron's parameters, joined along their plans. Errors: those of
// ParameterSource::Open and GatherElements.
Status AddMegatronTensors(const Model& model, const ParameterSource& source, StageId stage,
                          const std::string& side, StageTensors& out);

// Appends what `plan` walks of a parameter: in place where it lies in one piece. Errors: those of
// GatherElements; kUnsupported "dtype".
Status AddTensor(const ParameterBytes& parameter, const Plan& plan, const Shape& shape, DType dtype,
                 std::string name, std::vector<std::byte>& scratch, StageTensors& out);

}  // namespace weighbridge
