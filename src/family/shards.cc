#include "family/shards.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace weighbridge {
namespace {

// Stage index and number in the stage of each global layer.
struct LayerHome {
  size_t stage = 0;
  int64_t local = 0;
};

std::vector<LayerHome> Homes(const std::vector<Stage>& stages, bool mtp, int64_t layers) {
  std::vector<LayerHome> homes(static_cast<size_t>(layers));
  for (size_t s = 0; s < stages.size(); ++s) {
    const auto& list = mtp ? stages[s].mtp_layers : stages[s].decoder_layers;
    for (size_t i = 0; i < list.size(); ++i) {
      homes[static_cast<size_t>(list[i])] = {s, static_cast<int64_t>(i)};
    }
  }
  return homes;
}

size_t StageWhere(const std::vector<Stage>& stages, bool Stage::*holds) {
  for (size_t s = 0; s < stages.size(); ++s) {
    if (stages[s].*holds) return s;
  }
  return stages.size() - 1;
}

const nlohmann::json* FieldOf(const Model& model, std::string_view name) {
  for (const Field& field : model.config()) {
    if (field.name == name) return &field.value;
  }
  return nullptr;
}

// 0: the model has no such field, or none of what it counts.
int64_t CountOf(const Model& model, std::string_view name) {
  const nlohmann::json* value = FieldOf(model, name);
  return value != nullptr && value->is_number_integer() ? value->get<int64_t>() : 0;
}

tl::unexpected<Error> Refuse(std::string what, std::string hint) {
  return Fail(ErrorKind::kUsage, "grid", "megatron-core refuses this grid: " + std::move(what), "",
              std::move(hint));
}

// Layers that Megatron spreads over pipeline stages: not those of towers.
bool SpreadsLayers(const FamilySpec& spec) {
  return std::any_of(spec.stacks.begin(), spec.stacks.end(),
                     [](const StackRule& stack) { return !stack.is_tower(); });
}

// What TransformerConfig.__post_init__ asks of model and grid.
Status CheckMegatronBuilds(const Model& model, const ParallelGrid& grid,
                           std::vector<GridNote>& notes) {
  const int64_t heads = CountOf(model, "num_attention_heads");
  if (heads % grid.tp != 0) {
    return Refuse(fmt::format("{} attention heads are not a multiple of {} tensor-parallel ranks",
                              heads, grid.tp),
                  "choose a --tp that divides the number of heads");
  }
  const int64_t groups = CountOf(model, "num_query_groups");
  if (groups > 0 && groups % grid.tp != 0 && grid.tp % groups != 0) {
    return Refuse(fmt::format("{} query groups are neither a multiple nor a divisor of {} "
                              "tensor-parallel ranks",
                              groups, grid.tp),
                  "choose another --tp");
  }
  const bool experts = std::any_of(model.parameters().begin(), model.parameters().end(),
                                   [](const Parameter& p) { return p.is_expert(); });
  if (!experts && grid.ep > 1) {
    return Refuse("the model has no experts that expert-parallel ranks could hold",
                  "leave --ep out");
  }
  if (!experts && grid.etp > 1) {
    notes.push_back({"etp-unused", "the model has no experts: --etp cuts nothing"});
  }
  const nlohmann::json* bias = FieldOf(model, "add_bias_linear");
  if (experts && grid.etp > 1 && bias != nullptr && *bias == true) {
    notes.push_back({"moe-bias-etp",
                     "megatron-core 0.19 does not build experts with biases on more than one "
                     "expert-tensor-parallel rank; the layout is judged all the same"});
  }
  return {};
}

}  // namespace

Result<Placement> Placement::Create(const Model& model, const ParallelGrid& grid) {
  Placement out;
  if (grid.pp > 1 && !SpreadsLayers(model.spec())) {
    return Fail(ErrorKind::kUsage, "grid",
                fmt::format("{} has no pipeline stages: all its layers stand on the first",
                            model.spec().megatron_model),
                "", "leave --pp out");
  }
  WB_RETURN_IF_ERROR(CheckMegatronBuilds(model, grid, out.notes_));
  out.model_ = &model;
  out.grid_ = grid;
  WB_TRY(out.stages_, PlaceLayers(grid, model.layers(), model.mtp_layers()));
  const auto decoder = Homes(out.stages_, false, model.layers());
  const auto mtp = Homes(out.stages_, true, model.mtp_layers());
  const size_t first = StageWhere(out.stages_, &Stage::has_embedding);
  const size_t norm = StageWhere(out.stages_, &Stage::has_final_norm);
  const size_t output = StageWhere(out.stages_, &Stage::has_output);
  out.parameters_.reserve(model.parameters().size() + 1);
  const Parameter* embedding = nullptr;
  for (const Parameter& p : model.parameters()) {
    PlacedParameter placed;
    placed.parameter = &p;
    size_t stage = 0;
    switch (p.place) {
      case Place::kFirst:
        stage = first;
        placed.local_layer = p.layer;
        break;
      case Place::kFinalNorm:
        stage = norm;
        break;
      case Place::kOutput:
        stage = output;
        break;
      case Place::kDecoder:
      case Place::kMtp: {
        const LayerHome& home =
            (p.place == Place::kMtp ? mtp : decoder)[static_cast<size_t>(p.layer)];
        stage = home.stage;
        placed.local_layer = home.local;
        break;
      }
    }
    placed.pp = out.stages_[stage].pp;
    placed.vpp = out.stages_[stage].vpp;
    if (p.is_expert()) {
      if (p.experts % grid.ep != 0) {
        return Fail(ErrorKind::kUsage, "grid",
                    fmt::format("{} experts cannot be divided over {} expert-parallel ranks",
                                p.experts, grid.ep),
                    "", "choose an --ep that divides the number of experts");
      }
      const int64_t each = p.experts / grid.ep;
      placed.ep = static_cast<int>(p.expert / each);
      placed.local_expert = p.expert % each;
    }
    if (p.place == Place::kFirst && p.storage->transform == "pad_vocab") embedding = &p;
    out.parameters_.push_back(placed);
  }
  const auto add_copy = [&](size_t stage, std::string name) {
    if (embedding == nullptr || stage == first) return;
    PlacedParameter copy;
    copy.parameter = embedding;
    copy.pp = out.stages_[stage].pp;
    copy.vpp = out.stages_[stage].vpp;
    copy.copy_as = std::move(name);
    out.parameters_.push_back(std::move(copy));
  };
  if (model.tied()) add_copy(output, model.tied_megatron());
  for (size_t s = 0; s < out.stages_.size() && embedding != nullptr; ++s) {
    if (!out.stages_[s].mtp_layers.empty())
      add_copy(s, model.MegatronName(*embedding, Dialect::kTe));
  }
  return out;
}

std::string Placement::RankName(const PlacedParameter& p, Dialect dialect) const {
  if (!p.copy_as.empty()) return p.copy_as;
  return model_->MegatronName(*p.parameter, dialect, p.local_layer, p.local_expert);
}

int64_t Placement::WorldSize() const {
  return std::lcm(int64_t{grid_.tp}, int64_t{grid_.ep} * grid_.etp) * grid_.pp;
}

int64_t Placement::ShardCount() const {
  int64_t n = 0;
  for (const PlacedParameter& p : parameters_) n += GroupSize(*p.parameter);
  return n;
}

}  // namespace weighbridge
