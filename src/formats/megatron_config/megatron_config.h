// Megatron-Core's config of a checkpoint, wherever its writer recorded it: Megatron Bridge in
// run_config.yaml, Megatron-LM as the `args` of the common state.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/result.h"
#include "formats/megatron_checkpoint.h"
#include "formats/megatron_config/run_config.h"

namespace weighbridge {

struct MegatronConfig {
  // Megatron-Core's fields (TransformerConfig, and what the model's constructor takes) -> values:
  // None is null, the activation its function's name, what is not recorded is absent.
  nlohmann::json fields = nlohmann::json::object();
  std::string origin;  // "run_config.yaml", "args of the common state": for messages
  // Rows of the word embedding that the config declares, padding included; nullopt: it does not
  // say.
  std::optional<int64_t> embedding_rows;
  // Megatron Bridge only: the class that builds the model, and where the weights came from.
  std::string provider, hf_model;

  bool from_bridge() const { return !provider.empty(); }
};

MegatronConfig ConfigOfRunConfig(const RunConfig& run_config);

// `args`: the training arguments of Megatron-LM as plain values. Names and meanings follow
// core_transformer_config_from_args (megatron/training/arguments.py).
MegatronConfig ConfigOfArguments(const nlohmann::json& args);

// The one of run_config.yaml where there is one, else the one of the common state; nullopt when
// neither is there. Errors: those of ReadRunConfig and MegatronCheckpoint::CommonState.
Result<std::optional<MegatronConfig>> ReadMegatronConfig(const MegatronCheckpoint& checkpoint);

}  // namespace weighbridge
