// What megatron-core 0.19 computes, in its own terms: sequence first, q, k and v in one matrix by
// query group, unfused attention (baddbmm and a masked softmax), experts weighted before their
// second matrix. Numbers come from Megatron's config and the runtime's behaviours
// (engine/describe.h). Sources: core/transformer, core/models/common/embeddings.
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "engine/forward/module.h"
#include "engine/parallel/place.h"
#include "engine/parallel/token_dispatcher.h"

namespace weighbridge::engine {
namespace {

using at::Tensor;
using nlohmann::json;

// attention_mask_func: a row without any key sees all of them alike.
constexpr double kMaskedScore = -10000.0;

Tensor SequenceFirst(const Tensor& x) { return x.transpose(0, 1).contiguous(); }
Tensor BatchFirst(const Tensor& x) { return x.transpose(0, 1); }

// RotaryEmbedding._apply_scaling.
Tensor ScaleLlama3(const Tensor& freqs, const json& rope) {
  const double factor = rope.at("factor"), low = rope.at("low_freq_factor");
  const double high = rope.at("high_freq_factor");
  const double old_context = rope.at("original_max_position_embeddings");
  const Tensor wavelen = (2 * std::numbers::pi) / freqs;
  const Tensor inv = at::where(wavelen > old_context / low, freqs / factor, freqs);
  const Tensor smooth = (old_context / wavelen - low) / (high - low);
  const Tensor smoothed = (1 - smooth) * inv / factor + smooth * inv;
  const Tensor is_medium = (wavelen < old_context / high)
                               .logical_not()
                               .logical_and((wavelen > old_context / low).logical_not());
  return at::where(is_medium, smoothed, inv);
}

// YarnRotaryEmbedding.get_emb.
Tensor YarnInverse(const json& rope, int64_t dim, double base, const at::TensorOptions& options) {
  const double scaling = rope.at("factor");
  const double original = rope.at("original_max_position_embeddings");
  const Tensor steps = at::arange(0, dim, 2, options) / static_cast<double>(dim);
  const Tensor extra = 1.0 / at::pow(base, steps);
  const Tensor inter = 1.0 / (scaling * at::pow(base, steps));
  const auto correction_dim = [&](double rotations) {
    return (static_cast<double>(dim) * std::log(original / (rotations * 2 * std::numbers::pi))) /
           (2 * std::log(base));
  };
  double from = correction_dim(rope.at("beta_fast")), to = correction_dim(rope.at("beta_slow"));
  if (rope.at("truncate")) {
    from = std::floor(from);
    to = std::ceil(to);
  }
  from = std::max(from, 0.0);
  to = std::min(to, static_cast<double>(dim - 1));
  if (from == to) to += 0.001;
  const Tensor mask = 1.0 - ((at::arange(dim / 2, options) - from) / (to - from)).clamp(0, 1);
  return inter * (1 - mask) + extra * mask;
}

Tensor GeluTanh(const Tensor& x) {
  return 0.5 * x * (1.0 + at::tanh(0.79788456 * x * (1 + 0.044715 * x * x)));
}

class MegatronStage final : public Stage {
 public:
  MegatronStage(const json& spec, const Weights& weights, Place place)
      : spec_(spec), w_(weights), place_(std::move(place)) {}

  bool Has(ModuleId id) const override {
    switch (id) {
      case ModuleId::kEmbedding:
        return w_.Has("embedding.word_embeddings.weight");
      case ModuleId::kInputNorm:
        return !InputNorm().empty();
      case ModuleId::kQkv:
      case ModuleId::kCoreAttention:
        return w_.Has("self_attention.linear_proj.weight");
      case ModuleId::kDeltaNet:
        return w_.Has("self_attention.conv1d.weight");
      case ModuleId::kMamba:
        return w_.Has("mixer.conv1d_weight");
      case ModuleId::kMambaBeside:
        return w_.Has("mamba_mixer.conv1d_weight");
      case ModuleId::kProjection:
      case ModuleId::kAttentionResidual:
        return w_.Has("self_attention.linear_proj.weight") ||
               w_.Has("self_attention.out_proj.weight") || w_.Has("mixer.out_proj.weight");
      case ModuleId::kQkNorm:
        return w_.Has("self_attention.q_layernorm.weight") || spec_.value("qk_l2_norm", false);
      case ModuleId::kRope:
        return w_.Has("self_attention.linear_proj.weight") &&
               !spec_.value("rope", json()).is_null();
      case ModuleId::kPostAttentionNorm:
        return w_.Has("self_attention.linear_proj.post_layernorm.weight");
      case ModuleId::kPreMlpNorm:
        return w_.Has("mlp.linear_fc1.layer_norm_weight") || w_.Has("pre_mlp_layernorm.weight");
      case ModuleId::kRouter:
      case ModuleId::kExperts:
        return w_.Has("mlp.router.weight");
      case ModuleId::kSharedExperts:
        return w_.Has("mlp.shared_experts.linear_fc2.weight");
      case ModuleId::kMlp:
        return w_.Has("mlp.linear_fc2.weight");
      case ModuleId::kPostMlpNorm:
        return w_.Has("mlp.linear_fc2.post_layernorm.weight");
      case ModuleId::kMlpResidual:
        return w_.Has("mlp.linear_fc2.weight") || w_.Has("mlp.router.weight");
      case ModuleId::kFinalNorm:
        return w_.Has("decoder.final_layernorm.weight") || w_.Has("decoder.final_norm.weight");
      case ModuleId::kLogits:
        return w_.Has("output_layer.weight");
      case ModuleId::kNextNorm:
      case ModuleId::kBeforeNorm:
      case ModuleId::kMtpProjection:
      case ModuleId::kMtpNorm:
        return w_.Has("eh_proj.weight");
    }
    return false;
  }

  std::vector<Tensor> Run(ModuleId id, std::span<const Tensor> in) const override {
    switch (id) {
      case ModuleId::kEmbedding:
        return {Embedding(in[0])};
      case ModuleId::kInputNorm:
        return {Norm(in[0], InputNorm(), "input")};
      case ModuleId::kQkv:
        return spec_.value("latent", json()).is_null() ? Qkv(in[0]) : LatentQkv(in[0]);
      case ModuleId::kQkNorm:
        if (spec_.value("qk_l2_norm", false)) return {L2Norm(in[0]), L2Norm(in[1])};
        return {HeadNorm(in[0], "self_attention.q_layernorm."),
                HeadNorm(in[1], "self_attention.k_layernorm.")};
      case ModuleId::kRope:
        return Rotary(in[0], in[1]);
      case ModuleId::kCoreAttention:
        return {DotProductAttention(in[0], in[1], in[2])};
      case ModuleId::kProjection:
        return {BatchFirst(Project(SequenceFirst(in[0]), in[1]))};
      case ModuleId::kDeltaNet:
        return {BatchFirst(GatedDeltaNet(SequenceFirst(in[0])))};
      case ModuleId::kMamba:
        return {BatchFirst(MambaMixer(SequenceFirst(in[0]), "mixer."))};
      case ModuleId::kMambaBeside:
        return {BatchFirst(FalconMixer(SequenceFirst(in[1]))) + in[0]};
      case ModuleId::kPostAttentionNorm:
        return {Norm(in[0], "self_attention.linear_proj.post_layernorm.", "post_attention")};
      case ModuleId::kAttentionResidual:
      case ModuleId::kMlpResidual:
        return {in[1] + in[0]};
      case ModuleId::kPreMlpNorm:
        return {Norm(in[0],
                     w_.Has("pre_mlp_layernorm.weight") ? "pre_mlp_layernorm."
                                                        : "mlp.linear_fc1.layer_norm_",
                     "pre_mlp")};
      case ModuleId::kRouter:
        return TopKRouter(in[0]);
      case ModuleId::kExperts:
        return {GroupedMlp(in[0], in[1])};
      case ModuleId::kSharedExperts:
        return {in[0] + SharedExpertMlp(in[1])};
      case ModuleId::kMlp:
        return {BatchFirst(Mlp(SequenceFirst(in[0]), "mlp."))};
      case ModuleId::kPostMlpNorm:
        return {Norm(in[0], "mlp.linear_fc2.post_layernorm.", "post_mlp")};
      case ModuleId::kFinalNorm:
        return {Norm(in[0],
                     w_.Has("decoder.final_norm.weight") ? "decoder.final_norm."
                                                         : "decoder.final_layernorm.",
                     "final")};
      case ModuleId::kLogits:
        break;  // Logits()
      // MultiTokenPredictionLayer._concat_embeddings and ._postprocess.
      case ModuleId::kNextNorm:
        return {Norm(in[0], "enorm.", "final")};
      case ModuleId::kBeforeNorm:
        return {Norm(in[0], "hnorm.", "final")};
      case ModuleId::kMtpProjection:
        return {BatchFirst(MtpProject(at::cat({SequenceFirst(in[0]), SequenceFirst(in[1])}, -1)))};
      case ModuleId::kMtpNorm:
        return {Norm(in[0], "final_layernorm.", "final")};
    }
    throw Unsupported("a module that is not known");
  }

  int64_t vocabulary() const override {
    return std::min(spec_.at("vocab").get<int64_t>(), w_.Stored("output_layer.weight").size(0));
  }

  Tensor Logits(const Tensor& x, int64_t begin, int64_t count) const override {
    Tensor logits = w_.TimesRows(SequenceFirst(x), "output_layer.weight", begin, count);
    if (const double scale = spec_.at("logits_scale"); scale != 1) logits = logits * scale;
    const json cap = spec_.at("logits_softcap");
    if (!cap.is_null()) logits = cap.get<double>() * at::tanh(logits / cap.get<double>());
    return BatchFirst(logits);
  }

 private:
  // VocabParallelEmbedding, and what the class of the family multiplies it by.
  Tensor Embedding(const Tensor& ids) const {
    const char* name = "embedding.word_embeddings.weight";
    const int64_t own = w_.Stored(name).size(0), first = place_.tp.rank() * own;
    const Tensor masked_input = (ids - first).reshape({-1});
    const Tensor outside = masked_input.lt(0).logical_or(masked_input.ge(own));
    Tensor rows = w_.Rows(name, masked_input.masked_fill(outside, 0), at::kFloat);
    if (place_.tp.size() > 1) rows = rows.masked_fill(outside.unsqueeze(-1), 0);
    const Tensor embedded =
        BatchFirst(Reduced(SequenceFirst(rows.reshape({ids.size(0), ids.size(1), -1}))));
    return embedded * spec_.at("embedding_scale").get<double>();
  }

  // -- ranks: what mappings.py of tensor_parallel does between the cut modules --

  // Along which axis the ranks cut a matrix; -1: each has it whole.
  int CutOf(const std::string& name) const {
    if (place_.tp.size() == 1) return -1;
    const json& cuts = spec_.at("cuts");
    const auto cut = cuts.find(name);
    return cut == cuts.end() ? -1 : cut->get<int>();
  }

  // What of `count` heads, channels or groups this rank has.
  int64_t Local(int64_t count) const { return count / place_.tp.size(); }

  // The sum of the ranks' partial results [s, b, h]; with sequence parallelism this rank's part of
  // the sequence.
  Tensor Reduced(const Tensor& partial) const {
    return place_.sequence_parallel ? place_.tp.ReduceScatter(partial, 0)
                                    : place_.tp.AllReduce(partial);
  }

  // The whole sequence of what is cut along it.
  Tensor WholeSequence(const Tensor& x) const {
    if (!place_.sequence_parallel) return x;
    const Tensor own = at::full({1}, x.size(0), x.options().dtype(at::kLong));
    const auto length = place_.tp.AllReduce(own).item<int64_t>();
    return place_.tp.AllGather(x, 0, length);
  }

  // Column-parallel, gathered, and cut along the sequence again.
  Tensor MtpProject(const Tensor& x) const {
    const Tensor y = Linear(x, "eh_proj.");
    if (CutOf("eh_proj.weight") != 0) return y;
    const Tensor whole = place_.tp.AllGather(y, 2, y.size(2) * place_.tp.size());
    if (!place_.sequence_parallel) return whole;
    const Range part = PartOf(whole.size(0), place_.tp.rank(), place_.tp.size());
    return whole.narrow(0, part.begin, part.count);
  }

  // Which module holds the norm before the mixer; empty: none does.
  std::string InputNorm() const {
    for (const char* name :
         {"input_layernorm.", "self_attention.linear_qkv.layer_norm_",
          "self_attention.in_proj.layer_norm_", "mixer.in_proj.layer_norm_", "norm."}) {
      if (w_.Has(std::string(name) + "weight")) return name;
    }
    return "";
  }

  // `name` ends before "weight".
  // TransformerEngine computes it in float32 and rounds once.
  Tensor Norm(const Tensor& in, const std::string& name, const char* which) const {
    const json& norm = spec_.at("norm");
    const at::ScalarType dtype = Wide(in.scalar_type());
    const Tensor x = in.to(dtype);
    const double eps = norm.at("epsilon").at(which);
    const Tensor stored = w_.Get(name + "weight", dtype);
    const Tensor gain = norm.at("one_plus") ? 1 + stored : stored;
    const std::string kind = norm.at("kind");
    if (kind == "RMSNorm") {
      const Tensor inverse = at::rsqrt(x.pow(2).mean(-1, true).add(eps));
      return x.mul(inverse).mul(gain).to(in.scalar_type());
    }
    const Tensor centred = x - x.mean(-1, true);
    const Tensor inverse = at::rsqrt(centred.pow(2).mean(-1, true).add(eps));
    const Tensor y = centred.mul(inverse).mul(gain);
    const Tensor bias = w_.GetIf(name + "bias", dtype);
    return (bias.defined() ? y + bias : y).to(in.scalar_type());
  }

  // torch_norm.py.
  Tensor L2Norm(const Tensor& x) const {
    const double eps = spec_.at("norm").at("epsilon").at("qk");
    const Tensor in = x.to(Wide(x.scalar_type()));
    return in.mul(at::rsqrt(in.pow(2).mean(-1, true).add(eps))).to(x.scalar_type());
  }

  // Each rank with heads of its own: their weights together are as wide as the projection.
  void NeedWidth(const std::string& norm, int64_t width) const {
    if (w_.Stored(norm + "weight").numel() == width) return;
    throw Unsupported("a norm over the whole projection whose heads several ranks share");
  }

  Tensor HeadNorm(const Tensor& x, const std::string& name) const {
    if (CutOf(name + "weight") == 0) return CutHeadNorm(x, name);
    if (w_.Stored(name + "weight").numel() == x.size(-1)) return Norm(x, name, "qk");
    // A norm over the whole projection: its module sees all heads at once.
    const int64_t own = x.size(2), heads = own * place_.tp.size();
    NeedWidth(name, heads * x.size(3));
    const Tensor all = place_.tp.AllGather(x, 2, heads);
    const Tensor normed = Norm(all.reshape({all.size(0), all.size(1), -1}), name, "qk");
    return normed.reshape(all.sizes()).narrow(2, place_.tp.rank() * own, own);
  }

  // MiniMax-M2 of Megatron Bridge: the ranks have parts of the weight and add their squares.
  Tensor CutHeadNorm(const Tensor& x, const std::string& name) const {
    const Tensor in = x.flatten(2).to(Wide(x.scalar_type()));
    NeedWidth(name, in.size(-1));
    const double eps = spec_.at("norm").at("epsilon").at("qk");
    const auto width = static_cast<double>(in.size(-1) * place_.tp.size());
    const Tensor variance = place_.tp.AllReduce(in.pow(2).sum(-1, true)) / width;
    const Tensor gain = w_.Get(name + "weight", in.scalar_type());
    return in.mul(at::rsqrt(variance.add(eps))).mul(gain).to(x.scalar_type()).reshape(x.sizes());
  }

  // ColumnParallelLinear, RowParallelLinear, or a matrix that each rank has whole, [s, b, ...].
  // `name` ends before "weight".
  Tensor Linear(const Tensor& x, const std::string& name) const {
    const int cut = CutOf(name + "weight");
    const Tensor partial = w_.Times(cut == 0 ? WholeSequence(x) : x, name + "weight");
    const Tensor y = cut == 1 ? Reduced(partial) : partial;
    const Tensor bias = w_.GetIf(name + "bias", x.scalar_type());
    return bias.defined() ? y + bias : y;
  }

  // FalconH1Config; 1 where the model has none.
  double Scale(const char* name, size_t index = 0) const {
    const json scales = spec_.at("multipliers").at(name);
    if (scales.is_null()) return 1;
    return scales.is_array() ? scales.at(index).get<double>() : scales.get<double>();
  }

  Tensor Scaled(const Tensor& x, const char* name, size_t index = 0) const {
    const double scale = Scale(name, index);
    return scale == 1 ? x : x * scale;
  }

  // SelfAttention.get_query_key_value_tensors.
  std::vector<Tensor> Qkv(const Tensor& normed) const {
    const int64_t all_heads = spec_.at("heads"), all_groups = spec_.at("groups");
    const int64_t channels = spec_.at("head_dim"), per_group = all_heads / all_groups;
    const Tensor mixed = OwnGroups(
        Linear(Scaled(SequenceFirst(normed), "attention_in"), "self_attention.linear_qkv."),
        all_groups);
    const int64_t s = mixed.size(0), b = mixed.size(1);
    const int64_t groups = std::max<int64_t>(1, Local(all_groups)), heads = groups * per_group;
    if (spec_.at("gated_attention")) {
      // [queries, their gates, key, value] of each group.
      const int64_t q = per_group * channels;
      const auto gated = mixed.view({s, b, groups, 2 * (per_group + 1) * channels})
                             .split_with_sizes({q, q, channels, channels}, 3);
      return {BatchFirst(OwnHeads(gated[0].reshape({s, b, heads, channels}))), BatchFirst(gated[2]),
              BatchFirst(gated[3]),
              BatchFirst(OwnHeads(gated[1].reshape({s, b, heads, channels})))};
    }
    const auto parts = mixed.view({s, b, groups, (per_group + 2) * channels})
                           .split_with_sizes({per_group * channels, channels, channels}, 3);
    const Tensor query = OwnHeads(parts[0].reshape({s, b, heads, channels}));
    return {BatchFirst(query), Scaled(BatchFirst(parts[1]), "key"), BatchFirst(parts[2])};
  }

  // With fewer query groups than ranks a rank's rows are a stretch of a group: all of them are
  // gathered, and each rank takes its whole group.
  Tensor OwnGroups(const Tensor& mixed, int64_t groups) const {
    const int64_t ranks = place_.tp.size();
    if (groups >= ranks) return mixed;
    const int64_t width = mixed.size(2) * ranks;
    const Tensor all = place_.tp.AllGather(mixed, 2, width);
    const int64_t size = width / groups;
    return all.narrow(2, place_.tp.rank() / (ranks / groups) * size, size).contiguous();
  }

  // Of the query heads of that group its own.
  Tensor OwnHeads(const Tensor& query) const {
    const int64_t own = Local(spec_.at("heads").get<int64_t>());
    if (query.size(2) == own) return query;
    return query.narrow(2, place_.tp.rank() % (query.size(2) / own) * own, own);
  }

  Tensor Project(const Tensor& context, const Tensor& gate) const {
    if (w_.Has("mixer.out_proj.weight")) return Linear(context, "mixer.out_proj.");
    if (w_.Has("self_attention.out_proj.weight"))
      return Linear(context, "self_attention.out_proj.");
    const std::string name = "self_attention.linear_proj.";
    if (!gate.defined()) return Scaled(Linear(context, name), "attention_out");
    return Linear(context * at::sigmoid(SequenceFirst(gate).flatten(2)), name);
  }

  // Depthwise and causal, then SiLU, over [s, b, channels]: the sum of shifted copies.
  Tensor CausalConv(const Tensor& x, const Tensor& weight, const Tensor& bias) const {
    const int64_t width = weight.size(-1), s = x.size(0);
    const Tensor padded =
        at::cat({at::zeros({width - 1, x.size(1), x.size(2)}, x.options()), x}, 0);
    Tensor y = at::zeros_like(x);
    for (int64_t tap = 0; tap < width; ++tap) {
      y = y + padded.slice(0, tap, tap + s) * weight.select(-1, tap).flatten();
    }
    if (bias.defined()) y = y + bias;
    return y * at::sigmoid(y);
  }

  // GatedDeltaNet.forward; the rule itself token by token.
  Tensor GatedDeltaNet(const Tensor& hidden) const {
    const json& net = spec_.at("delta_net");
    const int64_t nk = Local(net.at("key_heads")), nv = Local(net.at("value_heads"));
    const int64_t dk = net.at("key_dim"), dv = net.at("value_dim");
    const at::ScalarType dtype = Wide(hidden.scalar_type());
    auto parts = Linear(hidden, "self_attention.in_proj.")
                     .split_with_sizes({2 * nk * dk + nv * dv, nv * dv, nv, nv}, -1);
    const int64_t s = parts[0].size(0), b = parts[0].size(1);
    for (Tensor& part : parts) part = part.to(dtype);
    const Tensor qkv =
        CausalConv(parts[0], w_.Get("self_attention.conv1d.weight", dtype), Tensor());
    const auto unit = [&](const Tensor& t) {
      const Tensor heads = t.reshape({s, b, nk, dk});
      const Tensor norm = (heads * heads).sum(-1, true) + 1e-6;
      return (heads / norm.sqrt()).repeat_interleave(nv / nk, 2);
    };
    const Tensor query = unit(qkv.slice(-1, 0, nk * dk)) * std::pow(static_cast<double>(dk), -0.5);
    const Tensor key = unit(qkv.slice(-1, nk * dk, 2 * nk * dk));
    const Tensor value = qkv.slice(-1, 2 * nk * dk, qkv.size(-1)).reshape({s, b, nv, dv});
    const Tensor beta = at::sigmoid(parts[2]);
    const Tensor g = -at::exp(w_.Get("self_attention.A_log", dtype)) *
                     at::softplus(parts[3] + w_.Get("self_attention.dt_bias", dtype));
    Tensor memory = at::zeros({b, nv, dk, dv}, qkv.options());
    std::vector<Tensor> out;
    for (int64_t t = 0; t < s; ++t) {
      memory = memory * at::exp(g.select(0, t)).view({b, nv, 1, 1});
      const Tensor k_row = key.select(0, t).unsqueeze(2);  // [b, nv, 1, dk]
      const Tensor error = value.select(0, t).unsqueeze(2) - at::matmul(k_row, memory);
      memory =
          memory + at::matmul(k_row.transpose(2, 3), error * beta.select(0, t).view({b, nv, 1, 1}));
      out.push_back(at::matmul(query.select(0, t).unsqueeze(2), memory).squeeze(2));
    }
    const Tensor core = Norm(at::stack(out, 0), "self_attention.out_norm.", "mixer");
    const Tensor z = parts[1].reshape({s, b, nv, dv});
    return (core * (z * at::sigmoid(z))).reshape({s, b, nv * dv}).to(hidden.scalar_type());
  }

  // FalconH1Layer.forward: the mixer beside attention.
  Tensor FalconMixer(const Tensor& normed) const {
    const Tensor y = MambaMixer(Scaled(normed, "ssm", 5), "mamba_mixer.");
    return Scaled(Linear(y, "mamba_mixer.out_proj."), "ssm", 6);
  }

  // FalconH1MambaMixer._scale_zxbc_dt.
  Tensor ScaleParts(const Tensor& zxbcdt, std::array<int64_t, 5> widths) const {
    if (spec_.at("multipliers").at("ssm").is_null()) return zxbcdt;
    std::vector<Tensor> parts = zxbcdt.split_with_sizes(widths, -1);
    for (size_t i = 0; i < parts.size(); ++i) parts[i] = parts[i] * Scale("ssm", i);
    return at::cat(parts, -1);
  }

  // MambaMixer.forward: [z | x | B | C | dt] of one projection.
  Tensor MambaMixer(const Tensor& hidden, const std::string& mixer) const {
    const json& mamba = spec_.at("mamba");
    const int64_t nheads = Local(mamba.at("heads")), headdim = mamba.at("head_dim");
    const int64_t ngroups = Local(mamba.at("groups")), d_state = mamba.at("state");
    const int64_t d_inner = nheads * headdim, bc = ngroups * d_state;
    const at::ScalarType dtype = Wide(hidden.scalar_type());
    const Tensor projected =
        ScaleParts(Linear(hidden, mixer + "in_proj."), {d_inner, d_inner, bc, bc, nheads})
            .to(dtype);
    const int64_t s = projected.size(0), b = projected.size(1);
    const Tensor z = projected.slice(-1, 0, d_inner);
    const Tensor xbc =
        CausalConv(projected.slice(-1, d_inner, 2 * d_inner + 2 * bc),
                   w_.Get(mixer + "conv1d_weight", dtype), w_.GetIf(mixer + "conv1d_bias", dtype));
    const Tensor x = xbc.slice(-1, 0, d_inner).reshape({s, b, nheads, headdim});
    const auto shared = [&](int64_t begin) {
      return xbc.slice(-1, begin, begin + bc)
          .reshape({s, b, ngroups, d_state})
          .repeat_interleave(nheads / ngroups, 2);
    };
    const Tensor B = shared(d_inner), C = shared(d_inner + bc);
    Tensor dt = at::softplus(projected.slice(-1, 2 * d_inner + 2 * bc, projected.size(-1)) +
                             w_.Get(mixer + "dt_bias", dtype));
    if (const double least = mamba.at("dt_min"); least > 0) dt = dt.clamp_min(least);
    const Tensor A = -at::exp(w_.Get(mixer + "A_log", dtype));
    Tensor ssm = at::zeros({b, nheads, headdim, d_state}, projected.options());
    std::vector<Tensor> out;
    for (int64_t t = 0; t < s; ++t) {
      const Tensor step = dt.select(0, t);  // [b, heads]
      const Tensor update = at::matmul(x.select(0, t).unsqueeze(-1),
                                       (B.select(0, t) * step.unsqueeze(-1)).unsqueeze(-2));
      ssm = ssm * at::exp(step * A).view({b, nheads, 1, 1}) + update;
      out.push_back(at::matmul(ssm, C.select(0, t).unsqueeze(-1)).squeeze(-1));
    }
    const Tensor y = at::stack(out, 0) + x * w_.Get(mixer + "D", dtype).view({1, 1, nheads, 1});
    return NormGated(y.reshape({s, b, d_inner}), z * at::sigmoid(z), mixer)
        .to(hidden.scalar_type());
  }

  // ExtendedRMSNorm, before or after the gate; without rmsnorm the gate alone.
  Tensor NormGated(const Tensor& y, const Tensor& gate, const std::string& mixer) const {
    if (!w_.Has(mixer + "norm.weight")) return y * gate;
    const int64_t ngroups = Local(spec_.at("mamba").at("groups"));
    const bool before = spec_.at("mamba").at("norm_first") == true;
    const Tensor groups = (before ? y : y * gate).unflatten(-1, {ngroups, -1});
    const double eps = spec_.at("norm").at("epsilon").at("mixer");
    const Tensor normed = groups / (groups.pow(2).mean(-1, true) + eps).sqrt();
    const Tensor weighted = normed.flatten(-2) * w_.Get(mixer + "norm.weight", y.scalar_type());
    return before ? weighted * gate : weighted;
  }

  // MLASelfAttention.get_query_key_value_tensors, before the rotation.
  std::vector<Tensor> LatentQkv(const Tensor& normed) const {
    const json& latent = spec_.at("latent");
    const int64_t heads = Local(spec_.at("heads")), nope = latent.at("nope");
    const int64_t pe = latent.at("rope"), value = latent.at("value");
    const Tensor hidden = SequenceFirst(normed);
    Tensor q;
    if (w_.Has("self_attention.linear_q_down_proj.weight")) {
      const Tensor down = Linear(hidden, "self_attention.linear_q_down_proj.");
      q = Linear(Norm(down, "self_attention.linear_q_up_proj.layer_norm_", "latent"),
                 "self_attention.linear_q_up_proj.");
    } else {
      q = Linear(hidden, "self_attention.linear_q_proj.");
    }
    const int64_t s = q.size(0), b = q.size(1);
    q = q.view({s, b, heads, nope + pe});
    const Tensor combined = Linear(hidden, "self_attention.linear_kv_down_proj.");
    const int64_t rank = combined.size(-1) - pe;
    const auto kv_parts = combined.split_with_sizes({rank, pe}, -1);
    const Tensor kv =
        Linear(Norm(kv_parts[0], "self_attention.linear_kv_up_proj.layer_norm_", "latent"),
               "self_attention.linear_kv_up_proj.")
            .view({s, b, heads, nope + value});
    const auto parts = kv.split_with_sizes({nope, value}, -1);
    const Tensor k_pe = WholeSequence(kv_parts[1]).unsqueeze(2).expand({s, b, heads, pe});
    return {BatchFirst(q), BatchFirst(at::cat({parts[0], k_pe}, -1)), BatchFirst(parts[1])};
  }

  // [s, 1 or b, 1, channels]; the positions of a plain table may be divided.
  Tensor Angles(const json& rope, int64_t length, int64_t offset,
                const at::TensorOptions& options) const {
    const double base = rope.at("base");
    const int64_t dim = rope.at("channels");
    const std::string kind = rope.at("kind");
    Tensor inverse, positions = Positions(rope, length, options) + offset;
    if (kind == "yarn") {
      inverse = YarnInverse(rope, dim, base, options);
    } else {
      inverse = 1.0 / at::pow(base, at::arange(0, dim, 2, options) / static_cast<double>(dim));
      if (kind == "llama3") inverse = ScaleLlama3(inverse, rope);
      inverse = inverse / rope.value("divided_by", 1.0);
      const double interpolated = rope.value("interpolation", 1.0);
      if (interpolated != 1) positions = positions * (1 / interpolated);
    }
    const Tensor freqs = positions.unsqueeze(-1) * inverse;
    const Tensor both = InterleavedHeads() ? at::stack({freqs, freqs}, -1).flatten(-2)
                                           : at::cat({freqs, freqs}, -1);
    return both.unsqueeze(2);
  }

  // [s, 1], or [s, b] of positions that are given ("positions": a list for each row).
  static Tensor Positions(const json& rope, int64_t length, const at::TensorOptions& options) {
    if (!rope.contains("positions")) return at::arange(length, options).unsqueeze(1);
    return Table(rope.at("positions")).to(options).t();
  }

  // A list of numbers for each row of the batch.
  static Tensor Table(const json& rows) {
    std::vector<Tensor> tensors;
    for (const json& row : rows) {
      tensors.push_back(at::tensor(row.get<std::vector<int64_t>>(), at::kLong));
    }
    return at::stack(tensors);
  }

  bool Latent() const { return !spec_.value("latent", json()).is_null(); }
  bool InterleavedHeads() const { return spec_.at("rope").at("pairs") && !Latent(); }

  // _apply_rotary_pos_emb_bshd.
  Tensor ApplyRotary(const Tensor& t, const Tensor& angles, double mscale) const {
    const int64_t dim = angles.size(-1);
    Tensor rotated = t.slice(-1, 0, dim);
    if (Latent() && spec_.at("rope").at("pairs")) {
      rotated = at::cat({rotated.slice(-1, 0, dim, 2), rotated.slice(-1, 1, dim, 2)}, -1);
    }
    const at::ScalarType dtype = t.scalar_type();
    const Tensor cos = (at::cos(angles) * mscale).to(dtype);
    const Tensor sin = (at::sin(angles) * mscale).to(dtype);
    Tensor turned;
    if (InterleavedHeads()) {
      const Tensor x1 = rotated.slice(-1, 0, dim, 2), x2 = rotated.slice(-1, 1, dim, 2);
      turned = at::stack({-x2, x1}, -1).view(rotated.sizes());
    } else {
      turned = at::cat({-rotated.slice(-1, dim / 2, dim), rotated.slice(-1, 0, dim / 2)}, -1);
    }
    return at::cat({rotated * cos + turned * sin, t.slice(-1, dim, t.size(-1))}, -1);
  }

  std::vector<Tensor> Rotary(const Tensor& q, const Tensor& k) const {
    const json& rope = spec_.at("rope");
    const double mscale = rope.at("attention_factor");
    std::vector<Tensor> out;
    for (const Tensor& x : {q, k}) {
      const int64_t offset = x.is_same(q) ? rope.value("query_offset", int64_t{0}) : 0;
      const Tensor angles =
          Angles(rope, x.size(1), offset, x.options().dtype(Wide(x.scalar_type())));
      const Tensor t = SequenceFirst(x);
      if (Latent()) {
        const int64_t nope = t.size(-1) - angles.size(-1);
        const Tensor pe = ApplyRotary(t.slice(-1, nope, t.size(-1)), angles, mscale);
        out.push_back(BatchFirst(at::cat({t.slice(-1, 0, nope), pe}, -1)));
      } else {
        out.push_back(BatchFirst(ApplyRotary(t, angles, mscale)));
      }
    }
    return out;
  }

  // True where attention is masked, [s, s] or [b, 1, s, s]; the window counts both ends. "mask"
  // asks for another: "causal" false, the "documents" that tokens belong to, "hidden" keys, all
  // "inverted".
  Tensor Masked(int64_t length, at::Device device) const {
    const Tensor all =
        at::ones({length, length}, at::TensorOptions().dtype(at::kBool).device(device));
    const json& attention = spec_.at("attention");
    const json mask = attention.value("mask", json::object());
    Tensor masked = mask.value("causal", true) ? all.triu(1) : all.logical_not();
    const json window = attention.at("window");
    if (!window.is_null()) masked = masked.logical_or(all.tril(-window.get<int64_t>()));
    if (mask.contains("documents")) {
      const Tensor of = Table(mask.at("documents")).to(device).unsqueeze(1);
      masked = masked.logical_or(of.unsqueeze(-1) != of.unsqueeze(-2));
    }
    if (mask.contains("hidden")) {
      masked =
          masked.logical_or(Table(mask.at("hidden")).to(device).unsqueeze(1).unsqueeze(1) != 0);
    }
    return mask.value("inverted", false) ? masked.logical_not() : masked;
  }

  // DotProductAttention.forward of the unfused core, a few heads after the others: their scores
  // are what takes memory.
  Tensor DotProductAttention(const Tensor& q, const Tensor& k, const Tensor& v) const {
    const int64_t heads = q.size(2), each = HeadsAtOnce(q);
    const auto all_heads = [&](const Tensor& x) {
      return x.size(2) == heads ? x : x.repeat_interleave(heads / x.size(2), 2);
    };
    const Tensor keys = all_heads(k), values = all_heads(v), masked = Masked(q.size(1), q.device());
    std::vector<Tensor> contexts;
    for (int64_t begin = 0; begin < heads; begin += each) {
      const int64_t count = std::min(each, heads - begin);
      contexts.push_back(AttentionOfHeads(q.narrow(2, begin, count), keys.narrow(2, begin, count),
                                          values.narrow(2, begin, count), masked, begin));
    }
    return at::cat(contexts, 2).flatten(2);
  }

  static int64_t HeadsAtOnce(const Tensor& q) {
    constexpr int64_t kMostScores = 1 << 21;
    const int64_t of_head = q.size(0) * q.size(1) * q.size(1);
    // A device has the memory, and is quicker with all at once.
    return q.is_cpu() ? std::max<int64_t>(1, kMostScores / std::max<int64_t>(of_head, 1))
                      : q.size(2);
  }

  // [b, s, heads, channels] of some heads, the first of which is `first`.
  Tensor AttentionOfHeads(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& masked,
                          int64_t first) const {
    const json& attention = spec_.at("attention");
    const int64_t b = q.size(0), s = q.size(1), heads = q.size(2);
    const auto heads_first = [&](const Tensor& x) {
      return x.permute({0, 2, 1, 3}).reshape({b * heads, s, x.size(-1)});
    };
    Tensor scores =
        at::baddbmm(at::empty({b * heads, s, s}, q.options()), heads_first(q),
                    heads_first(k).transpose(1, 2), 0.0, attention.at("scale").get<double>())
            .view({b, heads, s, s});
    const json cap = attention.at("softcap");
    if (!cap.is_null()) {
      const auto c = cap.get<double>();
      scores = c * at::tanh(scores / c);
    }
    scores.masked_fill_(masked, kMaskedScore);
    const Tensor context =
        at::bmm(Probabilities(scores, first).view({b * heads, s, s}), heads_first(v));
    return context.view({b, heads, s, -1}).permute({0, 2, 1, 3});
  }

  // FusedScaleMaskSoftmax, with the sink of SoftmaxOne; `first` is the first head.
  Tensor Probabilities(const Tensor& scores, int64_t first) const {
    const std::string sinks = spec_.at("attention").at("sinks");
    const at::ScalarType dtype = scores.scalar_type(), wide = Wide(dtype);
    if (sinks == "none") return at::softmax(scores, -1, wide).to(dtype);
    const Tensor offset = sinks == "learned"
                              ? w_.Get("self_attention.core_attention.softmax_offset", wide)
                                    .narrow(0, first, scores.size(1))
                              : at::zeros({scores.size(1)}, scores.options().dtype(wide));
    const Tensor column =
        offset.view({1, -1, 1, 1}).expand({scores.size(0), scores.size(1), scores.size(2), 1});
    const Tensor all = at::softmax(at::cat({scores.to(wide), column}, -1), -1);
    return all.slice(-1, 0, all.size(-1) - 1).contiguous().to(dtype);
  }

  // "gain" g: f(g x) / g.
  Tensor ActivationFunc(const Tensor& x) const {
    const double gain = spec_.at("activation").value("gain", 1.0);
    return gain == 1 ? Activation(x) : Activation(x * gain) / gain;
  }

  Tensor Activation(const Tensor& x) const {
    const std::string name = spec_.at("activation").at("function");
    if (name == "silu") return x * at::sigmoid(x);
    if (name == "gelu") return at::gelu(x);
    if (name == "fast_gelu") return GeluTanh(x);
    if (name == "quick_gelu") return x * at::sigmoid(1.702 * x);
    if (name == "squared_relu") return at::pow(at::relu(x), 2);
    if (name == "relu") return at::relu(x);
    throw Unsupported("the activation '" + name + "' on the Megatron side");
  }

  // MLP.forward between the two matrices.
  Tensor Activated(const Tensor& intermediate) const {
    const json& a = spec_.at("activation");
    if (!a.at("gated")) return ActivationFunc(intermediate);
    const auto halves = intermediate.chunk(2, -1);
    Tensor glu = Scaled(halves[0], "mlp", 0), linear = halves[1];
    if (const json& clamp = a.at("clamp"); !clamp.is_null()) {  // 0 leaves nothing above it
      const double most = clamp.get<double>();
      glu = glu.clamp_max(most);
      linear = linear.clamp(-most, most);
    }
    const double offset = a.at("offset");
    return ActivationFunc(glu) * (offset == 0 ? linear : linear + offset);
  }

  Tensor Mlp(const Tensor& x, const std::string& prefix) const {
    return Scaled(Linear(Activated(Linear(x, prefix + "linear_fc1.")), prefix + "linear_fc2."),
                  "mlp", 1);
  }

  // topk_routing_with_score_function.
  std::vector<Tensor> TopKRouter(const Tensor& hidden) const {
    const json& router = spec_.at("router");
    const int64_t topk = router.at("topk");
    const at::ScalarType wide = Wide(hidden.scalar_type());
    const Tensor logits = Linear(SequenceFirst(hidden), "mlp.router.").to(wide);
    const std::string function = router.at("score");
    const Tensor bias =
        router.at("bias") == true ? w_.GetIf("mlp.router.expert_bias", wide) : Tensor();
    Tensor choice, probs, top;
    if (function == "softmax") {
      const bool pre_softmax = !router.at("normalized");
      choice = pre_softmax || bias.defined() ? at::softmax(logits, -1) : logits;
      if (bias.defined()) choice = choice + bias;
      choice = LimitGroups(choice, router.at("groups"));
      top = std::get<1>(choice.topk(topk, -1));
      const Tensor chosen = (pre_softmax ? at::softmax(logits, -1) : logits).gather(-1, top);
      probs = pre_softmax ? chosen : at::softmax(chosen, -1);
    } else if (function == "sigmoid") {
      const Tensor scores = at::sigmoid(logits);
      choice = LimitGroups(bias.defined() ? scores + bias : scores, router.at("groups"));
      top = std::get<1>(choice.topk(topk, -1));
      probs = scores.gather(-1, top);
      if (router.at("normalized")) probs = probs / (probs.sum(-1, true) + 1e-20);
    } else {
      throw Unsupported("routers with the score function '" + function + "'");
    }
    probs = probs * router.at("scaling").get<double>();
    const Tensor routing = at::zeros_like(logits).scatter(-1, top, probs);
    return {BatchFirst(routing.to(hidden.scalar_type())), BatchFirst(choice)};
  }

  // group_limited_topk.
  static Tensor LimitGroups(const Tensor& scores, const json& rule) {
    if (rule.is_null()) return scores;
    const int64_t groups = rule.at(0), kept = rule.at(1), members = rule.at(2);
    const int64_t experts = scores.size(-1);
    const Tensor flat = scores.reshape({-1, experts});
    const Tensor group_scores =
        std::get<0>(flat.view({-1, groups, experts / groups}).topk(members, -1)).sum(-1);
    const Tensor index = std::get<1>(group_scores.topk(kept, -1));
    const Tensor group_mask = at::zeros_like(group_scores).scatter(1, index, 1);
    const Tensor mask = group_mask.unsqueeze(-1)
                            .expand({-1, groups, experts / groups})
                            .reshape({-1, experts})
                            .to(at::kBool);
    return flat.masked_fill(mask.logical_not(), -std::numeric_limits<double>::infinity())
        .view(scores.sizes());
  }

  // The weights go onto the activations, before the second matrix; its bias is weighted too.
  Tensor GroupedMlp(const Tensor& hidden, const Tensor& routing) const {
    const Tensor tokens = SequenceFirst(hidden).flatten(0, 1);
    const TokenDispatcher dispatcher(place_, SequenceFirst(routing).flatten(0, 1));
    const Tensor combined =
        dispatcher.Run(tokens, [&](int64_t expert, const Tensor& rows, const Tensor& weights) {
          return Expert(expert, rows, weights);
        });
    return BatchFirst(combined.view({hidden.size(1), hidden.size(0), hidden.size(2)}));
  }

  Tensor Expert(int64_t expert, const Tensor& rows, const Tensor& weights) const {
    const std::string suffix = std::to_string(expert);
    const auto matrix = [&](const char* which, const char* part) {
      return w_.GetIf(std::string("mlp.experts.") + which + "." + part + suffix,
                      rows.scalar_type());
    };
    Tensor prob = weights, local = rows;
    if (spec_.at("router").at("input_scaled") == true) {
      local = prob * local;
      prob = at::ones_like(prob);
    }
    Tensor fc1 = at::matmul(local, matrix("linear_fc1", "weight").t());
    if (const Tensor bias = matrix("linear_fc1", "bias"); bias.defined()) fc1 = fc1 + bias;
    Tensor fc2 = at::matmul(Activated(fc1) * prob, matrix("linear_fc2", "weight").t());
    if (const Tensor bias = matrix("linear_fc2", "bias"); bias.defined()) {
      if (place_.etp.size() > 1) throw Unsupported("experts with biases that several ranks cut");
      fc2 = fc2 + bias * prob;
    }
    return fc2;
  }

  Tensor SharedExpertMlp(const Tensor& hidden) const {
    const Tensor x = SequenceFirst(hidden);
    Tensor y = Mlp(x, "mlp.shared_experts.");
    const Tensor gate = w_.GetIf("mlp.shared_experts.gate_weight", x.scalar_type());
    if (gate.defined()) y = y * at::sigmoid(at::matmul(x, gate.t()));
    return BatchFirst(y);
  }

  const json spec_;
  const Weights& w_;
  const Place place_;
};

}  // namespace

std::unique_ptr<Stage> MakeMegatronStage(const json& spec, const Weights& weights,
                                         const Place& place) {
  return std::make_unique<MegatronStage>(spec, weights, place);
}

}  // namespace weighbridge::engine
