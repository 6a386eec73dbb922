#include "checks/rank_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <string_view>

namespace weighbridge {
namespace {

constexpr std::string_view kLayers = "decoder.layers.", kLocalExperts = "experts.local_experts.";

// A run of digits in a name.
struct Number {
  size_t begin = 0, end = 0;
  int64_t value = 0;
};

std::optional<Number> NumberAt(std::string_view name, size_t begin) {
  Number n{begin, begin, 0};
  while (n.end < name.size() && n.end - begin < 9 &&
         std::isdigit(static_cast<unsigned char>(name[n.end])) != 0) {
    n.value = 10 * n.value + (name[n.end++] - '0');
  }
  if (n.end == n.begin) return std::nullopt;
  return n;
}

// A vision tower has a decoder too, which no pipeline stage divides.
std::optional<Number> LayerOf(std::string_view name) {
  const size_t at = name.find(kLayers);
  if (at == std::string_view::npos) return std::nullopt;
  const bool text = at == 0 || name.substr(0, at).ends_with("language_model.");
  return text ? NumberAt(name, at + kLayers.size()) : std::nullopt;
}

// "...experts.local_experts.3.linear_fc1.weight" -> "...experts.linear_fc1.weight3"
std::string GroupedExpert(const std::string& name) {
  const size_t at = name.find(kLocalExperts);
  if (at == std::string::npos) return name;
  const auto number = NumberAt(name, at + kLocalExperts.size());
  if (!number || number->end >= name.size()) return name;
  return name.substr(0, at) + "experts." + name.substr(number->end + 1) +
         fmt::format("{}", number->value);
}

// The expert's number at the end of a name of grouped experts.
std::optional<Number> ExpertOf(std::string_view name) {
  if (name.find(".experts.") == std::string_view::npos) return std::nullopt;
  size_t begin = name.size();
  while (begin > 0 && std::isdigit(static_cast<unsigned char>(name[begin - 1])) != 0) --begin;
  return NumberAt(name, begin);
}

std::string Replaced(const std::string& name, const Number& number, int64_t value) {
  return name.substr(0, number.begin) + fmt::format("{}", value) + name.substr(number.end);
}

}  // namespace

RankNames::RankNames(const TorchLegacyCheckpoint& ranks) {
  std::map<std::pair<size_t, int>, int64_t> layers;  // by part, then pipeline rank
  for (const RankFile& rank : ranks.ranks()) {
    for (size_t part = 0; part < rank.parts.size(); ++part) {
      int64_t& count = layers[{part, rank.pp}];
      for (const RankTensor& tensor : rank.parts[part]) {
        if (const auto n = LayerOf(tensor.name)) count = std::max(count, n->value + 1);
        if (const auto e = ExpertOf(GroupedExpert(tensor.name))) {
          int64_t& experts = experts_[{rank.pp, part}];
          experts = std::max(experts, e->value + 1);
        }
      }
    }
  }
  int64_t first = 0;
  for (const auto& [stage, count] : layers) {
    first_layer_[{stage.second, stage.first}] = first;
    first += count;
  }
}

std::string RankNames::Global(const RankFile& rank, size_t part, const std::string& name) const {
  std::string global = GroupedExpert(name);
  if (const auto e = ExpertOf(global)) {
    global = Replaced(global, *e, rank.ep * experts_.at({rank.pp, part}) + e->value);
  }
  if (const auto n = LayerOf(global)) {
    global = Replaced(global, *n, first_layer_.at({rank.pp, part}) + n->value);
  }
  return global;
}

std::vector<std::string> RankNames::Spellings(const std::string& name) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kOther = {{
      {".input_layernorm.", ".self_attention.linear_qkv.layer_norm_"},
      {".pre_mlp_layernorm.", ".mlp.linear_fc1.layer_norm_"},
      {".self_attention.linear_qkv.layer_norm_", ".input_layernorm."},
      {".mlp.linear_fc1.layer_norm_", ".pre_mlp_layernorm."},
  }};
  std::vector<std::string> out = {name};
  for (const auto& [one, other] : kOther) {
    const size_t at = name.find(one);
    if (at == std::string::npos) continue;
    out.push_back(name.substr(0, at) + std::string(other) + name.substr(at + one.size()));
  }
  constexpr std::string_view kHead = "output_layer.weight";
  if (name == kHead || name.ends_with(".output_layer.weight")) {
    out.push_back(name.substr(0, name.size() - kHead.size()) + "embedding.word_embeddings.weight");
  }
  return out;
}

}  // namespace weighbridge
