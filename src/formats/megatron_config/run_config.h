// run_config.yaml, Megatron Bridge's own config beside the weights of an iteration: how the model
// is built, by which class, and how it was saved. Source: megatron-bridge 0.6.2, training/
// checkpointing.py and training/model_load_save.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace weighbridge {

inline constexpr const char* kRunConfigName = "run_config.yaml";

// Immutable. Keys that nobody asks for are no errors.
class RunConfig {
 public:
  // The fields of the section `model`: Megatron-Core's config, what the model's constructor takes,
  // and what the family's own class adds. A class or function is an object with "_target_".
  const nlohmann::json& model() const { return model_; }
  // Absent and null: nullopt. A value of another kind is kCorrupt "header-corrupt".
  Result<std::optional<int64_t>> Integer(std::string_view field) const;
  // Absent, null and what is no text: "".
  std::string Text(std::string_view field) const;
  // The class that builds the model: "megatron.bridge.models.gpt_provider.GPTModelProvider".
  std::string provider() const { return Text("_target_"); }
  // Where the weights came from: a path, or org/name[@REV]; "" when it is not recorded.
  std::string HfModel() const;

 private:
  friend Result<RunConfig> RunConfigOf(const nlohmann::json& document, const std::string& name);
  std::string name_;
  nlohmann::json model_;
};

// Of the whole document, as ParseYaml gives it. `name` is what messages call it. kCorrupt
// "header-corrupt" when there is no section `model`.
Result<RunConfig> RunConfigOf(const nlohmann::json& document, const std::string& name);

// `name` is what messages call the text. Errors: those of ParseYaml and RunConfigOf.
Result<RunConfig> ParseRunConfig(std::string_view text, const std::string& name);

// nullopt: there is no such file. Errors: those of ParseRunConfig, kPermission, kIo.
Result<std::optional<RunConfig>> ReadRunConfig(const std::filesystem::path& path);

}  // namespace weighbridge
