#include "checks/selftest/row_labels.h"

#include <algorithm>
#include <string_view>

namespace weighbridge {
namespace {

class Labeller {
 public:
  Labeller(const Model& model, const Parameter& p)
      : model_(model), p_(p), name_(p.rule->megatron), transform_(p.storage->transform) {}

  LabelledRows Run() {
    if (transform_ == "kv" || transform_.starts_with("qkv")) {
      Attention();
    } else if (Dim("nope_dim") > 0 && Dim("rope_dim") > 0 && Dim("heads") > 0) {
      Latent();
    } else if (Ends("q_layernorm.weight") || Ends("k_layernorm.weight")) {
      Heads();
    }
    if (out_.rows.empty()) Components();
    if (static_cast<int64_t>(out_.rows.size()) != Rows()) Plain();
    return std::move(out_);
  }

 private:
  int64_t Dim(std::string_view name) const {
    const auto value = model_.Dim(p_, name);
    return value ? *value : 0;
  }
  int64_t Rows() const { return p_.shape.empty() ? 1 : p_.shape[0]; }
  bool Ends(std::string_view end) const { return name_.ends_with(end); }

  int Part(const std::string& name, int64_t rotated = 0, bool padding = false) {
    out_.parts.push_back(name);
    out_.rotated.push_back(rotated);
    out_.padding.push_back(padding);
    return static_cast<int>(out_.parts.size()) - 1;
  }
  void Add(int part, int64_t group, int64_t head, int64_t channels) {
    for (int64_t c = 0; c < channels; ++c) out_.rows.push_back({part, group, head, c});
  }

  int64_t Rotated(int64_t head_dim) const {
    for (const Field& field : model_.config()) {
      if (field.name == "rotary_percent" && field.value.is_number()) {
        head_dim = static_cast<int64_t>(static_cast<double>(head_dim) * field.value.get<double>());
      }
    }
    return head_dim - head_dim % 2;
  }

  void Attention() {
    const int64_t heads = Dim("heads"), groups = Dim("groups"), d = Dim("head_dim");
    if (heads < 1 || groups < 1 || d < 1 || heads % groups != 0) return;
    const int64_t v_dim = transform_ == "qkv_unequal" ? Dim("v_head_dim") : d;
    const bool query = transform_ != "kv", zeros = transform_ == "qkv_query";
    const bool gated = transform_ == "qkv_gated" || transform_ == "qkv_head_gate";
    const int q = query ? Part("query", Rotated(d)) : -1;
    const int gate = gated ? Part("gate") : -1;
    const int k = Part("key", Rotated(d), zeros), v = Part("value", 0, zeros);
    const int64_t per = heads / groups;
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t h = 0; query && h < per; ++h) Add(q, g, g * per + h, d);
      for (int64_t h = 0; gated && h < per; ++h) Add(gate, g, g * per + h, d);
      Add(k, g, g, d);
      Add(v, g, g, v_dim);
    }
    out_.kind = RowsAre::kAttention;
  }

  void Latent() {
    const int64_t nope = Dim("nope_dim"), rope = Dim("rope_dim"), heads = Dim("heads");
    if (Ends("linear_q_proj.weight") || Ends("linear_q_up_proj.weight")) {
      const int still = Part("nope"), rotated = Part("rope", rope);
      for (int64_t h = 0; h < heads; ++h) {
        Add(still, h, h, nope);
        Add(rotated, h, h, rope);
      }
      out_.kind = RowsAre::kMlaQuery;
    } else if (Ends("linear_kv_up_proj.weight")) {
      const int k = Part("key"), v = Part("value");
      for (int64_t h = 0; h < heads; ++h) {
        Add(k, h, h, nope);
        Add(v, h, h, Dim("v_dim"));
      }
      out_.kind = RowsAre::kMlaKeyValue;
    } else if (Ends("linear_kv_down_proj.weight")) {
      const int latent = Part("latent"), rotated = Part("rope", rope);
      Add(latent, 0, 0, std::max<int64_t>(Rows() - rope, 0));
      Add(rotated, 0, 0, rope);
      out_.kind = RowsAre::kLatent;
    }
  }

  void Heads() {
    const int64_t d = Dim("head_dim");
    if (d < 1 || Rows() % d != 0) return;
    const int part = Part("heads", Rotated(d));
    for (int64_t h = 0; h < Rows() / d; ++h) Add(part, 0, h, d);
    out_.kind = RowsAre::kHeads;
  }

  void Components() {
    const auto& sizes = p_.cut.components;
    if (sizes.size() < 2) return;
    const bool gated = sizes.size() == 2 && sizes[0] == sizes[1] &&
                       name_.find("linear_fc1") != std::string_view::npos;
    for (size_t i = 0; i < sizes.size(); ++i) {
      Add(Part(gated ? (i == 0 ? "gate" : "up") : "component " + std::to_string(i)), 0, 0,
          sizes[i]);
    }
    out_.kind = gated ? RowsAre::kGated : RowsAre::kPacked;
  }

  void Plain() {
    out_ = {};
    Add(Part("rows"), 0, 0, Rows());
  }

  const Model& model_;
  const Parameter& p_;
  const std::string_view name_, transform_;
  LabelledRows out_;
};

}  // namespace

LabelledRows LabelRows(const Model& model, const Parameter& p) { return Labeller(model, p).Run(); }

}  // namespace weighbridge
