// What transformers 5.17 computes, in its own terms: q, k and v apart, batch first, fused attention
// (SDPA) where it takes it, experts one after the other with their outputs weighted. Numbers come
// from config.json (engine/describe.h); the formulas are those of the modeling files.
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "engine/forward/module.h"

namespace weighbridge::engine {
namespace {

using at::Tensor;
using nlohmann::json;

// modeling_rope_utils.py: a table in float32 is part of what transformers computes.
Tensor InverseFrequencies(const json& rope, const at::TensorOptions& options) {
  const std::string kind = rope.at("kind");
  const double base = rope.at("base");
  const int64_t channels = rope.at("channels");
  const Tensor exponents = at::arange(0, channels, 2, options) / static_cast<double>(channels);
  const Tensor powers = at::pow(base, exponents);
  const Tensor plain = 1.0 / powers;
  if (kind == "plain") return plain;
  const double factor = rope.at("factor");
  if (kind == "linear") return plain / factor;
  if (kind == "llama3") {
    const double low = rope.at("low_freq_factor"), high = rope.at("high_freq_factor");
    const double original = rope.at("original_max_position_embeddings");
    const Tensor wavelength = 2 * std::numbers::pi / plain;
    const Tensor scaled = at::where(wavelength > original / low, plain / factor, plain);
    const Tensor smooth = (original / wavelength - low) / (high - low);
    const Tensor smoothed = (1 - smooth) * scaled / factor + smooth * scaled;
    const Tensor medium = (wavelength >= original / high).logical_and(wavelength <= original / low);
    return at::where(medium, smoothed, scaled);
  }
  if (kind == "yarn") {
    const double original = rope.at("original_max_position_embeddings");
    const auto channel_of = [&](double rotations) {
      return static_cast<double>(channels) *
             std::log(original / (rotations * 2 * std::numbers::pi)) / (2 * std::log(base));
    };
    double low = channel_of(rope.at("beta_fast")), high = channel_of(rope.at("beta_slow"));
    if (rope.at("truncate")) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, static_cast<double>(channels - 1));
    if (low == high) high += 0.001;
    const Tensor ramp = ((at::arange(channels / 2, options) - low) / (high - low)).clamp(0, 1);
    const Tensor keep = 1 - ramp;
    return 1.0 / (factor * powers) * (1 - keep) + plain * keep;
  }
  if (kind == "longrope") {
    const std::vector<double> factors = rope.at("short_factor");
    return 1.0 / (at::tensor(factors, options) * powers);
  }
  throw Unsupported("RoPE of the kind '" + kind + "' on the Hugging Face side");
}

Tensor RotateHalf(const Tensor& x) {
  const auto halves = x.chunk(2, -1);
  return at::cat({-halves[1], halves[0]}, -1);
}

// (x0, x1) -> (-x1, x0) for each pair of neighbours.
Tensor RotatePairs(const Tensor& x) {
  const Tensor even = x.slice(-1, 0, x.size(-1), 2), odd = x.slice(-1, 1, x.size(-1), 2);
  return at::stack({-odd, even}, -1).flatten(-2);
}

Tensor Activate(const std::string& name, const Tensor& x) {
  if (name == "silu") return at::silu(x);
  if (name == "gelu") return at::gelu(x);
  if (name == "fast_gelu") return at::gelu(x, "tanh");
  if (name == "quick_gelu") return x * at::sigmoid(1.702 * x);
  if (name == "squared_relu") return at::relu(x).square();
  if (name == "relu") return at::relu(x);
  throw Unsupported("the activation '" + name + "' on the Hugging Face side");
}

class HfStage final : public Stage {
 public:
  HfStage(const json& spec, const Weights& weights) : spec_(spec), w_(weights) {}

  bool Has(ModuleId id) const override {
    switch (id) {
      case ModuleId::kEmbedding:
        return w_.Has("embed_tokens.weight");
      case ModuleId::kInputNorm:
        return w_.Has("input_layernorm.weight");
      case ModuleId::kQkv:
      case ModuleId::kCoreAttention:
        return w_.Has("o_proj.weight");
      case ModuleId::kDeltaNet:
        return w_.Has("delta_net.conv1d.weight");
      case ModuleId::kMamba:
        return w_.Has("mamba.conv1d.weight") && !w_.Has("mamba.out_proj.weight");
      case ModuleId::kMambaBeside:
        return w_.Has("mamba.out_proj.weight");
      case ModuleId::kProjection:
      case ModuleId::kAttentionResidual:
        return w_.Has("o_proj.weight") || w_.Has("mixer.out_proj.weight");
      case ModuleId::kQkNorm:
        return w_.Has("q_norm.weight") || HasL2Norm();
      case ModuleId::kRope:
        return w_.Has("o_proj.weight") && !spec_.value("rope", json()).is_null();
      case ModuleId::kPostAttentionNorm:
        return w_.Has("post_attention_norm.weight");
      case ModuleId::kPreMlpNorm:
        return w_.Has("pre_mlp_norm.weight");
      case ModuleId::kRouter:
      case ModuleId::kExperts:
        return w_.Has("router.weight");
      case ModuleId::kSharedExperts:
        return w_.Has("shared_experts.down_proj.weight");
      case ModuleId::kMlp:
        return w_.Has("down_proj.weight");
      case ModuleId::kPostMlpNorm:
        return w_.Has("post_mlp_norm.weight");
      case ModuleId::kMlpResidual:
        return w_.Has("down_proj.weight") || w_.Has("router.weight");
      case ModuleId::kFinalNorm:
        return w_.Has("norm.weight");
      case ModuleId::kLogits:
        return w_.Has("lm_head.weight");
      case ModuleId::kNextNorm:
      case ModuleId::kBeforeNorm:
      case ModuleId::kMtpProjection:
      case ModuleId::kMtpNorm:
        return w_.Has("enorm.weight");
    }
    return false;
  }

  std::vector<Tensor> Run(ModuleId id, std::span<const Tensor> in) const override {
    switch (id) {
      case ModuleId::kEmbedding:
        return {Embedding(in[0])};
      case ModuleId::kInputNorm:
        return {Norm(in[0], "input_layernorm", "input")};
      case ModuleId::kQkv:
        return spec_.value("latent", json()).is_null() ? Qkv(in[0]) : LatentQkv(in[0]);
      case ModuleId::kQkNorm:
        if (HasL2Norm()) return {L2Norm(in[0]), L2Norm(in[1])};
        return {Clipped(HeadNorm(in[0], "q_norm")), Clipped(HeadNorm(in[1], "k_norm"))};
      case ModuleId::kRope:
        return Rotate(in[0], in[1]);
      case ModuleId::kCoreAttention:
        return {Attend(in[0], in[1], Clipped(in[2]))};
      case ModuleId::kProjection:
        return {Project(in[0], in[1])};
      case ModuleId::kDeltaNet:
        return {DeltaNet(in[0])};
      case ModuleId::kMamba:
        return {Mamba(in[0])};
      case ModuleId::kMambaBeside:
        return {in[0] + MambaBeside(in[1])};
      case ModuleId::kPostAttentionNorm:
        return {Norm(in[0], "post_attention_norm", "post_attention")};
      case ModuleId::kAttentionResidual:
      case ModuleId::kMlpResidual:
        return {in[0] + in[1]};
      case ModuleId::kPreMlpNorm:
        return {Norm(in[0], "pre_mlp_norm", "pre_mlp")};
      case ModuleId::kRouter:
        return Route(in[0]);
      case ModuleId::kExperts:
        return {Experts(in[0], in[1])};
      case ModuleId::kSharedExperts:
        return {in[0] + SharedExperts(in[1])};
      case ModuleId::kMlp:
        return {Mlp(in[0], "")};
      case ModuleId::kPostMlpNorm:
        return {Norm(in[0], "post_mlp_norm", "post_mlp")};
      case ModuleId::kFinalNorm:
        return {Norm(in[0], "norm", "final")};
      case ModuleId::kLogits:
        break;  // Logits()
      case ModuleId::kNextNorm:
        return {Norm(in[0], "enorm", "final")};
      case ModuleId::kBeforeNorm:
        return {Norm(in[0], "hnorm", "final")};
      case ModuleId::kMtpProjection:
        // MiMo's matrix has the states first.
        if (w_.Has("he_proj.weight")) return {Linear(at::cat({in[1], in[0]}, -1), "he_proj")};
        return {Linear(at::cat({in[0], in[1]}, -1), "eh_proj")};
      case ModuleId::kMtpNorm:
        return {Norm(in[0], "shared_head.norm", "final")};
    }
    throw Unsupported("a module that is not known");
  }

  // OLMoE's clip_qkv: q and k after their norms, v as it is.
  Tensor Clipped(const Tensor& x) const {
    return Clipped(x, spec_.value("attention", json::object()).value("clip", json()));
  }

  // `bound`: null for none; 0 leaves nothing.
  static Tensor Clipped(const Tensor& x, const json& bound) {
    return bound.is_null() ? x : x.clamp(-bound.get<double>(), bound.get<double>());
  }

  int64_t vocabulary() const override { return w_.Stored("lm_head.weight").size(0); }

  Tensor Logits(const Tensor& x, int64_t begin, int64_t count) const override {
    Tensor y = w_.TimesRows(x, "lm_head.weight", begin, count);
    if (w_.Has("lm_head.bias")) {
      y = y + w_.Get("lm_head.bias", x.scalar_type()).narrow(0, begin, count);
    }
    if (const double scale = spec_.at("logits_scale"); scale != 1) y = y * scale;
    const json cap = spec_.at("logits_softcap");
    if (cap.is_null()) return y;
    const auto c = cap.get<double>();
    return at::tanh(y / c) * c;
  }

 private:
  Tensor Embedding(const Tensor& ids) const {
    const Tensor rows = w_.Rows("embed_tokens.weight", ids.flatten(), at::kFloat);
    const Tensor x = rows.view({ids.size(0), ids.size(1), -1});
    const double scale = spec_.at("embedding_scale");
    return scale == 1 ? x : x * at::scalar_tensor(scale, x.options());
  }

  Tensor Norm(const Tensor& x, const std::string& name, const char* which) const {
    const json& norm = spec_.at("norm");
    const double epsilon = norm.at("epsilon").at(which);
    const at::ScalarType dtype = x.scalar_type(), wide = Wide(dtype);
    const bool one_plus = norm.at("one_plus");
    if (norm.at("kind") == "LayerNorm") {
      const Tensor w = w_.Get(name + ".weight", dtype);
      const Tensor bias = w_.GetIf(name + ".bias", dtype);
      return at::layer_norm(x, {x.size(-1)}, one_plus ? w + 1.0 : w, bias, epsilon);
    }
    const Tensor in = x.to(wide);
    const Tensor unit = in * at::rsqrt(in.square().mean(-1, true) + epsilon);
    // Gemma's weight counts before the rounding, Llama's after it.
    if (one_plus) return ((w_.Get(name + ".weight", wide) + 1.0) * unit).to(dtype);
    return w_.Get(name + ".weight", dtype) * unit.to(dtype);
  }

  bool HasL2Norm() const { return spec_.value("qk_l2_norm", false); }

  // Llama 4 rotates first; a rotation keeps the norm of a head.
  Tensor L2Norm(const Tensor& x) const {
    const double epsilon = spec_.at("norm").at("epsilon").at("qk");
    const Tensor in = x.to(Wide(x.scalar_type()));
    return (in * at::rsqrt(in.square().mean(-1, true) + epsilon)).to(x.scalar_type());
  }

  // On each head, or on all of them at once: the weight's length says it.
  Tensor HeadNorm(const Tensor& x, const std::string& name) const {
    const bool wide = w_.Stored(name + ".weight").numel() != x.size(-1);
    if (!wide) return Norm(x, name, "qk");
    return Norm(x.flatten(2), name, "qk").view_as(x);
  }

  Tensor Linear(const Tensor& x, const std::string& name) const {
    const Tensor bias = w_.GetIf(name + ".bias", x.scalar_type());
    if (x.scalar_type() != at::kDouble) {
      return at::linear(x, w_.Get(name + ".weight", x.scalar_type()), bias);
    }
    const Tensor y = w_.Times(x, name + ".weight");
    return bias.defined() ? y + bias : y;
  }

  // Falcon-H1's; `index` of those of one module. 1 elsewhere.
  double Multiplier(const char* name, size_t index = 0) const {
    const json value = spec_.value("multipliers", json::object()).value(name, json());
    if (value.is_array()) return value.at(index);
    return value.is_number() ? value.get<double>() : 1.0;
  }

  static Tensor Times(const Tensor& x, double by) { return by == 1 ? x : x * by; }

  std::vector<Tensor> Qkv(const Tensor& normed) const {
    const Tensor x = Times(normed, Multiplier("attention_in"));
    const int64_t heads = spec_.at("heads"), groups = spec_.at("groups");
    const int64_t channels = spec_.at("head_dim");
    std::vector<Tensor> parts;
    if (w_.Has("query_key_value.weight")) {
      // Persimmon: each head's q, k and v one behind the other.
      return Linear(x, "query_key_value").unflatten(-1, {heads, 3, channels}).unbind(3);
    }
    if (w_.Has("qkv_proj.weight")) {
      parts = Linear(x, "qkv_proj")
                  .split_with_sizes({heads * channels, groups * channels, groups * channels}, -1);
    } else {
      for (const char* name : {"q_proj", "k_proj", "v_proj"}) parts.push_back(Linear(x, name));
    }
    for (Tensor& part : parts) part = part.unflatten(-1, {-1, channels});
    parts[1] = Times(parts[1], Multiplier("key"));
    if (spec_.at("gated_attention")) {
      // q_proj has the gate of a head behind the head.
      const Tensor both = parts[0].view({x.size(0), x.size(1), heads, 2 * channels});
      parts[0] = both.narrow(-1, 0, channels);
      parts.push_back(both.narrow(-1, channels, channels));
    }
    return parts;
  }

  Tensor Project(const Tensor& context, const Tensor& gate) const {
    if (w_.Has("mixer.out_proj.weight")) return Linear(context, "mixer.out_proj");
    const Tensor gated = gate.defined() ? context * at::sigmoid(gate.flatten(2)) : context;
    return Times(Linear(gated, "o_proj"), Multiplier("attention_out"));
  }

  // The causal convolution of each channel over the last positions, then SiLU. [b, s, channels].
  Tensor Convolve(const Tensor& x, const std::string& name) const {
    const Tensor weight = w_.Get(name + ".weight", x.scalar_type());
    const Tensor padded = at::constant_pad_nd(x.transpose(1, 2), {weight.size(-1) - 1, 0});
    const std::array<int64_t, 1> one = {1}, none = {0};
    const Tensor y = at::conv1d(padded, weight, w_.GetIf(name + ".bias", x.scalar_type()), one,
                                none, one, weight.size(0));
    return at::silu(y).transpose(1, 2);
  }

  // q, k, v, z, b and a of a gated delta net, each [b, s, ...].
  std::vector<Tensor> DeltaNetInputs(const Tensor& x) const {
    const json& net = spec_.at("delta_net");
    const int64_t keys = net.at("key_heads"), values = net.at("value_heads");
    const int64_t dk = net.at("key_dim"), dv = net.at("value_dim"), per_key = values / keys;
    if (w_.Has("delta_net.in_proj_qkvz.weight")) {
      const auto qkvz = Linear(x, "delta_net.in_proj_qkvz")
                            .unflatten(-1, {keys, -1})
                            .split_with_sizes({dk, dk, per_key * dv, per_key * dv}, -1);
      const auto ba = Linear(x, "delta_net.in_proj_ba")
                          .unflatten(-1, {keys, -1})
                          .split_with_sizes({per_key, per_key}, -1);
      return {qkvz[0].flatten(2), qkvz[1].flatten(2), qkvz[2].flatten(2),
              qkvz[3].flatten(2), ba[0].flatten(2),   ba[1].flatten(2)};
    }
    const auto qkv = Linear(x, "delta_net.in_proj_qkv")
                         .split_with_sizes({keys * dk, keys * dk, values * dv}, -1);
    return {qkv[0],
            qkv[1],
            qkv[2],
            Linear(x, "delta_net.in_proj_z"),
            Linear(x, "delta_net.in_proj_b"),
            Linear(x, "delta_net.in_proj_a")};
  }

  Tensor DeltaNet(const Tensor& x) const {
    const json& net = spec_.at("delta_net");
    const int64_t keys = net.at("key_heads"), values = net.at("value_heads");
    const int64_t dk = net.at("key_dim"), dv = net.at("value_dim");
    std::vector<Tensor> in = DeltaNetInputs(x);
    const at::ScalarType dtype = Wide(x.scalar_type());
    const Tensor mixed = Convolve(at::cat({in[0], in[1], in[2]}, -1), "delta_net.conv1d").to(dtype);
    for (Tensor& part : in) part = part.to(dtype);
    const auto parts = mixed.split_with_sizes({keys * dk, keys * dk, values * dv}, -1);
    const auto heads = [&](const Tensor& t) {
      const Tensor h = t.unflatten(-1, {keys, dk});
      const Tensor unit = h * at::rsqrt(h.square().sum(-1, true) + 1e-6);
      return unit.repeat_interleave(values / keys, 2);
    };
    const Tensor q = heads(parts[0]) / std::sqrt(static_cast<double>(dk)), k = heads(parts[1]);
    const Tensor v = parts[2].unflatten(-1, {values, dv});
    const Tensor decay = at::exp(-w_.Get("delta_net.A_log", dtype).exp() *
                                 at::softplus(in[5] + w_.Get("delta_net.dt_bias", dtype)));
    const Tensor beta = at::sigmoid(in[4]);
    Tensor state = at::zeros({x.size(0), values, dk, dv}, mixed.options());
    std::vector<Tensor> outputs;
    for (int64_t t = 0; t < x.size(1); ++t) {
      const Tensor key = k.select(1, t).unsqueeze(-1);
      state = state * decay.select(1, t).unsqueeze(-1).unsqueeze(-1);
      const Tensor memory = (state * key).sum(-2);
      const Tensor delta = (v.select(1, t) - memory) * beta.select(1, t).unsqueeze(-1);
      state = state + key * delta.unsqueeze(-2);
      outputs.push_back((state * q.select(1, t).unsqueeze(-1)).sum(-2));
    }
    const Tensor y = at::stack(outputs, 1);
    const double epsilon = spec_.at("norm").at("epsilon").at("mixer");
    const Tensor normed = w_.Get("delta_net.norm.weight", dtype) *
                          (y * at::rsqrt(y.square().mean(-1, true) + epsilon));
    return (normed * at::silu(in[3].unflatten(-1, {values, dv}))).flatten(2).to(x.scalar_type());
  }

  // What each channel of in_proj is multiplied by: gate, x, B, C and dt apart.
  Tensor MambaMultipliers(int64_t inner, int64_t shared, int64_t heads,
                          const at::TensorOptions& options) const {
    std::vector<Tensor> parts;
    size_t index = 0;
    for (const int64_t width : {inner, inner, shared, shared, heads}) {
      parts.push_back(at::full({width}, Multiplier("ssm", index++), options));
    }
    return at::cat(parts);
  }

  Tensor MambaBeside(const Tensor& x) const {
    const Tensor y = Mamba(Times(x, Multiplier("ssm", 5)));
    return Times(Linear(y, "mamba.out_proj"), Multiplier("ssm", 6));
  }

  Tensor Mamba(const Tensor& x) const {
    const json& mamba = spec_.at("mamba");
    const int64_t heads = mamba.at("heads"), channels = mamba.at("head_dim");
    const int64_t groups = mamba.at("groups"), width = mamba.at("state");
    const int64_t inner = heads * channels, shared = groups * width;
    const at::ScalarType dtype = Wide(x.scalar_type());
    Tensor projected = Linear(x, "mamba.in_proj");
    if (!spec_.at("multipliers").at("ssm").is_null()) {
      projected = projected * MambaMultipliers(inner, shared, heads, x.options());
    }
    auto in = projected.split_with_sizes({inner, inner + 2 * shared, heads}, -1);
    const auto parts =
        Convolve(in[1], "mamba.conv1d").to(dtype).split_with_sizes({inner, shared, shared}, -1);
    for (Tensor& part : in) part = part.to(dtype);
    Tensor dt = at::softplus(in[2] + w_.Get("mamba.dt_bias", dtype))
                    .clamp_min(mamba.at("dt_min").get<double>());
    if (!mamba.at("dt_max").is_null()) dt = dt.clamp_max(mamba.at("dt_max").get<double>());
    const Tensor decay = at::exp(dt * -w_.Get("mamba.A_log", dtype).exp());
    const Tensor h = parts[0].unflatten(-1, {heads, channels});
    const auto of_heads = [&](const Tensor& t) {
      return t.unflatten(-1, {groups, width}).repeat_interleave(heads / groups, 2);
    };
    const Tensor b = of_heads(parts[1]), c = of_heads(parts[2]), scaled = h * dt.unsqueeze(-1);
    Tensor state = at::zeros({x.size(0), heads, channels, width}, h.options());
    std::vector<Tensor> outputs;
    for (int64_t t = 0; t < x.size(1); ++t) {
      state = state * decay.select(1, t).unsqueeze(-1).unsqueeze(-1) +
              scaled.select(1, t).unsqueeze(-1) * b.select(1, t).unsqueeze(-2);
      outputs.push_back((state * c.select(1, t).unsqueeze(-2)).sum(-1));
    }
    const Tensor y = at::stack(outputs, 1) + h * w_.Get("mamba.D", dtype).unsqueeze(-1);
    const Tensor gate = at::silu(in[0]);
    if (!w_.Has("mamba.norm.weight")) return (y.flatten(2) * gate).to(x.scalar_type());
    const bool norm_first = mamba.at("norm_first") == true;
    const Tensor gated =
        (norm_first ? y.flatten(2) : y.flatten(2) * gate).unflatten(-1, {groups, -1});
    const double epsilon = spec_.at("norm").at("epsilon").at("mixer");
    const Tensor normed = gated * at::rsqrt(gated.square().mean(-1, true) + epsilon);
    const Tensor weighted = w_.Get("mamba.norm.weight", dtype) * normed.flatten(2);
    return (norm_first ? weighted * gate : weighted).to(x.scalar_type());
  }

  std::vector<Tensor> LatentQkv(const Tensor& x) const {
    const json& latent = spec_.at("latent");
    const int64_t heads = spec_.at("heads"), nope = latent.at("nope"), rope = latent.at("rope");
    const int64_t value = latent.at("value");
    Tensor q = w_.Has("q_a_proj.weight")
                   ? Linear(Norm(Linear(x, "q_a_proj"), "q_a_layernorm", "latent"), "q_b_proj")
                   : Linear(x, "q_proj");
    q = q.unflatten(-1, {heads, nope + rope});
    const Tensor compressed = Linear(x, "kv_a_proj_with_mqa");
    const int64_t rank = compressed.size(-1) - rope;
    const Tensor kv =
        Linear(Norm(compressed.narrow(-1, 0, rank), "kv_a_layernorm", "latent"), "kv_b_proj")
            .unflatten(-1, {heads, nope + value});
    const Tensor position = compressed.narrow(-1, rank, rope).unsqueeze(2);
    const Tensor k = at::cat({kv.narrow(-1, 0, nope),
                              position.expand({position.size(0), position.size(1), heads, rope})},
                             -1);
    return {q, k, kv.narrow(-1, nope, value)};
  }

  std::vector<Tensor> Rotate(const Tensor& q, const Tensor& k) const {
    const json& rope = spec_.at("rope");
    const at::ScalarType dtype = q.scalar_type();
    const auto options = q.options().dtype(Wide(dtype));
    const Tensor frequencies = InverseFrequencies(rope, options);
    const Tensor positions = at::arange(q.size(1), options);
    const Tensor angles = positions.unsqueeze(1) * frequencies.unsqueeze(0);
    const double factor = rope.at("attention_factor");
    const bool pairs = rope.at("pairs"), latent = !spec_.value("latent", json()).is_null();
    const auto table = [&](const Tensor& values) {
      const Tensor wide =
          pairs && !latent ? values.repeat_interleave(2, -1) : at::cat({values, values}, -1);
      return (wide.unsqueeze(1) * factor).to(dtype);  // [s, 1, channels]
    };
    const Tensor cos = table(angles.cos()), sin = table(angles.sin());
    const int64_t rotated = cos.size(-1);
    const auto turn = [&](const Tensor& x) {
      // MLA rotates the last channels of a head, all others the first.
      const int64_t begin = latent ? x.size(-1) - rotated : 0;
      Tensor part = x.narrow(-1, begin, rotated);
      if (latent && pairs) {
        part = at::cat({part.slice(-1, 0, rotated, 2), part.slice(-1, 1, rotated, 2)}, -1);
      }
      const Tensor other = pairs && !latent ? RotatePairs(part) : RotateHalf(part);
      part = part * cos + other * sin;
      if (latent) return at::cat({x.narrow(-1, 0, begin), part}, -1);
      return at::cat({part, x.narrow(-1, rotated, x.size(-1) - rotated)}, -1);
    };
    return {turn(q), turn(k)};
  }

  // True where a query sees a key.
  Tensor Mask(int64_t length, at::Device device) const {
    const auto options = at::TensorOptions().dtype(at::kLong).device(device);
    const Tensor i = at::arange(length, options).unsqueeze(1);
    const Tensor j = at::arange(length, options).unsqueeze(0);
    const json window = spec_.at("attention").at("window");
    const Tensor causal = j <= i;
    return window.is_null() ? causal : causal.logical_and(j > i - window.get<int64_t>());
  }

  Tensor Attend(const Tensor& q, const Tensor& k, const Tensor& v) const {
    const json& attention = spec_.at("attention");
    const double scale = attention.at("scale");
    const int64_t length = q.size(1), repeated = q.size(2) / k.size(2);
    const Tensor queries = q.transpose(1, 2);
    const Tensor keys = k.transpose(1, 2).repeat_interleave(repeated, 1);
    const Tensor values = v.transpose(1, 2).repeat_interleave(repeated, 1);
    const bool sinks = attention.at("sinks") != "none", capped = !attention.at("softcap").is_null();
    const json window = attention.at("window");
    const bool windowed = !window.is_null() && window.get<int64_t>() < length;
    Tensor context;
    if (!sinks && !capped) {
      const auto mask = windowed ? std::optional<Tensor>(Mask(length, q.device())) : std::nullopt;
      context = at::scaled_dot_product_attention(queries, keys, values, mask, 0.0,
                                                 /*is_causal=*/!windowed, scale);
    } else {
      context = AttendEagerly(queries, keys, values, scale);
    }
    return context.transpose(1, 2).flatten(2);
  }

  Tensor AttendEagerly(const Tensor& q, const Tensor& k, const Tensor& v, double scale) const {
    const json& attention = spec_.at("attention");
    const json cap = attention.at("softcap");
    Tensor scores = at::matmul(q, k.transpose(2, 3)) * scale;
    if (!cap.is_null()) {
      const auto c = cap.get<double>();
      scores = at::tanh(scores / c) * c;
    }
    const double lowest = -std::numeric_limits<double>::infinity();
    scores = scores.masked_fill(Mask(q.size(2), q.device()).logical_not(), lowest);
    const bool sinks = attention.at("sinks") != "none";
    if (sinks) {
      const Tensor sink = attention.at("sinks") == "learned"
                              ? w_.Get("sinks", q.scalar_type()).view({1, -1, 1, 1})
                              : at::zeros({1, q.size(1), 1, 1}, q.options());
      scores = at::cat({scores, sink.expand({q.size(0), q.size(1), q.size(2), 1})}, -1);
    }
    Tensor weights = at::softmax(scores, -1, Wide(q.scalar_type())).to(q.scalar_type());
    if (sinks) weights = weights.narrow(-1, 0, weights.size(-1) - 1);
    return at::matmul(weights, v);
  }

  Tensor Gate(const Tensor& gate, const Tensor& up) const {
    const json& a = spec_.at("activation");
    const json& clamp = a.at("clamp");  // null: none; 0 leaves nothing above it
    const double offset = a.at("offset");
    const std::string function = a.at("function");
    if (clamp.is_null() && offset == 0) return Activate(function, gate) * up;
    const Tensor g = clamp.is_null() ? gate : gate.clamp_max(clamp.get<double>());
    return (Clipped(up, clamp) + offset) * Activate(function, g);
  }

  Tensor Mlp(const Tensor& x, const std::string& prefix) const {
    Tensor inner;
    if (!spec_.at("activation").at("gated")) {
      inner = Activate(spec_.at("activation").at("function"), Linear(x, prefix + "up_proj"));
    } else if (w_.Has(prefix + "gate_up_proj.weight")) {
      const auto parts = Linear(x, prefix + "gate_up_proj").chunk(2, -1);
      inner = Gate(parts[0], parts[1]);
    } else {
      const Tensor gate = Times(Linear(x, prefix + "gate_proj"), Multiplier("mlp", 0));
      inner = Gate(gate, Linear(x, prefix + "up_proj"));
    }
    return Times(Linear(inner, prefix + "down_proj"), Multiplier("mlp", 1));
  }

  Tensor SharedExperts(const Tensor& x) const {
    const Tensor y = Mlp(x, "shared_experts.");
    if (!w_.Has("shared_expert_gate.weight")) return y;
    return at::sigmoid(Linear(x, "shared_expert_gate")) * y;
  }

  // The weight of each expert for each token, and the scores by which experts were chosen.
  std::vector<Tensor> Route(const Tensor& x) const {
    const json& router = spec_.at("router");
    const int64_t topk = router.at("topk");
    const at::ScalarType wide = Wide(x.scalar_type());
    const Tensor logits = Linear(x, "router").to(wide);
    const bool softmax = router.at("score") == "softmax";
    if (!softmax && router.at("score") != "sigmoid") {
      throw Unsupported("routers with the score function " + router.at("score").dump());
    }
    const Tensor scores = softmax ? at::softmax(logits, -1) : at::sigmoid(logits);
    Tensor choice = scores;
    if (router.at("bias") == true && w_.Has("router.correction_bias")) {
      choice = choice + w_.Get("router.correction_bias", wide);
    }
    if (!router.at("groups").is_null()) choice = MaskGroups(choice, router.at("groups"));
    const Tensor chosen = std::get<1>(choice.topk(topk, -1));
    Tensor weights = scores.gather(-1, chosen);
    if (router.at("normalized")) weights = weights / (weights.sum(-1, true) + 1e-20);
    weights = weights * router.at("scaling").get<double>();
    return {at::zeros_like(scores).scatter(-1, chosen, weights).to(x.scalar_type()), choice};
  }

  // All but the best groups become -inf; a group counts with its `members` best.
  static Tensor MaskGroups(const Tensor& scores, const json& rule) {
    const int64_t groups = rule.at(0), kept = rule.at(1), members = rule.at(2);
    const Tensor grouped = scores.unflatten(-1, {groups, -1});
    const Tensor of_group = std::get<0>(grouped.topk(members, -1)).sum(-1);
    const Tensor best = std::get<1>(of_group.topk(kept, -1));
    const Tensor mask = at::zeros_like(of_group).scatter(-1, best, 1.0);
    return grouped.masked_fill(mask.unsqueeze(-1) == 0, -std::numeric_limits<double>::infinity())
        .flatten(-2);
  }

  Tensor Experts(const Tensor& x, const Tensor& routing) const {
    const Tensor tokens = x.flatten(0, 1), weights = routing.flatten(0, 1);
    const bool input_scaled = spec_.at("router").at("input_scaled") == true;
    Tensor out = at::zeros_like(tokens);
    for (int64_t e = 0; e < weights.size(1); ++e) {
      const Tensor rows = weights.select(1, e).nonzero().flatten();
      if (rows.numel() == 0) continue;
      const Tensor weight = weights.select(1, e).index_select(0, rows).unsqueeze(1);
      const Tensor in = tokens.index_select(0, rows);
      out.index_add_(0, rows, input_scaled ? Expert(in * weight, e) : Expert(in, e) * weight);
    }
    return out.view_as(x);
  }

  Tensor Expert(const Tensor& x, int64_t e) const {
    const std::string own = "experts." + std::to_string(e) + ".";
    if (w_.Has(own + "down_proj.weight")) return Mlp(x, own);
    const auto part = [&](const char* name) {
      const Tensor w = w_.Matrix(name, e, x.scalar_type());
      return spec_.at("experts_transposed") ? w : w.t();
    };
    Tensor both = at::matmul(x, part("experts.gate_up_proj"));
    if (w_.Has("experts.gate_up_proj_bias")) {
      both = both + w_.Matrix("experts.gate_up_proj_bias", e, x.scalar_type());
    }
    const int64_t all = both.size(-1);
    const bool alternate = spec_.at("experts_interleaved");
    const Tensor gate = alternate ? both.slice(-1, 0, all, 2) : both.narrow(-1, 0, all / 2);
    const Tensor up = alternate ? both.slice(-1, 1, all, 2) : both.narrow(-1, all / 2, all / 2);
    Tensor y = at::matmul(Gate(gate, up), part("experts.down_proj"));
    if (w_.Has("experts.down_proj_bias")) {
      y = y + w_.Matrix("experts.down_proj_bias", e, x.scalar_type());
    }
    return y;
  }

  const json spec_;
  const Weights& w_;
};

}  // namespace

std::unique_ptr<Stage> MakeHfStage(const json& spec, const Weights& weights) {
  return std::make_unique<HfStage>(spec, weights);
}

}  // namespace weighbridge::engine
