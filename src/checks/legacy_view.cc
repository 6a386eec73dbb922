#include "checks/legacy_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <utility>

#include "formats/torch_legacy/reader.h"
#include "mapping/boxes.h"

namespace weighbridge {
namespace {

// What the names of layers begin with, "decoder.layers."; "" when the model has none in that place.
std::string PrefixOf(const Model& model, Place place) {
  for (const Parameter& p : model.parameters()) {
    if (p.place == place && p.stack != nullptr) {
      return p.stack->megatron.substr(0, p.stack->megatron.find("{layer}"));
    }
  }
  return "";
}

// The number behind `prefix`, and -1 for a name that has none.
int64_t LayerOf(std::string_view name, std::string_view prefix) {
  if (prefix.empty() || !name.starts_with(prefix)) return -1;
  name.remove_prefix(prefix.size());
  int64_t layer = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  const bool good = error == std::errc() && end != name.data() + name.size() && *end == '.';
  return good && layer >= 0 && layer < (1 << 20) ? layer : -1;
}

// One virtual stage of one pipeline rank.
struct Part {
  int pp = 0;
  size_t vpp = 0;
  int64_t first_layer = 0, layers = 0;  // of the decoder
  int64_t first_mtp = 0, mtp_layers = 0;
};

class View final : public MegatronCheckpoint {
 public:
  explicit View(std::shared_ptr<const MegatronCheckpoint> files) : files_(std::move(files)) {}

  const std::filesystem::path& path() const override { return files_->path(); }
  std::string_view format() const override { return files_->format(); }
  const DistMetadata& metadata() const override { return metadata_; }
  Result<std::span<const std::byte>> Data(const DistTensor& tensor,
                                          const DistChunk& chunk) const override {
    return files_->Data(tensor, chunk);
  }
  std::span<const std::byte> Stored(const DistObject& object) const override {
    return files_->Stored(object);
  }
  Result<nlohmann::json> CommonState() const override { return files_->CommonState(); }
  std::vector<FileInfo> identity() const override { return files_->identity(); }
  std::span<const ChunkCopy> copies() const override { return copies_; }
  std::span<const RankFault> faults() const override { return faults_; }
  std::optional<RankPlace> PlaceOf(const StoredBytes& stored) const override {
    return files_->PlaceOf(stored);
  }
  std::vector<std::pair<std::string, std::string>> details() const override {
    return files_->details();
  }

 private:
  friend class Viewer;
  std::shared_ptr<const MegatronCheckpoint> files_;
  DistMetadata metadata_;
  std::vector<ChunkCopy> copies_;
  std::vector<RankFault> faults_;
};

class Viewer {
 public:
  Viewer(const Model& model, std::shared_ptr<const MegatronCheckpoint> files)
      : model_(model),
        ranks_(*files->rank_files()),
        decoder_(PrefixOf(model, Place::kDecoder)),
        mtp_(PrefixOf(model, Place::kMtp)),
        stages_(static_cast<size_t>(ranks_.pp())),
        out_(new View(std::move(files))) {
    for (size_t i = 0; i < ranks_.ranks().size(); ++i) {
      stages_[static_cast<size_t>(ranks_.ranks()[i].pp)].push_back(i);
    }
  }

  Result<std::unique_ptr<MegatronCheckpoint>> Run() {
    WB_RETURN_IF_ERROR(FindEtp());
    CountLayers();
    for (const Parameter& p : model_.parameters()) Add(p);
    AddTiedCopy();
    AddLeftovers();
    Sort();
    out_->metadata_.files = ranks_.metadata().files;
    out_->metadata_.objects = ranks_.metadata().objects;
    return std::unique_ptr<MegatronCheckpoint>(std::move(out_));
  }

 private:
  struct Found {
    size_t file;
    const RankTensor* tensor;
  };

  // Without args: the experts' shapes say it, where they are cut at all.
  Status FindEtp() {
    etp_ = ranks_.etp().value_or(ranks_.tp());
    if (ranks_.etp() || ranks_.tp() == 1) return {};
    for (const Parameter& p : model_.parameters()) {
      if (!p.is_expert() || p.cut.replicated()) continue;
      return Fail(ErrorKind::kUnsupported, "unsupported-format",
                  "the files have no args that say how the experts are cut "
                  "(expert_tensor_parallel_size)",
                  ranks_.path().string());
    }
    return {};
  }

  const std::vector<size_t>& Files(const Part& part) const {
    return stages_[static_cast<size_t>(part.pp)];
  }

  void CountLayers() {
    int64_t layer = 0, mtp = 0;
    for (int v = 0; v < ranks_.vpp(); ++v) {
      for (int pp = 0; pp < ranks_.pp(); ++pp) {
        Part part{pp, static_cast<size_t>(v), layer, 0, mtp, 0};
        for (size_t i : Files(part)) {
          for (const RankTensor& t : ranks_.ranks()[i].parts[part.vpp]) {
            part.layers = std::max(part.layers, LayerOf(t.name, decoder_) + 1);
            part.mtp_layers = std::max(part.mtp_layers, LayerOf(t.name, mtp_) + 1);
          }
        }
        layer += part.layers;
        mtp += part.mtp_layers;
        parts_.push_back(part);
      }
    }
  }

  void Add(const Parameter& p) {
    bool first = true;
    for (const Part& part : parts_) {
      int64_t layer = p.layer;
      if (p.place == Place::kDecoder || p.place == Place::kMtp) {
        const bool mtp = p.place == Place::kMtp;
        layer = p.layer - (mtp ? part.first_mtp : part.first_layer);
        if (layer < 0 || layer >= (mtp ? part.mtp_layers : part.layers)) continue;
      }
      for (const Dialect dialect : {Dialect::kTe, Dialect::kLocal}) {
        if (Collect(p, part, dialect, layer, first)) {
          first = false;
          break;
        }
      }
    }
  }

  int64_t ExpertsPerRank(const Parameter& p) const {
    return std::max<int64_t>(1, p.experts / ranks_.ep());
  }

  // True when any rank of the stage has the tensor. The ranks of the first stage that has it are
  // where it is stored; all others hold copies (the embedding beside MTP layers).
  bool Collect(const Parameter& p, const Part& part, Dialect dialect, int64_t layer, bool first) {
    const int64_t per_rank = ExpertsPerRank(p);
    const std::string name =
        model_.MegatronName(p, dialect, layer, p.is_expert() ? p.expert % per_rank : 0);
    std::map<int, std::vector<Found>> shards;  // by rank in the group that cuts it
    std::vector<const RankFile*> without;
    for (size_t i : Files(part)) {
      const RankFile& rank = ranks_.ranks()[i];
      if (p.is_expert() && rank.ep != p.expert / per_rank) continue;
      const RankTensor* tensor = rank.Find(part.vpp, name);
      if (tensor == nullptr) {
        without.push_back(&rank);
        continue;
      }
      used_.insert(tensor);
      const int shard = p.cut.replicated() ? 0 : p.is_expert() ? rank.tp % etp_ : rank.tp;
      shards[shard].push_back({i, tensor});
    }
    if (shards.empty()) return false;
    for (const RankFile* rank : without) {
      AddFault("tensor-missing", name,
               fmt::format("{} lacks '{}', which other ranks have", rank->folder, name));
    }
    const int group = p.cut.replicated() ? 1 : p.is_expert() ? etp_ : ranks_.tp();
    if (static_cast<int>(shards.size()) == group) {
      AddTensor(p, model_.MegatronName(p, dialect), name, shards, group, first);
    }
    return true;
  }

  void AddFault(std::string id, std::string where, std::string message) {
    out_->faults_.push_back({std::move(id), std::move(where), std::move(message)});
  }

  void AddTensor(const Parameter& p, std::string key, const std::string& name,
                 const std::map<int, std::vector<Found>>& shards, int group, bool first) {
    DistTensor tensor{std::move(key), shards.begin()->second[0].tensor->dtype, p.shape, {}};
    if (!Fits(p, name, shards, group, tensor)) {
      if (first) tensors_.push_back(std::move(tensor));
      return;
    }
    const int64_t element = BitsOf(tensor.dtype) / 8;
    const size_t number = first ? tensors_.size() : IndexOf(tensor.key);
    if (number > tensors_.size()) return;
    for (const auto& [shard, found] : shards) {
      const std::vector<TensorBox> boxes = RankBoxes(p.shape, p.cut, group, shard);
      for (size_t i = 0; i < found.size(); ++i) {
        uint64_t offset = found[i].tensor->offset;
        for (const TensorBox& box : boxes) {
          const auto bytes = static_cast<uint64_t>(Numel(box.sizes) * element);
          DistChunk chunk{
              box.offsets, box.sizes, {static_cast<uint32_t>(found[i].file), offset, bytes}};
          offset += bytes;
          if (first && i == 0) {
            tensor.chunks.push_back(std::move(chunk));
          } else {
            copies_.push_back({number, std::move(chunk)});
          }
        }
      }
    }
    if (!first) return;
    std::sort(tensor.chunks.begin(), tensor.chunks.end(),
              [](const DistChunk& a, const DistChunk& b) { return a.offsets < b.offsets; });
    tensors_.push_back(std::move(tensor));
  }

  // Of a tensor that is there already; beyond all when there is none.
  size_t IndexOf(const std::string& key) const {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (tensors_[i].key == key) return tensors_[i].chunks.empty() ? SIZE_MAX : i;
    }
    return SIZE_MAX;
  }

  // All ranks hold it in the shape and dtype that the cut gives them. Otherwise a fault names the
  // rank, and `tensor` gets the shape that the ranks' shapes would give, where they are alike (a
  // padded vocabulary shows so), and no chunks.
  bool Fits(const Parameter& p, const std::string& name,
            const std::map<int, std::vector<Found>>& shards, int group, DistTensor& tensor) {
    if (const Status cut = CheckCut(p.shape, p.cut, group); !cut) {
      AddFault("shape-mismatch", name, fmt::format("'{}': {}", name, cut.error().what));
      tensor.shape = WholeShape(p, shards.begin()->second[0].tensor->shape, shards, group);
      return false;
    }
    const Shape expected = CutShape(p.shape, p.cut, group);
    for (const auto& [shard, found] : shards) {
      for (const Found& f : found) {
        if (f.tensor->shape == expected && f.tensor->dtype == tensor.dtype) continue;
        const std::string cut = p.cut.replicated() ? "not cut"
                                                   : fmt::format("shard {} of {} along axis {}",
                                                                 shard, group, p.cut.axis);
        AddFault("shape-mismatch", name,
                 fmt::format("{} holds '{}' as {} {}, expected {} {} ({} of {})",
                             ranks_.ranks()[f.file].folder, name, ShortName(f.tensor->dtype),
                             ToString(f.tensor->shape), ShortName(tensor.dtype), ToString(expected),
                             cut, ToString(p.shape)));
        tensor.shape = WholeShape(p, f.tensor->shape, shards, group);
        return false;
      }
    }
    return true;
  }

  // What the ranks' shapes would give; `one` where they are not alike.
  static Shape WholeShape(const Parameter& p, Shape one,
                          const std::map<int, std::vector<Found>>& shards, int group) {
    const auto axis = static_cast<size_t>(std::max(p.cut.axis, 0));
    if (Alike(shards) && !p.cut.replicated() && axis < one.size() &&
        one[axis] < INT64_MAX / group) {
      one[axis] *= group;
    }
    return one;
  }

  static bool Alike(const std::map<int, std::vector<Found>>& shards) {
    const Shape& shape = shards.begin()->second[0].tensor->shape;
    for (const auto& [shard, found] : shards) {
      for (const Found& f : found) {
        if (f.tensor->shape != shape) return false;
      }
    }
    return true;
  }

  // The last stage's own copy of a tied model's embedding.
  void AddTiedCopy() {
    if (!model_.tied()) return;
    const auto embedding = std::find_if(
        model_.parameters().begin(), model_.parameters().end(), [](const Parameter& p) {
          return p.place == Place::kFirst && p.storage->transform == "pad_vocab";
        });
    if (embedding == model_.parameters().end()) return;
    for (const Part& part : parts_) {
      std::map<int, std::vector<Found>> shards;
      for (size_t i : Files(part)) {
        const RankFile& rank = ranks_.ranks()[i];
        const RankTensor* tensor = rank.Find(part.vpp, model_.tied_megatron());
        if (tensor == nullptr) continue;
        used_.insert(tensor);
        shards[rank.tp].push_back({i, tensor});
      }
      if (static_cast<int>(shards.size()) != ranks_.tp()) continue;
      AddTensor(*embedding, model_.tied_megatron(), model_.tied_megatron(), shards, ranks_.tp(),
                true);
      return;
    }
  }

  // What no parameter explains, once per stage.
  void AddLeftovers() {
    std::set<std::string> keys;
    for (const DistTensor& t : tensors_) keys.insert(t.key);
    for (const Part& part : parts_) {
      std::set<std::string> of_part;
      for (size_t i : Files(part)) {
        const RankFile& rank = ranks_.ranks()[i];
        for (const RankTensor& t : rank.parts[part.vpp]) {
          if (used_.contains(&t) || !of_part.insert(t.name).second) continue;
          std::string key = GlobalName(t.name, part);
          if (!keys.insert(key).second) key += fmt::format(" ({})", rank.folder);
          tensors_.push_back({std::move(key), t.dtype, t.shape, {}});
        }
      }
    }
  }

  std::string GlobalName(const std::string& name, const Part& part) const {
    const int64_t local = LayerOf(name, decoder_);
    if (local < 0) return name;
    const size_t dot = name.find('.', decoder_.size());
    return fmt::format("{}{}{}", decoder_, part.first_layer + local, name.substr(dot));
  }

  void Sort() {
    std::vector<size_t> order(tensors_.size()), place(tensors_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(),
              [&](size_t a, size_t b) { return tensors_[a].key < tensors_[b].key; });
    std::vector<DistTensor>& sorted = out_->metadata_.tensors;
    sorted.reserve(order.size());
    for (size_t i = 0; i < order.size(); ++i) {
      place[order[i]] = i;
      sorted.push_back(std::move(tensors_[order[i]]));
    }
    for (auto& [number, chunk] : copies_) {
      const DistTensor& tensor = sorted[place[number]];
      const auto of =
          std::find_if(tensor.chunks.begin(), tensor.chunks.end(),
                       [&c = chunk](const DistChunk& other) { return other.offsets == c.offsets; });
      out_->copies_.push_back(
          {&tensor, static_cast<size_t>(of - tensor.chunks.begin()), chunk.stored});
    }
  }

  const Model& model_;
  const TorchLegacyCheckpoint& ranks_;
  const std::string decoder_, mtp_;
  std::vector<std::vector<size_t>> stages_;  // the files of each pipeline rank
  std::unique_ptr<View> out_;
  int etp_ = 1;
  std::vector<Part> parts_;  // in the order of the layers
  std::vector<DistTensor> tensors_;
  std::vector<std::pair<size_t, DistChunk>> copies_;  // index into tensors_
  std::set<const RankTensor*> used_;
};

}  // namespace

Result<std::unique_ptr<MegatronCheckpoint>> ViewAsGlobal(
    const Model& model, std::shared_ptr<const MegatronCheckpoint> files) {
  return Viewer(model, std::move(files)).Run();
}

}  // namespace weighbridge
