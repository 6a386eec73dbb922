#include "checks/rank_import.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <set>
#include <string_view>
#include <utility>

#include "formats/torch_legacy/plan.h"
#include "formats/torch_legacy/rank_folders.h"
#include "mapping/boxes.h"

namespace weighbridge {
namespace {

using nlohmann::json;

// A rank that has a file of its own.
struct Rank {
  int tp = 0, pp = 0, ep = 0;
};

const json* FieldOf(const Model& model, std::string_view name) {
  for (const Field& field : model.config()) {
    if (field.name == name) return &field.value;
  }
  return nullptr;
}

class Planner {
 public:
  Planner(const Model& model, const Placement& placement, const ParameterSource& source,
          const ImportOptions& options)
      : model_(model), placement_(placement), source_(source), options_(options) {}

  Result<ImportPlan> Run() {
    const ParallelGrid& grid = placement_.grid();
    if (grid.tp % grid.etp != 0) {
      return Fail(
          ErrorKind::kUsage, "grid",
          fmt::format("the format `torch` has no files for ETP {} at TP {}", grid.etp, grid.tp), "",
          "choose an --etp that divides --tp, or --format torch_dist");
    }
    std::vector<RankState> ranks;
    for (const Rank& rank : Ranks()) {
      WB_TRY(RankState state, StateOf(rank));
      ranks.push_back(std::move(state));
    }
    LegacyRun run;
    run.args = MegatronArguments(model_, grid);
    run.params_dtype = MainDType();
    run.args["bf16"] = run.params_dtype == DType::kBF16;
    run.args["fp16"] = run.params_dtype == DType::kF16;
    run.iteration = options_.iteration;
    WB_TRY(plan_.disk, PlanRankFiles(std::move(tensors_), ranks, run));
    return std::move(plan_);
  }

 private:
  // The pairs of tensor and expert rank that occur in any launch of the grid.
  std::vector<Rank> Ranks() const {
    const ParallelGrid& grid = placement_.grid();
    std::set<std::array<int, 2>> pairs;
    const int launch = std::lcm(grid.tp, grid.etp * grid.ep);
    for (int i = 0; i < launch; ++i) pairs.insert({i % grid.tp, i / grid.etp % grid.ep});
    std::vector<Rank> ranks;
    for (int pp = 0; pp < grid.pp; ++pp) {
      for (const auto& [tp, ep] : pairs) ranks.push_back({tp, pp, ep});
    }
    return ranks;
  }

  DType MainDType() const {
    return model_.parameters().empty()
               ? DType::kF32
               : WrittenDType(model_.parameters().front(), source_, options_);
  }

  Result<RankState> StateOf(const Rank& rank) {
    const ParallelGrid& grid = placement_.grid();
    RankState state;
    state.folder = RankFolderName(rank.tp, rank.pp, rank.ep, grid.pp, grid.ep);
    state.parts.resize(static_cast<size_t>(grid.vpp));
    std::vector<std::set<std::string>> modules(state.parts.size());
    for (const PlacedParameter& placed : placement_.parameters()) {
      if (placed.pp != rank.pp || (placed.parameter->is_expert() && placed.ep != rank.ep)) continue;
      const auto part = static_cast<size_t>(placed.vpp);
      const std::string name = placement_.RankName(placed, options_.dialect);
      AddExtraStates(*placed.parameter, name, modules[part], state.parts[part]);
      WB_RETURN_IF_ERROR(AddTensor(placed, rank, state.folder, name));
      state.parts[part].push_back({name, tensors_.size() - 1, false});
    }
    for (const Stage& stage : placement_.stages()) {
      if (stage.pp != rank.pp || !stage.has_output || !options_.extra_state) continue;
      state.parts[static_cast<size_t>(stage.vpp)].push_back(
          {"output_layer._extra_state", std::nullopt, true});
    }
    return state;
  }

  Status AddTensor(const PlacedParameter& placed, const Rank& rank, const std::string& folder,
                   const std::string& name) {
    const Parameter& p = *placed.parameter;
    const int group = p.cut.replicated() ? 1 : placement_.GroupSize(p);
    WB_RETURN_IF_ERROR(CheckCut(p.shape, p.cut, group));
    const int in_group = p.cut.replicated() ? 0
                         : p.is_expert()    ? rank.tp % placement_.grid().etp
                                            : rank.tp;
    TorchDistTensor tensor;
    tensor.key = fmt::format("{}/{}", folder, name);
    tensor.dtype = WrittenDType(p, source_, options_);
    tensor.shape = CutShape(p.shape, p.cut, group);
    std::vector<ImportPlan::Source> sources;
    int64_t row = 0;
    for (const TensorBox& box : RankBoxes(p.shape, p.cut, group, in_group)) {
      TorchDistChunk chunk{Shape(box.sizes.size(), 0), box.sizes};
      if (!chunk.offsets.empty()) chunk.offsets[0] = row;
      if (!chunk.sizes.empty()) row += chunk.sizes[0];
      tensor.chunks.push_back(std::move(chunk));
      sources.push_back({&p, box.offsets, box.sizes});
    }
    tensors_.push_back(std::move(tensor));
    plan_.sources.push_back(std::move(sources));
    return {};
  }

  // `_extra_state` of the modules that have one and that the parameter is the first to name:
  // load_state_dict(strict=True) asks for exactly these. Megatron-Core's own linear layers keep
  // None, Transformer Engine's an empty tensor, and its attention one too.
  void AddExtraStates(const Parameter& p, const std::string& name, std::set<std::string>& known,
                      std::vector<RankEntry>& part) const {
    if (!options_.extra_state) return;
    const bool te = options_.dialect == Dialect::kTe;
    const std::string module = ModuleOf(name);
    if (module != "output_layer" && HoldsExtraState(p, module) && known.insert(module).second) {
      part.push_back({module + "._extra_state", std::nullopt, !te});
    }
    // A model with soft capping has an attention of the Bridge's own, which keeps none.
    constexpr std::string_view kAttention = ".self_attention.";
    const size_t at = name.find(kAttention);
    if (!te || at == std::string::npos || FieldOf(model_, "attn_logit_softcapping") != nullptr) {
      return;
    }
    const std::string attention = name.substr(0, at) + ".self_attention.core_attention";
    if (known.insert(attention).second) {
      part.push_back({attention + "._extra_state", std::nullopt, false});
    }
  }

  // "a.linear_fc1.weight7" -> "a.linear_fc1"
  static std::string ModuleOf(const std::string& name) {
    const size_t dot = name.rfind('.');
    return dot == std::string::npos ? "" : name.substr(0, dot);
  }

  const Model& model_;
  const Placement& placement_;
  const ParameterSource& source_;
  const ImportOptions& options_;
  ImportPlan plan_;
  std::vector<TorchDistTensor> tensors_;
};

}  // namespace

json MegatronArguments(const Model& model, const ParallelGrid& grid) {
  json args = json::object();
  for (const Field& field : model.config()) {
    args[field.name] = field.value == "none" ? json() : field.value;
  }
  const auto field = [&](const char* name, json fallback) {
    const json* value = FieldOf(model, name);
    return value == nullptr || *value == "none" ? fallback : *value;
  };
  // Where an argument has another name than the field.
  const json experts = field("num_moe_experts", nullptr);
  args["num_experts"] = experts;
  args["swiglu"] = field("gated_linear_unit", false);
  args["untie_embeddings_and_output_weights"] = !model.tied();
  args["group_query_attention"] =
      field("num_query_groups", nullptr) != field("num_attention_heads", nullptr);
  args["max_position_embeddings"] = field("seq_length", nullptr);
  args["norm_epsilon"] = field("layernorm_epsilon", 1e-5);
  args["apply_layernorm_1p"] = field("layernorm_zero_centered_gamma", false);
  args["position_embedding_type"] = field("position_embedding_type", "rope");
  args["add_position_embedding"] = true;  // the default, which loaders compare
  args["mtp_num_layers"] = model.mtp_layers() > 0 ? json(model.mtp_layers()) : json();
  args["padded_vocab_size"] = model.padded_vocab();
  const auto layers = [](int64_t n) { return n < 0 ? json() : json(n); };
  args["tensor_model_parallel_size"] = grid.tp;
  args["pipeline_model_parallel_size"] = grid.pp;
  args["virtual_pipeline_model_parallel_size"] = grid.vpp == 1 ? json() : json(grid.vpp);
  args["expert_model_parallel_size"] = grid.ep;
  args["expert_tensor_parallel_size"] = experts.is_null() ? grid.tp : grid.etp;
  args["context_parallel_size"] = 1;
  args["decoder_first_pipeline_num_layers"] = layers(grid.first_stage_layers);
  args["decoder_last_pipeline_num_layers"] = layers(grid.last_stage_layers);
  args["pipeline_model_parallel_layout"] = grid.pp_layout.empty() ? json() : json(grid.pp_layout);
  args["account_for_embedding_in_pipeline_split"] = grid.account_for_embedding;
  args["account_for_loss_in_pipeline_split"] = grid.account_for_loss;
  args["ckpt_format"] = "torch";
  return args;
}

Result<ImportPlan> PlanRankImport(const Model& model, const Placement& placement,
                                  const ParameterSource& source, const ImportOptions& options) {
  return Planner(model, placement, source, options).Run();
}

}  // namespace weighbridge
