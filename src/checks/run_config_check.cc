#include "checks/run_config_check.h"

#include <fmt/format.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "base/strings.h"

namespace weighbridge {
namespace {

struct SizeField {
  const char* name;
  const char* cause;
};

constexpr std::array<SizeField, 8> kSizes = {{{"num_layers", "size-mismatch"},
                                              {"hidden_size", "size-mismatch"},
                                              {"ffn_hidden_size", "size-mismatch"},
                                              {"moe_ffn_hidden_size", "size-mismatch"},
                                              {"num_moe_experts", "size-mismatch"},
                                              {"num_attention_heads", "head-geometry"},
                                              {"num_query_groups", "head-geometry"},
                                              {"kv_channels", "head-geometry"}}};

void AddCause(Report& report, std::string id, std::string where, std::string message) {
  for (Cause& known : report.causes) {
    if (known.id != id || known.origin != Origin::kConfig) continue;
    known.where.push_back(std::move(where));
    known.message += "; " + message;
    return;
  }
  report.causes.push_back({std::move(id),
                           Proof::kStructural,
                           Origin::kConfig,
                           {std::move(where)},
                           std::move(message),
                           kRunConfigName,
                           ""});
}

// nullopt: not recorded, or of the wrong kind, which is a cause.
std::optional<int64_t> Declared(const RunConfig& run_config, const char* field, Report& report) {
  const auto value = run_config.Integer(field);
  if (value) return *value;
  AddCause(report, value.error().id, field, value.error().what);
  return std::nullopt;
}

void CompareSizes(const Model& model, const RunConfig& run_config, Report& report) {
  for (const SizeField& size : kSizes) {
    for (const Field& field : model.config()) {
      if (field.name != size.name || !field.value.is_number_integer()) continue;
      const auto declared = Declared(run_config, size.name, report);
      if (!declared || *declared == field.value.get<int64_t>()) continue;
      AddCause(report, size.cause, size.name,
               fmt::format("{} is {} in {} and {} by the HF config", size.name, *declared,
                           kRunConfigName, field.value.get<int64_t>()));
    }
  }
}

std::string GridText(const RunConfig& run_config, Report& report) {
  const auto size = [&](const char* field) {
    return static_cast<int>(Declared(run_config, field, report).value_or(1));
  };
  ParallelGrid grid;
  grid.tp = size("tensor_model_parallel_size");
  grid.pp = size("pipeline_model_parallel_size");
  grid.vpp = size("virtual_pipeline_model_parallel_size");
  grid.ep = size("expert_model_parallel_size");
  grid.etp = size("expert_tensor_parallel_size");
  return ToString(grid);
}

}  // namespace

void CheckRunConfig(const Model& model, const RunConfig& run_config, Report& report) {
  const auto detail = [&](const char* key, const std::string& value) {
    if (!value.empty()) report.details.emplace_back(key, ToPrintable(value));
  };
  detail("saved by", "Megatron Bridge");
  detail("provider", run_config.provider());
  detail("saved from", run_config.HfModel());
  detail("saved grid", GridText(run_config, report));
  if (const auto vocab = Declared(run_config, "vocab_size", report)) {
    detail("declared vocabulary", fmt::format("{}", *vocab));
  }
  CompareSizes(model, run_config, report);
}

}  // namespace weighbridge
