#include "checks/diagnose/row_structure.h"

#include <string_view>

namespace weighbridge {
namespace {

int64_t DimOr(const Model& model, const Parameter& p, std::string_view name, int64_t otherwise) {
  const auto value = model.Dim(p, name);
  return value ? *value : otherwise;
}

bool Has(const Parameter& p, std::string_view text) {
  return p.rule->megatron.find(text) != std::string::npos;
}

int64_t Rows(const Shape& shape) { return shape.empty() ? 1 : shape[0]; }

RowStructure Plain(int64_t rows) { return {RowKind::kPlain, 1, {{"rows", rows}}}; }

RowStructure OrPlain(RowStructure structure, int64_t rows) {
  bool fits = structure.groups > 0 && structure.group_rows() * structure.groups == rows;
  for (const RowPart& part : structure.parts) {
    fits = fits && part.rows > 0 && part.heads > 0 && part.rows % part.heads == 0 &&
           part.rope <= part.rows / part.heads;
  }
  return fits ? std::move(structure) : Plain(rows);
}

// The share of a head that is rotated, as the config has it.
int64_t RotatedRows(const Model& model, int64_t head_dim) {
  for (const Field& field : model.config()) {
    if (field.name != "rotary_percent" || !field.value.is_number()) continue;
    const auto rows =
        static_cast<int64_t>(static_cast<double>(head_dim) * field.value.get<double>());
    return rows / 2 * 2;
  }
  return head_dim / 2 * 2;
}

RowStructure Qkv(const Model& model, const Parameter& p, std::string_view transform) {
  const int64_t heads = DimOr(model, p, "heads", 0), groups = DimOr(model, p, "groups", 0);
  const int64_t d = DimOr(model, p, "head_dim", 0);
  if (heads <= 0 || groups <= 0 || d <= 0 || heads % groups != 0) return Plain(Rows(p.shape));
  const int64_t per = heads / groups, rope = RotatedRows(model, d);
  RowStructure out{RowKind::kQkv, groups, {}};
  const bool gate = transform == "qkv_gated" || transform == "qkv_head_gate";
  const int64_t v = transform == "qkv_unequal" ? DimOr(model, p, "v_head_dim", d) : d;
  if (transform != "kv") out.parts.push_back({"query", per * d, per, rope});
  if (gate) out.parts.push_back({"gate", per * d, per, 0});
  out.parts.push_back({"key", d, 1, rope});
  out.parts.push_back({"value", v, 1, 0});
  return out;
}

std::string PartName(const Parameter& p, size_t i) {
  const auto& names = p.rule->parts;
  return i < names.size() ? names[i] : "part " + std::to_string(i);
}

}  // namespace

int64_t RowStructure::group_rows() const {
  int64_t rows = 0;
  for (const RowPart& part : parts) rows += part.rows;
  return rows;
}

RowStructure MegatronRows(const Model& model, const Parameter& p) {
  const int64_t rows = Rows(p.shape);
  const std::string_view transform = p.storage->transform;
  if (transform == "kv" || transform.starts_with("qkv")) {
    return OrPlain(Qkv(model, p, transform), rows);
  }
  const int64_t nope = DimOr(model, p, "nope_dim", 0), rope = DimOr(model, p, "rope_dim", 0);
  const int64_t heads = DimOr(model, p, "heads", 0);
  if (nope > 0 && rope > 0 && heads > 0) {
    if (Has(p, "linear_q_proj.weight") || Has(p, "linear_q_up_proj.weight")) {
      return OrPlain({RowKind::kMlaQuery, heads, {{"nope", nope}, {"rope", rope, 1, rope}}}, rows);
    }
    if (Has(p, "linear_kv_up_proj.weight")) {
      const int64_t v = DimOr(model, p, "v_dim", 0);
      return OrPlain({RowKind::kMlaUp, heads, {{"key", nope}, {"value", v}}}, rows);
    }
    if (Has(p, "linear_kv_down_proj.weight")) {
      return OrPlain({RowKind::kLatent, 1, {{"latent", rows - rope}, {"rope", rope, 1, rope}}},
                     rows);
    }
  } else if (Has(p, "q_layernorm.weight") || Has(p, "k_layernorm.weight")) {
    const int64_t d = DimOr(model, p, "head_dim", 0);
    if (d > 0 && rows % d == 0) {
      return OrPlain({RowKind::kPlain, 1, {{"heads", rows, rows / d, RotatedRows(model, d)}}},
                     rows);
    }
  }
  const auto& components = p.cut.components;
  if (components.size() >= 2) {
    const bool gated =
        components.size() == 2 && components[0] == components[1] && Has(p, "linear_fc1");
    RowStructure out{gated ? RowKind::kGated : RowKind::kPacked, 1, {}};
    for (size_t i = 0; i < components.size(); ++i) {
      const char* half[] = {"gate", "up"};
      out.parts.push_back({gated ? half[i] : PartName(p, i), components[i]});
    }
    return OrPlain(std::move(out), rows);
  }
  return Plain(rows);
}

RowStructure HfRows(const Model& model, const Parameter& p, size_t source, const Shape& shape) {
  const RowStructure whole = MegatronRows(model, p);
  const int64_t rows = Rows(shape);
  if (whole.kind == RowKind::kQkv && p.hf.size() > 1) {
    // Each source is one part, or the query with its gate.
    const size_t at = p.hf.size() == whole.parts.size() ? source
                      : source == 0                     ? 0
                                                        : source + whole.parts.size() - p.hf.size();
    const RowPart& part = whole.parts.at(std::min(at, whole.parts.size() - 1));
    return OrPlain({RowKind::kPlain,
                    1,
                    {{part.name, part.rows * whole.groups, part.heads * whole.groups, part.rope}}},
                   rows);
  }
  return Plain(rows);
}

}  // namespace weighbridge
