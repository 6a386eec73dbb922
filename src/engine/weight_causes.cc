#include "engine/weight_causes.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string_view>
#include <thread>
#include <utility>

#include "base/strings.h"
#include "checks/diagnose/explain.h"
#include "checks/moves.h"
#include "checks/parameter_source.h"
#include "engine/describe.h"
#include "engine/rank_share.h"
#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

// The first prefix that fits; empty: the role up to its last dot.
struct Part {
  std::string_view prefix, module;
};
constexpr Part kParts[] = {
    {"embedding.", "embedding"},
    {"decoder.final_", "decoder.final_layernorm"},
    {"output_layer.", "output_layer"},
    {"self_attention.linear_qkv.layer_norm_", "input_layernorm"},
    {"self_attention.in_proj.layer_norm_", "input_layernorm"},
    {"mixer.in_proj.layer_norm_", "input_layernorm"},
    {"mlp.linear_fc1.layer_norm_", "pre_mlp_layernorm"},
    {"self_attention.q_layernorm.", "self_attention.q_layernorm"},
    {"self_attention.k_layernorm.", "self_attention.q_layernorm"},
    {"self_attention.core_attention.", "self_attention.core_attention"},
    {"self_attention.linear_proj.post_layernorm.", "self_attention.linear_proj.post_layernorm"},
    {"self_attention.linear_proj.", "self_attention.linear_proj"},
    {"self_attention.out_proj.", "self_attention.linear_proj"},
    {"mixer.out_proj.", "self_attention.linear_proj"},
    {"self_attention.linear_", "self_attention.linear_qkv"},
    {"self_attention.", "self_attention.gated_delta_net"},
    {"mixer.", "mixer"},
    {"mamba_mixer.", "mamba_mixer"},
    {"mlp.router.", "mlp.router"},
    {"mlp.experts.", "mlp.experts"},
    {"mlp.shared_experts.", "mlp.shared_experts"},
    {"mlp.linear_fc2.post_layernorm.", "mlp.linear_fc2.post_layernorm"},
    {"mlp.", "mlp"},
};

// The layer within an MTP layer has the modules of any other.
std::string WithoutMtp(const std::string& module) {
  constexpr std::string_view kInner = "mtp_model_layer.";
  return module.starts_with(kInner) ? module.substr(kInner.size()) : module;
}

class Finder {
 public:
  explicit Finder(const ComparedWeights& weights)
      : w_(weights),
        hf_(HfParameters::OfUsable(w_.model, w_.hf)),
        megatron_(MegatronParameters::OfBound(w_.megatron, w_.binding)) {}

  Result<WeightCauses> Find(const std::vector<const JudgedModule*>& failed) {
    std::map<const Parameter*, std::vector<const JudgedModule*>> modules_of;
    for (const JudgedModule* judged : failed) {
      for (const MegatronUse& use : MegatronTensorsOf(w_.model, judged->stage)) {
        if (ModuleOf(use.role) == WithoutMtp(judged->module))
          modules_of[use.parameter].push_back(judged);
      }
    }
    std::vector<const Parameter*> differ;
    std::map<std::string, std::string> first;  // by their names
    for (const BoundParameter& bound : w_.binding.bound) {
      if (!modules_of.contains(bound.parameter)) continue;
      WB_TRY(const std::string difference, FirstDifference(*bound.parameter));
      if (difference.empty()) continue;
      differ.push_back(bound.parameter);
      first[w_.model.MegatronName(*bound.parameter, Dialect::kTe)] = difference;
    }
    WeightCauses out;
    if (differ.empty()) return out;
    std::vector<const Parameter*> all;
    for (const BoundParameter& bound : w_.binding.bound) all.push_back(bound.parameter);
    WB_TRY(Diagnosis diagnosis,
           ExplainDifferences({w_.model, w_.hf, w_.megatron, w_.binding, all, all, differ},
                              w_.threads > 0 ? w_.threads
                                             : static_cast<int>(std::max(
                                                   1U, std::thread::hardware_concurrency()))));
    for (Cause& cause : diagnosis.causes) {
      if (cause.id == "unexplained") continue;
      AddPlace(first, cause);
      out.causes.push_back(std::move(cause));
    }
    for (const Parameter* p : differ) {
      WB_RETURN_IF_ERROR(BlameRanks(*p, modules_of[p], out));
      const std::string& why = diagnosis.why[p];
      if (!why.empty() && !why.starts_with("unexplained")) {
        out.explained.insert(modules_of[p].begin(), modules_of[p].end());
      } else {
        const std::string name = w_.model.MegatronName(*p, Dialect::kTe);
        out.unexplained.push_back(fmt::format("{} differs {} ({})", name, first[name], why));
      }
    }
    return out;
  }

 private:
  Status BlameRanks(const Parameter& p, const std::vector<const JudgedModule*>& modules,
                    WeightCauses& out) const {
    if (w_.placement == nullptr) return {};
    WB_TRY(const std::vector<RankId> ranks, RanksThatDiffer(*w_.placement, hf_, megatron_, p));
    for (const JudgedModule* judged : modules) out.ranks[judged].insert(ranks.begin(), ranks.end());
    return {};
  }

  // "in 1 of 96 elements, first at [3, 5]: 0.25 expected, 0.5 found"; "": they are equal.
  Result<std::string> FirstDifference(const Parameter& p) const {
    WB_TRY(const std::vector<std::byte> expected, ValuesIn(hf_, p));
    WB_TRY(const std::vector<std::byte> actual, ValuesIn(megatron_, p));
    if (expected == actual) return "";
    const DType dtype = megatron_.StoredDType(p);
    WB_TRY(const ParameterBytes bytes, megatron_.Open(p));
    const auto count = static_cast<size_t>(Numel(bytes.shape));
    size_t differing = 0, first = 0;
    for (size_t i = 0; i < count; ++i) {
      if (RawBits(dtype, expected.data(), i) == RawBits(dtype, actual.data(), i)) continue;
      if (differing++ == 0) first = i;
    }
    const auto text = [&](const std::vector<std::byte>& values) {
      return FormatBits(dtype, RawBits(dtype, values.data(), first));
    };
    return fmt::format("in {} of {} elements, first at {}: {} expected, {} found", differing, count,
                       IndexToString(bytes.shape, static_cast<int64_t>(first)), text(expected),
                       text(actual));
  }

  // Where the weights of a cause begin to differ.
  static void AddPlace(const std::map<std::string, std::string>& first, Cause& cause) {
    for (const auto& [name, difference] : first) {
      const bool named =
          std::any_of(cause.where.begin(), cause.where.end(),
                      [&](const std::string& where) { return GlobMatch(where, name); });
      if (!named) continue;
      cause.evidence +=
          fmt::format("{}{} differs {}", cause.evidence.empty() ? "" : "; ", name, difference);
      return;
    }
  }

  // In the dtype that Megatron stores.
  Result<std::vector<std::byte>> ValuesIn(const ParameterSource& source, const Parameter& p) const {
    const DType dtype = megatron_.StoredDType(p);
    WB_TRY(const ParameterBytes bytes, source.Open(p));
    std::vector<std::byte> values(BytesFor(dtype, Numel(bytes.shape)).value_or(0)), scratch;
    WB_RETURN_IF_ERROR(
        GatherElements(bytes.plan, bytes.sources, bytes.op, dtype, 0, values, scratch));
    return values;
  }

  const ComparedWeights& w_;
  const HfParameters hf_;
  const MegatronParameters megatron_;
};

}  // namespace

std::string ModuleOf(const std::string& role) {
  for (const Part& part : kParts) {
    if (role.starts_with(part.prefix)) return std::string(part.module);
  }
  return role.substr(0, role.rfind('.'));
}

Result<WeightCauses> FindWeightCauses(const ComparedWeights& weights,
                                      const std::vector<const JudgedModule*>& failed) {
  return Finder(weights).Find(failed);
}

}  // namespace weighbridge
