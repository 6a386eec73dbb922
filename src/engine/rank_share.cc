#include "engine/rank_share.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "checks/moves.h"
#include "mapping/layout.h"

namespace weighbridge {
namespace {

using nlohmann::json;

// Walks the rank's tensor of a parameter.
Result<Plan> ShardPlanOf(const ParameterBytes& parameter, const Parameter& p, int size, int rank) {
  if (p.cut.replicated() || size == 1) return parameter.plan;
  WB_TRY(const Plan cut, CompileByTarget(CutLayout(parameter.shape, p.cut, size, rank),
                                         BitsOf(parameter.sources.dtype) / 8));
  return Compose(cut, parameter.plan);
}

Result<std::vector<std::byte>> ValuesOf(const ParameterSource& source, const Parameter& p,
                                        DType dtype, int size, int rank) {
  WB_TRY(const ParameterBytes parameter, source.Open(p));
  WB_TRY(const Plan plan, ShardPlanOf(parameter, p, size, rank));
  std::vector<std::byte> values(
      BytesFor(dtype, Numel(CutShape(parameter.shape, p.cut, size))).value_or(0)),
      scratch;
  WB_RETURN_IF_ERROR(
      GatherElements(plan, parameter.sources, parameter.op, dtype, 0, values, scratch));
  return values;
}

}  // namespace

RankId RankOf(const ParallelGrid& grid, int rank) {
  const int width = std::lcm(grid.tp, grid.ep * grid.etp), within = rank % width;
  return {within % grid.tp, rank / width, 0, within / grid.etp % grid.ep, within % grid.etp};
}

std::string Describe(const RankId& rank, const ParallelGrid& grid) {
  std::vector<std::string> parts;
  const auto add = [&](const char* name, int at, int size) {
    if (size > 1) parts.push_back(fmt::format("{} {}", name, at));
  };
  add("tp", rank.tp, grid.tp);
  add("pp", rank.pp, grid.pp);
  add("vpp", rank.vpp, grid.vpp);
  add("ep", rank.ep, grid.ep);
  add("etp", rank.etp, grid.etp);
  return fmt::format("{}", fmt::join(parts, ", "));
}

int PipelineRankOf(const Placement& placement, StageId stage) {
  const auto has = [](const std::vector<int64_t>& layers, int64_t layer) {
    return std::find(layers.begin(), layers.end(), layer) != layers.end();
  };
  for (const Stage& at : placement.stages()) {
    const bool here = stage.kind == StageKind::kEmbedding ? at.has_embedding
                      : stage.kind == StageKind::kOutput  ? at.has_output
                      : stage.kind == StageKind::kMtp     ? has(at.mtp_layers, stage.layer)
                                                          : has(at.decoder_layers, stage.layer);
    if (here) return at.pp;
  }
  return 0;
}

Status CheckDivides(const json& spec, const ParallelGrid& grid) {
  struct Count {
    const char *part, *name, *what;
  };
  constexpr Count kCounts[] = {{"mamba", "heads", "Mamba heads"},
                               {"mamba", "groups", "Mamba groups"},
                               {"delta_net", "key_heads", "key heads of the gated delta net"},
                               {"delta_net", "value_heads", "value heads of the gated delta net"}};
  for (const Count& count : kCounts) {
    const json part = spec.value(count.part, json::object());
    const json number = part.value(count.name, json());
    if (!number.is_number_integer() || number.get<int64_t>() % grid.tp == 0) continue;
    return Fail(ErrorKind::kUsage, "grid",
                fmt::format("megatron-core refuses this grid: {} {} are not a multiple of {} "
                            "tensor-parallel ranks",
                            number.get<int64_t>(), count.what, grid.tp),
                "", "choose a --tp that divides them");
  }
  return {};
}

json CutsOf(const Model& model, StageId stage) {
  json cuts = json::object();
  for (const MegatronUse& use : MegatronTensorsOf(model, stage)) {
    const Parameter& p = *use.parameter;
    if (!p.cut.replicated() && !p.is_expert()) cuts[use.role] = p.cut.axis;
  }
  return cuts;
}

Status AddShards(const Model& model, const ParameterSource& source, StageId stage,
                 const ParallelGrid& grid, const RankId& rank, const std::string& side,
                 StageTensors& out) {
  std::vector<std::byte> scratch;
  for (const MegatronUse& use : MegatronTensorsOf(model, stage)) {
    const Parameter& p = *use.parameter;
    const int size = p.is_expert() ? grid.etp : grid.tp, at = p.is_expert() ? rank.etp : rank.tp;
    if (p.is_expert() && p.expert / (p.experts / grid.ep) != rank.ep) continue;
    if (Status fits = CheckCut(p.shape, p.cut, size); !fits) {
      Error error = std::move(fits).error();
      error.at = model.MegatronName(p, Dialect::kTe);
      error.hint = "choose another grid, or `weighbridge convert` the checkpoint to this one";
      return Fail(std::move(error));
    }
    WB_TRY(const ParameterBytes parameter, source.Open(p));
    WB_TRY(const Plan plan, ShardPlanOf(parameter, p, size, at));
    WB_RETURN_IF_ERROR(AddTensor(parameter, plan, CutShape(parameter.shape, p.cut, size),
                                 source.StoredDType(p), side + "." + use.role, scratch, out));
  }
  return {};
}

Result<std::vector<RankId>> RanksThatDiffer(const Placement& placement,
                                            const ParameterSource& expected,
                                            const ParameterSource& actual, const Parameter& p) {
  const int size = p.cut.replicated() ? 1 : placement.GroupSize(p);
  const DType dtype = actual.StoredDType(p);
  std::vector<bool> differ;
  for (int rank = 0; rank < size; ++rank) {
    WB_TRY(const std::vector<std::byte> right, ValuesOf(expected, p, dtype, size, rank));
    WB_TRY(const std::vector<std::byte> found, ValuesOf(actual, p, dtype, size, rank));
    differ.push_back(right != found);
  }
  std::vector<RankId> ranks;
  for (const PlacedParameter& home : placement.parameters()) {
    if (home.parameter != &p) continue;
    for (int rank = 0; rank < placement.GroupSize(p); ++rank) {
      if (!differ[size == 1 ? 0 : static_cast<size_t>(rank)]) continue;
      RankId id{0, home.pp, home.vpp, home.ep, 0};
      (p.is_expert() ? id.etp : id.tp) = rank;
      ranks.push_back(id);
    }
  }
  return ranks;
}

}  // namespace weighbridge
