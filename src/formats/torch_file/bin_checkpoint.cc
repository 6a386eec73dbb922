#include "formats/torch_file/bin_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <system_error>
#include <tuple>
#include <utility>

#include "base/checked.h"
#include "base/file.h"
#include "base/strings.h"
#include "formats/safetensors/index.h"
#include "formats/shards.h"
#include "formats/torch_file/contiguous.h"
#include "formats/torch_file/state_dict.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

constexpr char kModelFile[] = "pytorch_model.bin";
constexpr char kModelIndex[] = "pytorch_model.bin.index.json";

// A tensor that is not contiguous in its file.
struct Strided {
  TorchTensor tensor;
  std::once_flag once;
  std::vector<std::byte> copy;
};

class BinCheckpoint final : public Checkpoint {
 public:
  explicit BinCheckpoint(fs::path path) : path_(std::move(path)) {}

  const fs::path& path() const override { return path_; }
  std::string_view format() const override { return "pytorch"; }
  const std::vector<FileInfo>& files() const override { return files_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  std::span<const std::byte> Data(const TensorInfo& tensor) const override {
    const auto bytes = mappings_[tensor.file]->bytes();
    Strided* strided = FindStrided(tensor);
    if (strided == nullptr) return bytes.subspan(tensor.offset, tensor.nbytes);
    std::call_once(strided->once, [&] { strided->copy = CopyContiguous(strided->tensor, bytes); });
    return strided->copy;
  }
  void DropBehind(const TensorInfo& tensor) const override {
    if (FindStrided(tensor) == nullptr) {
      mappings_[tensor.file]->DropBehind(tensor.offset, tensor.nbytes);
    }
  }
  std::vector<fs::path> extra_files() const override { return extra_; }
  std::vector<CheckpointNote> notes() const override { return notes_; }

  // Adds one file and all its tensors; call Finish() after the last.
  Status AddFile(const fs::path& path) {
    WB_TRY(auto mapping, MappedFile::Open(path));
    WB_TRY(const TorchFile file, TorchFile::Open(mapping->bytes(), path.string()));
    WB_TRY(StateDict dict, ReadStateDict(file, path.string()));
    if (!dict.key.empty()) {
      AddNote({"nested-state-dict",
               fmt::format("{} holds more than weights: only what is under '{}' is read",
                           path.string(), dict.key)});
    }
    const auto number = static_cast<uint32_t>(files_.size());
    files_.push_back({path, mapping->size(), file.LayoutHash()});
    mappings_.push_back(std::move(mapping));
    for (NamedTorchTensor& named : dict.tensors) {
      WB_RETURN_IF_ERROR(AddTensor(std::move(named), number));
    }
    return {};
  }

  // Sorts the inventory; a name that is there twice is duplicate-name.
  Status Finish() {
    std::sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) {
      return std::tie(a.name, a.file) < std::tie(b.name, b.file);
    });
    if (!strided_.empty()) {
      AddNote({"not-contiguous",
               fmt::format("{} tensors are not contiguous in their file, the first is '{}': {} "
                           "are copied into memory when they are read",
                           strided_.size(), std::get<1>(strided_.begin()->first),
                           FormatBytes(strided_bytes_))});
    }
    return CheckNamesUnique(*this);
  }

  void AddNote(CheckpointNote note) { notes_.push_back(std::move(note)); }
  void AddExtraFiles(std::vector<fs::path> extra) {
    if (auto note = ExtraFilesNote(extra)) AddNote(std::move(*note));
    extra_ = std::move(extra);
  }

 private:
  Status AddTensor(NamedTorchTensor named, uint32_t file) {
    TorchTensor& tensor = named.tensor;
    TensorInfo info{named.name, tensor.dtype, tensor.shape, file, tensor.offset, tensor.nbytes};
    if (!tensor.contiguous) {
      const auto sum = CheckedAdd(strided_bytes_, tensor.nbytes);
      if (!sum || *sum > kMaxCopiedBytes) {
        return Fail(ErrorKind::kUnsupported, "unsupported-tensor",
                    fmt::format("tensor '{}' of {} is not contiguous in the file, and no more than "
                                "{} of such tensors are copied into memory",
                                ToPrintable(named.name), FormatBytes(tensor.nbytes),
                                FormatBytes(kMaxCopiedBytes)),
                    files_[file].path.string(),
                    "save the state dict again with .contiguous() tensors");
      }
      strided_bytes_ = *sum;
      auto strided = std::make_unique<Strided>();
      strided->tensor = std::move(tensor);
      strided_.emplace(std::pair(file, named.name), std::move(strided));
    }
    tensors_.push_back(std::move(info));
    return {};
  }

  Strided* FindStrided(const TensorInfo& tensor) const {
    if (strided_.empty()) return nullptr;
    const auto found = strided_.find(std::pair(tensor.file, tensor.name));
    return found == strided_.end() ? nullptr : found->second.get();
  }

  fs::path path_;
  std::vector<FileInfo> files_;
  std::vector<std::shared_ptr<const MappedFile>> mappings_;
  std::vector<TensorInfo> tensors_;
  std::map<std::pair<uint32_t, std::string>, std::unique_ptr<Strided>> strided_;
  uint64_t strided_bytes_ = 0;
  std::vector<fs::path> extra_;
  std::vector<CheckpointNote> notes_;
};

// Files of the folder that look like weights of this format and are not among `used`. Optimizer and
// trainer files (training_args.bin, optimizer.pt) are none.
std::vector<fs::path> OtherWeights(const fs::path& folder, const std::vector<std::string>& used) {
  std::vector<fs::path> others;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!name.starts_with("pytorch_model") || !name.ends_with(".bin")) continue;
    if (std::find(used.begin(), used.end(), name) == used.end()) others.push_back(it->path());
  }
  std::sort(others.begin(), others.end());
  return others;
}

Result<std::unique_ptr<Checkpoint>> OpenFile(const fs::path& path, const fs::path& file) {
  auto checkpoint = std::make_unique<BinCheckpoint>(path);
  WB_RETURN_IF_ERROR(checkpoint->AddFile(file));
  WB_RETURN_IF_ERROR(checkpoint->Finish());
  if (path != file) {
    checkpoint->AddExtraFiles(OtherWeights(path, {file.filename().string()}));
  }
  return checkpoint;
}

Result<std::unique_ptr<Checkpoint>> OpenIndex(const fs::path& path, const fs::path& index_path) {
  WB_TRY(const SafetensorsIndex index, ReadSafetensorsIndex(index_path, ".bin"));
  const fs::path folder = index_path.has_parent_path() ? index_path.parent_path() : fs::path(".");
  WB_RETURN_IF_ERROR(CheckShardsPresent(folder, index.shards, index_path.filename().string()));
  auto checkpoint = std::make_unique<BinCheckpoint>(path);
  for (const std::string& shard : index.shards) {
    WB_RETURN_IF_ERROR(checkpoint->AddFile(folder / shard));
  }
  WB_RETURN_IF_ERROR(checkpoint->Finish());
  WB_RETURN_IF_ERROR(CheckAgainstIndex(*checkpoint, index, index_path));
  if (auto note = TotalSizeNote(*checkpoint, index, index_path)) {
    checkpoint->AddNote(std::move(*note));
  }
  if (path != index_path) checkpoint->AddExtraFiles(OtherWeights(folder, index.shards));
  return checkpoint;
}

bool Exists(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

bool IsFolder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

}  // namespace

bool ProbeTorchBin(const fs::path& path) {
  if (IsFolder(path)) return Exists(path / kModelFile) || Exists(path / kModelIndex);
  const std::string name = path.filename().string();
  for (const auto* suffix : {".bin", ".pt", ".pth", ".bin.index.json"}) {
    if (name.ends_with(suffix)) return true;
  }
  const auto file = MappedFile::Open(path);
  constexpr char kZip[] = "PK\x03\x04";
  return file && (*file)->size() >= 4 &&
         std::equal(kZip, kZip + 4, reinterpret_cast<const char*>((*file)->bytes().data()));
}

Result<std::unique_ptr<Checkpoint>> OpenTorchBin(const fs::path& path) {
  if (!IsFolder(path)) {
    return path.string().ends_with(".index.json") ? OpenIndex(path, path) : OpenFile(path, path);
  }
  const fs::path index_path = path / kModelIndex;
  if (!Exists(index_path)) return OpenFile(path, path / kModelFile);
  if (Exists(path / kModelFile)) {
    WB_TRY(const SafetensorsIndex index, ReadSafetensorsIndex(index_path, ".bin"));
    if (std::find(index.shards.begin(), index.shards.end(), kModelFile) == index.shards.end()) {
      return Fail(ErrorKind::kUsage, "ambiguous-model",
                  fmt::format("the folder holds more than one set of weights: {}, {}", kModelIndex,
                              kModelFile),
                  path.string(),
                  fmt::format("name the file that is meant, for example {}", index_path.string()));
    }
  }
  return OpenIndex(path, index_path);
}

}  // namespace weighbridge
