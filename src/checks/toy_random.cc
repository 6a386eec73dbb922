#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <tuple>

#include "base/json.h"
#include "base/threads.h"
#include "checks/toy.h"
#include "family/model.h"
#include "formats/checkpoint_files.h"
#include "formats/safetensors/writer.h"

namespace weighbridge {
namespace {

using nlohmann::ordered_json;

constexpr uint64_t kBlock = 1u << 18;  // elements; even

struct RandomTensor {
  TensorInfo info;
  std::string stream;  // whose values it has: its own name, or that of the tensor it copies
  std::optional<float> norm_centre;  // of a norm's weight, what its values lie around
};

struct Block {
  uint32_t tensor;
  uint64_t first;
};

bool IsNormWeight(const Parameter& p) {
  const std::string& name = p.rule->megatron;
  return p.shape.size() == 1 && (name.ends_with("norm.weight") || name.ends_with("norm_weight"));
}

bool ZeroCentred(const Model& model) {
  const auto& fields = model.config();
  return std::any_of(fields.begin(), fields.end(), [](const Field& f) {
    return f.name == "layernorm_zero_centered_gamma" && f.value == true;
  });
}

// How much greater a value is on the Hugging Face side than on Megatron's.
float Shift(Op op) { return op == Op::kSubOne ? 1.0f : op == Op::kAddOne ? -1.0f : 0.0f; }

// In the order of the model: what comes before the layers, the layers, what comes after them.
Result<std::vector<RandomTensor>> TensorsOf(const Model& model, DType dtype) {
  std::vector<const Parameter*> order;
  for (const Parameter& p : model.parameters()) order.push_back(&p);
  std::stable_sort(order.begin(), order.end(), [](const Parameter* a, const Parameter* b) {
    return std::tuple(a->place, a->layer) < std::tuple(b->place, b->layer);
  });
  const float centre = ZeroCentred(model) ? 0.0f : 1.0f;
  std::vector<RandomTensor> tensors;
  std::map<std::string, size_t> known;
  for (const Parameter* p : order) {
    WB_TRY(const TransformPlan plan, model.Plan(*p));
    for (size_t i = 0; i < p->hf.size(); ++i) {
      if (!known.emplace(p->hf[i], tensors.size()).second) continue;
      TensorInfo info{p->hf[i], p->rule->dtype.value_or(dtype), plan.sources[i].shape};
      RandomTensor tensor{std::move(info), p->hf[i], std::nullopt};
      if (IsNormWeight(*p)) tensor.norm_centre = centre + Shift(p->op);
      tensors.push_back(std::move(tensor));
    }
  }
  for (const TensorCopy& copy : model.copies()) {
    const auto source = known.find(copy.same_as);
    if (copy.tied || source == known.end() || known.contains(copy.hf)) continue;
    RandomTensor tensor = tensors[source->second];
    tensor.info.name = copy.hf;
    known.emplace(copy.hf, tensors.size());
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

// Uniform in [-s, s) has the standard deviation s / sqrt(3).
Result<float> ScaleOf(const ordered_json& config) {
  const auto range = config.find("initializer_range");
  if (range == config.end() || range->is_null()) return std::sqrt(3.0f) * 0.02f;
  if (!range->is_number() || !(range->get<double>() > 0) || range->get<double>() > 1) {
    return Fail(ErrorKind::kInvalid, "config-value",
                fmt::format("'initializer_range' is {}, a number above 0 and up to 1 is expected",
                            range->dump()),
                "config.json");
  }
  return std::sqrt(3.0f) * range->get<float>();
}

class RandomWriter {
 public:
  RandomWriter(const std::vector<RandomTensor>& tensors, const RandomToyOptions& options,
               float scale)
      : tensors_(tensors), options_(options), scale_(scale) {}

  Status Run(SafetensorsWriter& writer) {
    std::vector<Block> blocks;
    for (uint32_t i = 0; i < tensors_.size(); ++i) {
      const auto count = static_cast<uint64_t>(Numel(tensors_[i].info.shape));
      for (uint64_t first = 0; first < count; first += kBlock) blocks.push_back({i, first});
    }
    WB_RETURN_IF_ERROR(TryParallelFor(blocks.size(), options_.threads,
                                      [&](size_t i) { return WriteBlock(writer, blocks[i]); }));
    return writer.Finish();
  }

 private:
  Status WriteBlock(SafetensorsWriter& writer, const Block& block) {
    thread_local std::vector<std::byte> buffer;
    const RandomTensor& t = tensors_[block.tensor];
    const uint64_t count =
        std::min(kBlock, static_cast<uint64_t>(Numel(t.info.shape)) - block.first);
    const uint64_t width = static_cast<uint64_t>(BitsOf(t.info.dtype)) / 8;
    buffer.resize(kBlock * sizeof(float));
    FillRandom(t.stream, options_.seed, t.info.dtype, t.norm_centre.value_or(0.0f),
               t.norm_centre ? 0.25f : scale_, block.first, count, buffer.data());
    const std::span<const std::byte> bytes(buffer.data(), count * width);
    WB_RETURN_IF_ERROR(writer.Write(block.tensor, block.first * width, bytes));
    if (options_.progress) options_.progress(bytes.size());
    return {};
  }

  const std::vector<RandomTensor>& tensors_;
  const RandomToyOptions& options_;
  const float scale_;
};

// What transformers derives from a config when it saves a model; empty without special tokens.
std::string GenerationConfig(const ordered_json& config) {
  ordered_json out = {{"_from_model_config", true}};
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    const auto token = config.find(key);
    if (token != config.end() && !token->is_null()) out[key] = *token;
  }
  return out.size() == 1 ? "" : DumpConfig(out);
}

Result<Model> ExpandToy(const FamilySpec& spec, const ordered_json& config, bool without_mtp) {
  ExpandOptions expand;
  expand.without_mtp = without_mtp;
  WB_TRY(Model model, Model::Expand(spec, nlohmann::json(config), expand));
  if (model.layers() < 1) {
    return Fail(ErrorKind::kUsage, "usage", "a model has at least one layer", "config.json");
  }
  return model;
}

}  // namespace

Result<Toy> MakeRandomToy(const FamilySpec& spec, const ordered_json& config,
                          const std::filesystem::path& target, const RandomToyOptions& options) {
  WB_TRY(const Model model, ExpandToy(spec, config, options.without_mtp));
  WB_TRY(const float scale, ScaleOf(config));
  WB_TRY(const std::vector<RandomTensor> tensors, TensorsOf(model, options.dtype));
  std::vector<TensorInfo> infos;
  for (const RandomTensor& t : tensors) infos.push_back(t.info);
  WB_TRY(SafetensorsPlan plan,
         PlanSafetensors(std::move(infos), {.max_shard_bytes = options.max_shard_bytes,
                                            .stem = WeightFileStem(config)}));
  Toy toy{.path = target,
          .family = spec.name,
          .layers = model.layers(),
          .tensors = tensors.size(),
          .files = plan.files.size(),
          .bytes = plan.total_size};
  for (const RandomTensor& t : tensors) {
    if (t.stream == t.info.name) toy.parameters += static_cast<uint64_t>(Numel(t.info.shape));
  }
  WB_TRY(AtomicDirectory folder,
         AtomicDirectory::Create(target, {.overwrite = options.overwrite,
                                          .may_replace = CheckReplaceable,
                                          .expected_bytes = plan.TotalFileBytes()}));
  WB_RETURN_IF_ERROR(folder.WriteFile("config.json", DumpConfig(config)));
  const std::string generation = GenerationConfig(config);
  if (!generation.empty())
    WB_RETURN_IF_ERROR(folder.WriteFile("generation_config.json", generation));
  WB_TRY(SafetensorsWriter writer, SafetensorsWriter::Create(folder.path(), std::move(plan)));
  WB_RETURN_IF_ERROR(RandomWriter(tensors, options, scale).Run(writer));
  WB_TRY(toy.published, folder.Commit());
  return toy;
}

}  // namespace weighbridge
