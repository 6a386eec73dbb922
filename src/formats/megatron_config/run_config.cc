#include "formats/megatron_config/run_config.h"

#include <fmt/format.h>

#include "base/file.h"
#include "formats/megatron_config/yaml.h"

namespace weighbridge {

using nlohmann::json;

Result<std::optional<int64_t>> RunConfig::Integer(std::string_view field) const {
  const auto it = model_.find(std::string(field));
  if (it == model_.end() || it->is_null()) return std::nullopt;
  if (it->is_number_integer()) return it->get<int64_t>();
  return Corrupt("header-corrupt",
                 fmt::format("model.{} is no integer but {}", field, it->type_name()), name_);
}

std::string RunConfig::Text(std::string_view field) const {
  const auto it = model_.find(std::string(field));
  return it != model_.end() && it->is_string() ? it->get<std::string>() : "";
}

std::string RunConfig::HfModel() const {
  const std::string id = Text("hf_model_id"), revision = Text("hf_model_revision");
  return id.empty() || revision.empty() ? id : fmt::format("{}@{}", id, revision);
}

Result<RunConfig> RunConfigOf(const json& document, const std::string& name) {
  const auto model = document.is_object() ? document.find("model") : document.end();
  if (model == document.end() || !model->is_object()) {
    return Corrupt("header-corrupt", "there is no table `model` in it", name);
  }
  RunConfig config;
  config.name_ = name;
  config.model_ = *model;
  return config;
}

Result<RunConfig> ParseRunConfig(std::string_view text, const std::string& name) {
  WB_TRY(const json root, ParseYaml(text, name));
  return RunConfigOf(root, name);
}

Result<std::optional<RunConfig>> ReadRunConfig(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::nullopt;
  Result<std::string> text = ReadTextFile(path, kMaxYamlBytes);
  if (!text && text.error().kind == ErrorKind::kUnsupported) {
    return Corrupt("header-corrupt", text.error().what, path.string());
  }
  if (!text) return tl::unexpected(text.error());
  WB_TRY(RunConfig config, ParseRunConfig(*text, path.string()));
  return config;
}

}  // namespace weighbridge
