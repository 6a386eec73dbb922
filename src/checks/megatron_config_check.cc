#include "checks/megatron_config_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "base/strings.h"
#include "family/config.h"
#include "family/derive.h"
#include "family/effects/runtime.h"

namespace weighbridge {
namespace {

using nlohmann::json;

struct SizeField {
  std::string_view name, cause;
  bool none_counts = false;  // None is a choice of its own; else it stands for a derived value
};

constexpr std::array<SizeField, 15> kSizes = {
    {{"num_layers", "size-mismatch"},
     {"hidden_size", "size-mismatch"},
     {"ffn_hidden_size", "size-mismatch"},
     {"moe_ffn_hidden_size", "size-mismatch"},
     {"num_moe_experts", "size-mismatch"},
     {"q_lora_rank", "size-mismatch", /*none_counts=*/true},
     {"kv_lora_rank", "size-mismatch"},
     {"dsa_indexer_n_heads", "size-mismatch"},
     {"dsa_indexer_head_dim", "size-mismatch"},
     {"num_attention_heads", "head-geometry"},
     {"num_query_groups", "head-geometry"},
     {"kv_channels", "head-geometry"},
     {"qk_head_dim", "head-geometry"},
     {"qk_pos_emb_head_dim", "head-geometry"},
     {"v_head_dim", "head-geometry"}}};

// They change no output of the model, or are judged elsewhere.
constexpr std::array<std::string_view, 10> kWithoutEffect = {
    "attention_dropout",
    "hidden_dropout",
    "init_method_std",
    "moe_aux_loss_coeff",
    "moe_grouped_gemm",
    "moe_router_load_balancing_type",
    "moe_token_dispatcher_type",
    "seq_length",
    "mtp_num_layers",  // absent layers are rows of their own
    "vocab_size",
};

// A field that counts only where another has not this value.
struct Condition {
  std::string_view field, other;
  double value;
};
constexpr std::array<Condition, 12> kConditions = {{
    {"mscale", "rotary_scaling_factor", 1},
    {"mscale_all_dim", "rotary_scaling_factor", 1},
    {"beta_fast", "rotary_scaling_factor", 1},
    {"beta_slow", "rotary_scaling_factor", 1},
    {"original_max_position_embeddings", "rotary_scaling_factor", 1},
    {"rope_scaling_factor", "rope_scaling", 0},
    {"num_query_groups", "multi_latent_attention", 1},
    {"q_lora_rank", "multi_latent_attention", 0},
    {"kv_lora_rank", "multi_latent_attention", 0},
    {"qk_head_dim", "multi_latent_attention", 0},
    {"qk_pos_emb_head_dim", "multi_latent_attention", 0},
    {"v_head_dim", "multi_latent_attention", 0},
}};

// Numbers below which nothing can be computed; `itself`: the least one can.
struct LeastNumber {
  std::string_view field;
  double least;
  bool itself, may_be_none;
};
constexpr std::array<LeastNumber, 9> kLeast = {{
    {"layernorm_epsilon", 0, /*itself=*/true, /*may_be_none=*/false},
    {"moe_router_topk", 1, true, false},
    {"rotary_base", 0, false, true},
    {"softmax_scale", 0, false, true},
    {"query_pre_attn_scalar", 0, false, true},
    {"rope_scaling_factor", 0, false, true},
    {"rotary_scaling_factor", 0, false, true},
    {"yarn_rotary_scaling_factor", 0, false, true},
    {"seq_len_interpolation_factor", 0, false, true},
}};

double NumberOf(const json& value) {
  if (value.is_boolean()) return value.get<bool>() ? 1 : 0;
  return value.is_number() ? value.get<double>() : std::nan("");
}

bool HasEffect(const std::string& field, const json& fields) {
  if (std::find(kWithoutEffect.begin(), kWithoutEffect.end(), field) != kWithoutEffect.end()) {
    return false;
  }
  return std::none_of(kConditions.begin(), kConditions.end(), [&](const Condition& c) {
    const auto other = c.field == field ? fields.find(std::string(c.other)) : fields.end();
    return other != fields.end() && NumberOf(*other) == c.value;
  });
}

// What an object holds counts as far as both sides say it: a class has defaults of its own, and
// dtypes are objects in YAML.
bool EqualObjects(const json& a, const json& b);

// Floats as both sides write them: through float32, through text.
bool Equal(const json& a, const json& b) {
  if (a.is_object() && b.is_object()) return EqualObjects(a, b);
  if (a.is_number() && b.is_number()) {
    const double x = a.get<double>(), y = b.get<double>();
    return std::abs(x - y) <= 1e-6 * std::max(std::abs(x), std::abs(y));
  }
  if (!a.is_array() || !b.is_array() || a.size() != b.size()) return a == b;
  return std::equal(a.begin(), a.end(), b.begin(), Equal);
}

bool EqualObjects(const json& a, const json& b) {
  for (const auto& [key, value] : b.items()) {
    const auto it = a.find(key);
    const bool comparable = it != a.end() && it->is_object() == value.is_object();
    if (comparable && !Equal(*it, value)) return false;
  }
  return true;
}

json NoneIsNull(json value) {
  if (value == "none") return nullptr;
  for (json& entry : value) {
    if (entry == "none") entry = nullptr;
  }
  return value;
}

std::map<std::string, json> ExpectedFields(const Model& model, bool bridge) {
  std::map<std::string, json> expected;
  for (const Field& field : model.config()) expected[field.name] = field.value;
  if (!bridge) return expected;
  for (const Field& field : model.BridgeFields(Dialect::kTe)) expected[field.name] = field.value;
  return expected;
}

bool IsFinite(const json& value) {
  return !value.is_number_float() || std::isfinite(value.get<double>());
}

std::string Shown(const json& value) {
  // As JSON it would be null.
  return IsFinite(value) ? ToPrintable(Describe(value)) : fmt::format("{}", value.get<double>());
}

// "" or what one number of a field has to be.
std::string WrongNumber(const LeastNumber* limit, const json& value) {
  if (!IsFinite(value)) return "a finite number";
  if (limit == nullptr || (value.is_null() && limit->may_be_none)) return "";
  if (!value.is_number()) return "a number";
  const auto number = value.get<double>();
  if (number > limit->least || (limit->itself && number == limit->least)) return "";
  return fmt::format("{} {}", limit->itself ? "at least" : "above", limit->least);
}

void AddCause(Report& report, std::string id, std::string where, std::string message,
              const std::string& origin) {
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
                           origin,
                           ""});
}

bool SaysSomething(const json& value) {
  if (value.is_array()) return std::any_of(value.begin(), value.end(), SaysSomething);
  return !value.is_null() && NumberOf(value) != 0;
}

const SizeField* FindSize(const std::string& field) {
  const auto it = std::find_if(kSizes.begin(), kSizes.end(),
                               [&](const SizeField& size) { return size.name == field; });
  return it == kSizes.end() ? nullptr : &*it;
}

bool IsSize(const std::string& field) { return FindSize(field) != nullptr; }

// nullopt: not recorded, or of the wrong kind, which is a cause.
std::optional<int64_t> Declared(const MegatronConfig& config, const char* field, Report& report) {
  const auto it = config.fields.find(field);
  if (it == config.fields.end() || it->is_null()) return std::nullopt;
  if (it->is_number_integer()) return it->get<int64_t>();
  AddCause(report, "header-corrupt", field,
           fmt::format("{} is no integer but {}", field, it->type_name()), config.origin);
  return std::nullopt;
}

std::string GridText(const MegatronConfig& config, Report& report) {
  const auto size = [&](const char* field) {
    return static_cast<int>(Declared(config, field, report).value_or(1));
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

std::vector<FieldDifference> CompareFields(const Model& model, const MegatronConfig& config) {
  std::vector<FieldDifference> differences;
  for (const auto& [field, value] : ExpectedFields(model, config.from_bridge())) {
    const auto it = config.fields.find(field);
    if (it == config.fields.end() || !HasEffect(field, config.fields)) continue;
    const json found = ExpandLayerFrequency(field, NoneIsNull(*it), model.layers());
    const json expected = ExpandLayerFrequency(field, NoneIsNull(value), model.layers());
    // A class that has a pattern of layers of its own leaves the list out.
    const SizeField* size = FindSize(field);
    const bool derived = size != nullptr && !size->none_counts;
    if (found.is_null() && (expected.is_array() || derived)) continue;
    if (!Equal(found, expected)) differences.push_back({field, found, expected});
  }
  return differences;
}

std::set<std::string> SharedFields(const Model& model, const MegatronConfig& config) {
  std::set<std::string> shared;
  const auto constant = [&](const std::string& field) {
    for (const auto* rules : {&model.spec().config, &model.spec().bridge.fields}) {
      const auto rule = rules->find(field);
      if (rule != rules->end() && !rule->second.constant.is_null()) return true;
    }
    return false;
  };
  for (const auto& [field, value] : ExpectedFields(model, config.from_bridge())) {
    if (constant(field)) continue;
    const auto it = config.fields.find(field);
    if (it == config.fields.end() || !HasEffect(field, config.fields)) continue;
    const json found = ExpandLayerFrequency(field, NoneIsNull(*it), model.layers());
    const json expected = ExpandLayerFrequency(field, NoneIsNull(value), model.layers());
    if (SaysSomething(found) && Equal(found, expected)) shared.insert(field);
  }
  return shared;
}

std::string Describe(const FieldDifference& d, const MegatronConfig& config) {
  const auto text = [](const json& value) {
    return value.is_null() ? std::string("None") : ToPrintable(Describe(value));
  };
  return fmt::format("{} is {} in {} and {} by the HF config", d.field, text(d.found),
                     config.origin, text(d.expected));
}

std::string ImpossibleNumber(const std::string& field, const MegatronConfig& config) {
  const auto it = config.fields.find(field);
  if (it == config.fields.end() || *it == "none" || !IsReadForEffects(field) ||
      !HasEffect(field, config.fields)) {
    return "";
  }
  const json experts = config.fields.value("num_moe_experts", json());
  const bool is_topk = field == "moe_router_topk";
  if (is_topk && !experts.is_number()) return "";  // nothing is routed
  const auto limit = std::find_if(kLeast.begin(), kLeast.end(),
                                  [&](const LeastNumber& least) { return least.field == field; });
  const auto wrong = [&](const json& value) {
    return WrongNumber(limit == kLeast.end() ? nullptr : &*limit, value);
  };
  std::string expected = is_topk && it->is_number() && *it > experts
                             ? fmt::format("at most {}, the number of experts", Shown(experts))
                             : "";
  if (it->is_array()) {
    for (const json& entry : *it) {
      if (expected.empty()) expected = wrong(entry);
    }
  } else if (expected.empty()) {
    expected = wrong(*it);
  }
  if (expected.empty()) return "";
  return fmt::format("{} is {} and has to be {}", field, Shown(*it), expected);
}

std::string SizeCause(const std::string& field) {
  const SizeField* size = FindSize(field);
  return size == nullptr ? "" : std::string(size->cause);
}

void CheckMegatronConfig(const Model& model, const MegatronConfig& config, bool by_effect,
                         Report& report) {
  const auto detail = [&](const char* key, const std::string& value) {
    if (!value.empty()) report.details.emplace_back(key, ToPrintable(value));
  };
  if (config.from_bridge()) detail("saved by", "Megatron Bridge");
  detail("provider", config.provider);
  detail("saved from", config.hf_model);
  const bool grid_is_known =
      std::any_of(report.details.begin(), report.details.end(),
                  [](const auto& known) { return known.first == "saved grid"; });
  if (!grid_is_known) detail("saved grid", GridText(config, report));
  if (const auto vocab = Declared(config, "vocab_size", report)) {
    detail("declared vocabulary", fmt::format("{}", *vocab));
  }
  for (const auto& [field, value] : config.fields.items()) {
    const std::string why = ImpossibleNumber(field, config);
    if (!why.empty()) AddCause(report, "header-corrupt", field, why, config.origin);
  }
  std::vector<FieldDifference> differences = CompareFields(model, config);
  std::stable_partition(differences.begin(), differences.end(), [](const FieldDifference& d) {
    return SizeCause(d.field) == "size-mismatch";
  });
  for (const FieldDifference& d : differences) {
    if (IsSize(d.field) && !d.found.is_number_integer() && !d.found.is_null()) {
      AddCause(report, "header-corrupt", d.field,
               fmt::format("{} is no integer but {}", d.field, d.found.type_name()), config.origin);
    } else if (IsSize(d.field)) {
      AddCause(report, SizeCause(d.field), d.field, Describe(d, config), config.origin);
    } else if (!by_effect || !IsReadForEffects(d.field)) {
      report.notes.push_back({"config-differs", Describe(d, config)});
    }
  }
}

}  // namespace weighbridge
