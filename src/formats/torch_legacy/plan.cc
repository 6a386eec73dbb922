#include "formats/torch_legacy/plan.h"

#include <fmt/format.h>

#include <utility>

#include "base/checked.h"
#include "formats/pickle/write.h"
#include "formats/torch_dist/texts.h"
#include "formats/torch_file/write.h"
#include "formats/torch_legacy/rank_folders.h"

namespace weighbridge {
namespace {

using nlohmann::json;

constexpr double kCheckpointVersion = 3.0;

void PickleJson(pickle::Writer& pickle, const json& value) {
  switch (value.type()) {
    case json::value_t::boolean:
      pickle.Bool(value.get<bool>());
      break;
    case json::value_t::number_integer:
    case json::value_t::number_unsigned:
      pickle.Int(value.get<int64_t>());
      break;
    case json::value_t::number_float:
      pickle.Float(value.get<double>());
      break;
    case json::value_t::string:
      pickle.String(value.get_ref<const std::string&>());
      break;
    case json::value_t::array:
      pickle.List(value.size());
      for (const json& item : value) PickleJson(pickle, item);
      break;
    case json::value_t::object:
      pickle.Dict(value.size());
      for (const auto& [key, item] : value.items()) PickleJson(pickle.String(key), item);
      break;
    default:
      pickle.None();
  }
}

// The pickle of one rank's file.
class RankPickle {
 public:
  RankPickle(const std::vector<TorchDistTensor>& tensors, const LegacyRun& run)
      : tensors_(tensors), run_(run) {}

  std::string Write(const RankState& rank) && {
    for (const auto& part : rank.parts) {
      for (const RankEntry& entry : part) storages_ += entry.tensor ? 1 : 0;
    }
    const bool several = rank.parts.size() > 1;
    pickle_.Dict(4 + rank.parts.size()).String("args");
    Args();
    pickle_.String("checkpoint_version").Float(kCheckpointVersion);
    pickle_.String("iteration").Int(run_.iteration);
    for (size_t i = 0; i < rank.parts.size(); ++i) {
      pickle_.String(several ? fmt::format("model{}", i) : "model");
      Part(rank.parts[i]);
    }
    pickle_.String("num_floating_point_operations_so_far").Int(0);
    return std::move(pickle_).Finish();
  }

 private:
  void Args() {
    pickle_.ObjectWithState("argparse", "Namespace").Dict(run_.args.size() + 1);
    for (const auto& [key, value] : run_.args.items()) PickleJson(pickle_.String(key), value);
    pickle_.String("params_dtype").Global("torch", *TorchDTypeName(run_.params_dtype));
  }

  void Part(const std::vector<RankEntry>& part) {
    pickle_.Dict(part.size());
    for (const RankEntry& entry : part) {
      pickle_.String(entry.name);
      if (entry.tensor) {
        const TorchDistTensor& t = tensors_[*entry.tensor];
        PickleTensor(pickle_, t.dtype, t.shape, fmt::format("{}", storage_++));
      } else if (entry.none) {
        pickle_.None();
      } else {
        // All of them share the one storage behind the others.
        PickleTensor(pickle_, DType::kU8, {0}, fmt::format("{}", storages_));
      }
    }
  }

  const std::vector<TorchDistTensor>& tensors_;
  const LegacyRun& run_;
  pickle::Writer pickle_{2};
  size_t storage_ = 0, storages_ = 0;
};

Status MeasureChunks(TorchDistTensor& tensor) {
  WB_RETURN_IF_ERROR(TorchDTypeName(tensor.dtype));
  for (TorchDistChunk& chunk : tensor.chunks) {
    const auto numel = CheckedNumel(chunk.sizes);
    const auto bytes = numel ? BytesFor(tensor.dtype, *numel) : std::nullopt;
    if (!bytes || *bytes > INT64_MAX / 2) {
      return Fail(ErrorKind::kInvalid, "invalid-tensor",
                  fmt::format("'{}' is too large", tensor.key));
    }
    chunk.data_bytes = *bytes;
  }
  return {};
}

}  // namespace

Result<TorchDistPlan> PlanRankFiles(std::vector<TorchDistTensor> tensors,
                                    const std::vector<RankState>& ranks, const LegacyRun& run) {
  TorchDistPlan plan;
  plan.has_metadata = false;
  for (TorchDistTensor& t : tensors) WB_RETURN_IF_ERROR(MeasureChunks(t));
  WB_RETURN_IF_ERROR(TorchDTypeName(run.params_dtype));
  plan.tensors = std::move(tensors);
  for (const RankState& rank : ranks) {
    TorchDistPlan::File file;
    file.writer = static_cast<uint32_t>(plan.files.size());
    file.name = fmt::format("{}/{}", rank.folder, kRankFileName);
    file.pickle = RankPickle(plan.tensors, run).Write(rank);
    for (const auto& part : rank.parts) {
      for (const RankEntry& entry : part) {
        if (!entry.tensor) {
          if (!entry.none) file.empty_storages = 1;
          continue;
        }
        const auto tensor = static_cast<uint32_t>(*entry.tensor);
        for (uint32_t c = 0; c < plan.tensors[tensor].chunks.size(); ++c) {
          file.chunks.emplace_back(tensor, c);
        }
      }
    }
    plan.files.push_back(std::move(file));
    PlaceInArchive(plan, plan.files.size() - 1);
  }
  return plan;
}

}  // namespace weighbridge
