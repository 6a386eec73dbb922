#include "formats/torch_legacy/reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "base/strings.h"
#include "formats/megatron_config/common_state.h"
#include "formats/torch_file/torch_file.h"
#include "formats/torch_legacy/rank_folders.h"

namespace weighbridge {
namespace fs = std::filesystem;
namespace {

using pickle::Kind;
using pickle::Value;

constexpr char kNotOurs[] =
    "only models of Megatron-Core are read: their tensors stand flat under names like "
    "decoder.layers.0.self_attention.linear_qkv.weight";

constexpr size_t kMostParts = 4096;  // virtual stages of a rank

bool IsDict(const Value& value) {
  return value.is(Kind::kDict) || value.class_name() == "collections.OrderedDict";
}

std::string Printed(std::string_view text) {
  return CutMiddle(ToPrintable(text.substr(0, 400)), 80);
}

// A field of `args`, which is a Namespace, or a dict in files that were made by hand.
std::optional<int64_t> Argument(const std::optional<Value>& args, std::string_view name) {
  if (!args) return std::nullopt;
  const auto value = IsDict(*args) ? args->Get(name) : args->Attribute(name);
  if (!value || !value->is(Kind::kInt)) return std::nullopt;
  return value->integer();
}

// What the first rank's file says about all of them.
struct Recorded {
  std::optional<int64_t> tp, pp, ep, etp, iteration;
  bool args = false;
  std::optional<double> version;
};

Recorded ReadRecorded(const Value& root) {
  Recorded out;
  const auto args = root.Get("args");
  out.args = args.has_value();
  out.tp = Argument(args, "tensor_model_parallel_size");
  out.pp = Argument(args, "pipeline_model_parallel_size");
  out.ep = Argument(args, "expert_model_parallel_size");
  out.etp = Argument(args, "expert_tensor_parallel_size");
  const auto iteration = root.Get("iteration"), version = root.Get("checkpoint_version");
  if (iteration && iteration->is(Kind::kInt)) out.iteration = iteration->integer();
  if (version && (version->is(Kind::kFloat) || version->is(Kind::kInt))) {
    out.version = version->real();
  }
  return out;
}

// Reads one file's state dicts into a RankFile.
class RankFileReader {
 public:
  RankFileReader(const TorchFile& file, std::string where)
      : file_(file), where_(std::move(where)) {}

  // `objects`: names of what is no weight.
  Status Read(RankFile& rank, std::vector<std::string>& objects) const {
    const Value root = file_.root();
    if (!IsDict(root)) return Foreign("the file holds no dict");
    const bool several = !root.Get("model") && root.Get("model0");
    for (size_t i = 0;; ++i) {
      if (i == kMostParts) return Foreign("the file holds too many parts of a model");
      const auto model = root.Get(several ? fmt::format("model{}", i) : "model");
      if (!model && i > 0) break;
      if (!model) return Foreign("the file has neither 'model' nor 'model0'");
      WB_RETURN_IF_ERROR(ReadPart(*model, rank.parts.emplace_back(), objects));
      if (!several) break;
    }
    for (size_t i = 0; i < root.size(); ++i) {
      const std::string_view key = root.entry(i).first.text();
      if (!key.starts_with("model")) objects.push_back(Printed(key));
    }
    return {};
  }

 private:
  tl::unexpected<Error> Foreign(std::string what) const {
    return Fail(ErrorKind::kUnsupported, "unsupported-format", std::move(what), where_, kNotOurs);
  }

  Status ReadPart(const Value& dict, std::vector<RankTensor>& part,
                  std::vector<std::string>& objects) const {
    if (!IsDict(dict)) return Foreign("its model is no dict of tensors");
    for (size_t i = 0; i < dict.size(); ++i) {
      const auto [key, value] = dict.entry(i);
      const std::string_view name = key.text();
      if (name.ends_with("_extra_state")) {
        objects.push_back(Printed(name));
        continue;
      }
      if (!key.is(Kind::kString) || !TorchFile::IsTensor(value)) {
        return Foreign(fmt::format("'{}' of its model is not a tensor", Printed(name)));
      }
      WB_TRY(RankTensor tensor, ReadTensor(std::string(name), value));
      part.push_back(std::move(tensor));
    }
    const auto by_name = [](const auto& a, const auto& b) { return a.name < b.name; };
    std::sort(part.begin(), part.end(), by_name);
    for (size_t i = 1; i < part.size(); ++i) {
      if (part[i].name != part[i - 1].name) continue;
      return Corrupt("duplicate-name", fmt::format("'{}' is there twice", Printed(part[i].name)),
                     where_);
    }
    return {};
  }

  Result<RankTensor> ReadTensor(std::string name, const Value& value) const {
    auto tensor = file_.Tensor(value);
    if (!tensor) {
      Error error = std::move(tensor).error();
      error.what = fmt::format("'{}': {}", Printed(name), error.what);
      return Fail(std::move(error));
    }
    if (!tensor->contiguous) {
      return Fail(ErrorKind::kUnsupported, "strided",
                  fmt::format("'{}': its elements are not contiguous", Printed(name)), where_,
                  "save a contiguous copy of it");
    }
    return RankTensor{std::move(name), tensor->dtype, std::move(tensor->shape), tensor->offset,
                      tensor->nbytes};
  }

  const TorchFile& file_;
  const std::string where_;
};

// What two ranks of one stage hold alike.
std::vector<std::string> Names(const RankFile& rank) {
  std::vector<std::string> names;
  for (const auto& part : rank.parts) {
    for (const RankTensor& t : part) names.push_back(t.name);
  }
  return names;
}

}  // namespace

const RankTensor* RankFile::Find(size_t part, std::string_view name) const {
  if (part >= parts.size()) return nullptr;
  const auto it =
      std::lower_bound(parts[part].begin(), parts[part].end(), name,
                       [](const RankTensor& t, std::string_view n) { return t.name < n; });
  return it != parts[part].end() && it->name == name ? &*it : nullptr;
}

class TorchLegacyCheckpoint::Opener {
 public:
  explicit Opener(const fs::path& iteration) : out_(new TorchLegacyCheckpoint) {
    out_->path_ = iteration;
  }

  Result<std::unique_ptr<TorchLegacyCheckpoint>> Run() {
    WB_TRY(folders_, FindRankFolders(out_->path_));
    for (const RankFolder& folder : folders_) WB_RETURN_IF_ERROR(OpenFile(folder));
    WB_RETURN_IF_ERROR(PlaceRanks());
    WB_RETURN_IF_ERROR(CheckComplete());
    ListAll();
    Describe();
    return std::move(out_);
  }

 private:
  Status OpenFile(const RankFolder& folder) {
    const fs::path path = out_->path_ / folder.name / kRankFileName;
    auto mapped = MappedFile::Open(path);
    if (!mapped && mapped.error().kind == ErrorKind::kNotFound) {
      return Corrupt("shard-missing", "the rank's folder does not hold it", path.string());
    }
    if (!mapped) return Fail(std::move(mapped).error());
    WB_TRY(const TorchFile file, TorchFile::Open((*mapped)->bytes(), path.string()));
    RankFile rank;
    rank.folder = folder.name;
    WB_RETURN_IF_ERROR(RankFileReader(file, path.string()).Read(rank, objects_.emplace_back()));
    if (out_->ranks_.empty()) {
      recorded_ = ReadRecorded(file.root());
      out_->common_state_ = CommonStateOf(file.root());
    }
    if (!out_->ranks_.empty() && out_->ranks_[0].parts.size() != rank.parts.size()) {
      return Corrupt("header-corrupt",
                     fmt::format("it holds {} virtual stages, {} holds {}", rank.parts.size(),
                                 out_->ranks_[0].folder, out_->ranks_[0].parts.size()),
                     path.string());
    }
    out_->files_.push_back({path, (*mapped)->size(), file.LayoutHash()});
    out_->mappings_.push_back(std::move(*mapped));
    out_->ranks_.push_back(std::move(rank));
    return {};
  }

  // mp_rank_XX_YYY is of a pipeline or of experts.
  bool SecondIsExpert() const {
    const std::vector<int>& last = folders_.back().numbers;
    if (recorded_.pp.value_or(1) > 1) return false;
    if (recorded_.ep.value_or(1) > 1) return true;
    // Without args: ranks of experts hold the same names, stages do not.
    return last.size() == 2 && out_->ranks_.size() > 1 &&
           Names(out_->ranks_.front()) == Names(out_->ranks_.back());
  }

  Status PlaceRanks() {
    const size_t numbers = folders_[0].numbers.size();
    const bool expert = numbers == 2 && SecondIsExpert();
    for (size_t i = 0; i < folders_.size(); ++i) {
      const std::vector<int>& n = folders_[i].numbers;
      RankFile& rank = out_->ranks_[i];
      rank.tp = n[0];
      rank.pp = numbers == 3 || (numbers == 2 && !expert) ? n[1] : 0;
      rank.ep = numbers == 3 ? n[2] : expert ? n[1] : 0;
    }
    WB_TRY(out_->tp_, SizeOf("tensor_model_parallel_size", recorded_.tp, &RankFile::tp));
    WB_TRY(out_->pp_, SizeOf("pipeline_model_parallel_size", recorded_.pp, &RankFile::pp));
    WB_TRY(out_->ep_, SizeOf("expert_model_parallel_size", recorded_.ep, &RankFile::ep));
    if (!recorded_.args) return {};
    // Megatron's default is the tensor-parallel size.
    const int64_t etp = recorded_.etp.value_or(out_->tp_);
    if (etp < 1 || out_->tp_ % etp != 0) {
      return Fail(ErrorKind::kUnsupported, "unsupported-format",
                  fmt::format("expert_tensor_parallel_size is {}, which does not divide "
                              "tensor_model_parallel_size {}: the files' names cannot tell its "
                              "ranks apart",
                              etp, out_->tp_),
                  out_->files_[0].path.string());
    }
    out_->etp_ = static_cast<int>(etp);
    return {};
  }

  Result<int> SizeOf(const char* field, std::optional<int64_t> recorded, int RankFile::*rank) {
    int found = 0;
    for (const RankFile& r : out_->ranks_) found = std::max(found, r.*rank + 1);
    if (!recorded) return found;
    if (*recorded >= 1 && *recorded < found) {
      return Corrupt(
          "header-corrupt",
          fmt::format("{} is {} in args, and there is a rank {}", field, *recorded, found - 1),
          out_->path_.string());
    }
    // A file for each of so many ranks cannot be missing: nobody has that many.
    constexpr int64_t kMost = 1 << 14;
    if (*recorded < 1 || *recorded > kMost) {
      return Corrupt("header-corrupt", fmt::format("{} is {} in args", field, *recorded),
                     out_->files_[0].path.string());
    }
    return static_cast<int>(*recorded);
  }

  // Every part of the model has a file that holds it: each tensor rank of each stage, and each
  // rank of the experts.
  Status CheckComplete() const {
    std::set<std::array<int, 2>> dense;
    std::set<std::array<int, 3>> experts;
    const int etp = out_->etp_.value_or(1);
    for (const RankFile& r : out_->ranks_) {
      dense.insert({r.pp, r.tp});
      experts.insert({r.pp, r.ep, r.tp % etp});
    }
    for (int pp = 0; pp < out_->pp_; ++pp) {
      for (int tp = 0; tp < out_->tp_; ++tp) {
        if (!dense.contains({pp, tp})) return Missing(tp, pp, tp / etp % out_->ep_);
      }
      for (int ep = 0; ep < out_->ep_; ++ep) {
        for (int q = 0; q < etp; ++q) {
          if (!experts.contains({pp, ep, q})) return Missing((ep * etp + q) % out_->tp_, pp, ep);
        }
      }
    }
    return {};
  }

  Status Missing(int tp, int pp, int ep) const {
    const std::string folder = RankFolderName(tp, pp, ep, out_->pp_, out_->ep_);
    return Corrupt("shard-missing",
                   fmt::format("there is no file of rank tp {} pp {} ep {} (TP {} x PP {} x EP {})",
                               tp, pp, ep, out_->tp_, out_->pp_, out_->ep_),
                   (out_->path_ / folder / kRankFileName).string());
  }

  void ListAll() {
    DistMetadata& metadata = out_->metadata_;
    for (size_t i = 0; i < out_->ranks_.size(); ++i) {
      const RankFile& rank = out_->ranks_[i];
      metadata.files.push_back(fmt::format("{}/{}", rank.folder, kRankFileName));
      for (size_t part = 0; part < rank.parts.size(); ++part) {
        const std::string prefix = rank.parts.size() > 1
                                       ? fmt::format("{}/model{}/", rank.folder, part)
                                       : rank.folder + "/";
        for (const RankTensor& t : rank.parts[part]) {
          DistChunk chunk{
              Shape(t.shape.size(), 0), t.shape, {static_cast<uint32_t>(i), t.offset, t.nbytes}};
          metadata.tensors.push_back({prefix + t.name, t.dtype, t.shape, {std::move(chunk)}});
        }
      }
      for (const std::string& name : objects_[i]) {
        metadata.objects.push_back({fmt::format("{}.{}", name, rank.folder), {}});
      }
    }
    const auto by_key = [](const auto& a, const auto& b) { return a.key < b.key; };
    std::sort(metadata.tensors.begin(), metadata.tensors.end(), by_key);
    std::sort(metadata.objects.begin(), metadata.objects.end(), by_key);
  }

  void Describe() {
    std::string grid = fmt::format("TP {} x PP {}", out_->tp_, out_->pp_);
    if (out_->vpp() > 1) grid += fmt::format(" x VPP {}", out_->vpp());
    grid += fmt::format(" x EP {}", out_->ep_);
    if (out_->etp_) grid += fmt::format(" x ETP {}", *out_->etp_);
    out_->details_.emplace_back("saved grid", grid);
    out_->details_.emplace_back("rank files", fmt::format("{}", out_->ranks_.size()));
    if (recorded_.iteration) {
      out_->details_.emplace_back("iteration", fmt::format("{}", *recorded_.iteration));
    }
    if (recorded_.version) {
      out_->details_.emplace_back("checkpoint version", fmt::format("{:.1f}", *recorded_.version));
    }
  }

  std::unique_ptr<TorchLegacyCheckpoint> out_;
  std::vector<RankFolder> folders_;
  std::vector<std::vector<std::string>> objects_;  // per file: what is no weight
  Recorded recorded_;
};

Result<std::unique_ptr<TorchLegacyCheckpoint>> TorchLegacyCheckpoint::Open(
    const fs::path& iteration) {
  return Opener(iteration).Run();
}

std::span<const std::byte> TorchLegacyCheckpoint::Bytes(const StoredBytes& stored) const {
  return mappings_[stored.file]->bytes().subspan(stored.offset, stored.length);
}

Result<std::span<const std::byte>> TorchLegacyCheckpoint::Data(const DistTensor&,
                                                               const DistChunk& chunk) const {
  return Bytes(chunk.stored);
}

std::optional<RankPlace> TorchLegacyCheckpoint::PlaceOf(const StoredBytes& stored) const {
  const RankFile& rank = ranks_[stored.file];
  for (size_t part = 0; part < rank.parts.size(); ++part) {
    for (const RankTensor& t : rank.parts[part]) {
      if (stored.offset < t.offset || stored.offset + stored.length > t.offset + t.nbytes) continue;
      RankPlace place{rank.tp, rank.pp, static_cast<int>(part), rank.ep, 0, rank.folder, t.name,
                      t.shape, 0};
      place.etp = rank.tp % etp_.value_or(1);
      place.first_element = static_cast<int64_t>(stored.offset - t.offset) * 8 / BitsOf(t.dtype);
      return place;
    }
  }
  return std::nullopt;
}

}  // namespace weighbridge
