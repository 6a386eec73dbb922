#include "family/effects/fields.h"

#include <cmath>

#include "family/derive.h"

namespace weighbridge {
namespace {

using nlohmann::json;

constexpr int64_t kMaxLayers = 100000;

// TransformerConfig.__post_init__: of N layers the last skips RoPE.
json ExpandNoRope(const json& value, int64_t layers) {
  if (!value.is_number_integer() || value < 1 || layers > kMaxLayers) return value;
  const auto n = value.get<int64_t>();
  json list = json::array();
  for (int64_t i = 0; i < layers; ++i) list.push_back((i + 1) % n == 0 ? 1 : 0);
  return list;
}

}  // namespace

void NormalizeFields(json& fields, int64_t layers) {
  for (auto& [field, value] : fields.items()) {
    if (value == "none") value = nullptr;
    if (value.is_array()) {
      for (json& entry : value) {
        if (entry == "none") entry = nullptr;
      }
    }
    if (field == "no_rope_freq") {
      value = ExpandNoRope(value, layers);
    } else {
      value = ExpandLayerFrequency(field, value, layers);
    }
  }
}

double PositiveOr(const json& table, const char* key, double fallback) {
  const auto it = table.find(key);
  if (it == table.end() || !it->is_number()) return fallback;
  const auto value = it->get<double>();
  return value > 0 && std::isfinite(value) ? value : fallback;
}

bool ListSays(const json& fields, const char* field, int64_t layer) {
  const auto it = fields.find(field);
  if (it == fields.end() || !it->is_array() || layer >= static_cast<int64_t>(it->size())) {
    return false;
  }
  const json& entry = (*it)[static_cast<size_t>(layer)];
  return entry == 1 || entry == true;
}

double NumberForLayer(const json& value, bool windowed, double fallback) {
  if (value.is_number()) return value.get<double>();
  if (!value.is_array() || value.size() != 2) return fallback;
  const json& entry = value[windowed ? 0 : 1];
  return entry.is_number() ? entry.get<double>() : fallback;
}

void AddRecipe(const Llama3Scaling& s, json& recipe) {
  recipe["factor"] = s.factor;
  recipe["low_freq_factor"] = s.low_freq_factor;
  recipe["high_freq_factor"] = s.high_freq_factor;
  recipe["original_max_position_embeddings"] = s.original_max_position_embeddings;
}

void AddRecipe(const YarnScaling& s, json& recipe) {
  recipe["factor"] = s.factor;
  recipe["original_max_position_embeddings"] = s.original_max_position_embeddings;
  recipe["beta_fast"] = s.beta_fast;
  recipe["beta_slow"] = s.beta_slow;
  recipe["truncate"] = s.truncate;
}

}  // namespace weighbridge
