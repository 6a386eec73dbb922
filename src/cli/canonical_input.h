// A checkpoint of either world on the command line, as its canonical tensors: what `manifest`
// hashes and `verify CKPT MANIFEST` judges.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "checks/canonical.h"
#include "cli/megatron_input.h"
#include "cli/model_input.h"
#include "family/model.h"

namespace weighbridge::cli {

struct CanonicalInput {
  std::unique_ptr<ModelInput> hf;           // one of the two
  std::unique_ptr<MegatronInput> megatron;  //
  std::optional<Model> primary, stored;
  std::optional<CanonicalTensors> tensors;
  std::vector<std::string> notes;

  const FamilySpec& family() const { return hf ? *hf->family : *megatron->family; }
  const nlohmann::json& config() const { return hf ? hf->config : megatron->config; }
  uint64_t Bytes() const;  // of all tensors
  // Names the files that were read, and how the family was chosen.
  void Describe(Report& report) const;
};

// Opens `arguments.megatron`, which is a Megatron checkpoint, or a Hugging Face folder, file or
// name in the local cache. Errors: those of OpenMegatronInput and OpenModelInput.
Result<std::unique_ptr<CanonicalInput>> OpenCanonical(const MegatronArguments& arguments,
                                                      const CanonicalOptions& options);

}  // namespace weighbridge::cli
