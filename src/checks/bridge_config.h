// What `import` writes as run_config.yaml: the config with which Megatron Bridge builds the model
// and loads the checkpoint.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"
#include "family/model.h"
#include "mapping/sharding.h"
#include "tensor/dtype.h"

namespace weighbridge {

struct BridgeConfigOptions {
  ParallelGrid grid;
  Dialect dialect = Dialect::kTe;
  DType dtype =
      DType::kBF16;      // of the weights; one that Megatron does not train in becomes float32
  std::string hf_model;  // a path, or org/name[@REV]
  std::string ckpt_format = "torch_dist";
};

// The whole document, for DumpYaml. Fields of which the model has none are null; what is not said
// has the provider's default. Errors: kUnsupported when the family has no provider, or no modules
// of that dialect.
Result<nlohmann::json> BridgeRunConfig(const Model& model, const BridgeConfigOptions& options);

// Refuses a config.json by which nothing can be computed, before `run_config` (of BridgeRunConfig)
// is written: kUnsupported "config-unsupported" for a value of another kind than what it means, and
// for what `verify` says of the document itself (ImpossibleNumber).
Status CheckRunConfigValues(const Model& model, const nlohmann::json& run_config);

// Changes an existing document, as ParseYaml gave it, to what `options` say; everything else stays,
// hf_model included. kUnsupported when the module spec changes and the family has no modules of
// the new one; kCorrupt "header-corrupt" without a section `model`.
Status UpdateRunConfig(const Model& model, const BridgeConfigOptions& options,
                       nlohmann::json& config);

}  // namespace weighbridge
