#include "formats/torch_dist/reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <system_error>

#include "base/checked.h"
#include "base/hash.h"
#include "formats/megatron_config/common_state.h"
#include "formats/torch_dist/fsdp_names.h"

namespace weighbridge {
namespace fs = std::filesystem;
namespace {

constexpr char kMetadataName[] = ".metadata";
constexpr char kCommonName[] = "common.pt";
constexpr std::string_view kCommonEntry = "common_state/";

std::vector<fs::path> UnknownFiles(const fs::path& folder, const DistMetadata& metadata) {
  const std::set<std::string> known(metadata.files.begin(), metadata.files.end());
  std::vector<fs::path> extra;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.ends_with(".distcp") && !known.contains(name)) extra.push_back(it->path());
  }
  std::sort(extra.begin(), extra.end());
  return extra;
}

// A name in .metadata must stay in the folder.
bool StaysInside(const std::string& name) {
  const fs::path path(name);
  if (name.empty() || path.is_absolute()) return false;
  return std::none_of(path.begin(), path.end(), [](const fs::path& p) { return p == ".."; });
}

}  // namespace

Result<std::unique_ptr<TorchDistCheckpoint>> TorchDistCheckpoint::Open(const fs::path& folder) {
  std::unique_ptr<TorchDistCheckpoint> out(new TorchDistCheckpoint);
  out->folder_ = folder;
  const fs::path path = folder / kMetadataName;
  WB_TRY(const auto file, MappedFile::Open(path));
  WB_TRY(out->metadata_, ParseDistMetadata(file->bytes(), path.string()));
  out->fsdp_ = TakeFsdpNames(out->metadata_);
  out->metadata_file_ = {path, file->size(), Xxh3Hex(file->bytes())};
  for (const std::string& name : out->metadata_.files) {
    if (!StaysInside(name)) {
      return Corrupt("header-corrupt", fmt::format("it names '{}', which is outside", name),
                     path.string());
    }
    auto data = MappedFile::Open(folder / name);
    if (!data && data.error().kind == ErrorKind::kNotFound) {
      return Corrupt("shard-missing", fmt::format("{} names it and it is not there", kMetadataName),
                     (folder / name).string());
    }
    if (!data) return Fail(std::move(data).error());
    out->files_.push_back(std::move(*data));
  }
  const auto fits = [&](const StoredBytes& s) {
    const auto end = CheckedAdd(s.offset, s.length);
    return end && *end <= out->files_[s.file]->size();
  };
  const auto truncated = [&](const StoredBytes& s, const std::string& key) {
    return Corrupt("file-truncated",
                   fmt::format("'{}' is at {} + {}, the file has {} bytes", key, s.offset, s.length,
                               out->files_[s.file]->size()),
                   out->files_[s.file]->path().string());
  };
  for (const DistTensor& tensor : out->metadata_.tensors) {
    for (const DistChunk& chunk : tensor.chunks) {
      if (!fits(chunk.stored)) return truncated(chunk.stored, tensor.key);
    }
  }
  for (const DistObject& object : out->metadata_.objects) {
    if (!fits(object.stored)) return truncated(object.stored, object.key);
  }
  out->extra_files_ = UnknownFiles(folder, out->metadata_);
  return out;
}

Result<TorchFile> TorchDistCheckpoint::OpenEntry(const StoredBytes& stored,
                                                 const std::string& key) const {
  const MappedFile& file = *files_[stored.file];
  return TorchFile::Open(file.bytes().subspan(stored.offset, stored.length),
                         fmt::format("{}:{} ({})", file.path().string(), stored.offset, key));
}

Result<std::span<const std::byte>> TorchDistCheckpoint::Data(const DistTensor& tensor,
                                                             const DistChunk& chunk) const {
  WB_TRY(const TorchFile file, OpenEntry(chunk.stored, tensor.key));
  const auto at = [&] {
    return fmt::format("{}:{}", files_[chunk.stored.file]->path().string(), chunk.stored.offset);
  };
  if (!TorchFile::IsTensor(file.root())) {
    return Corrupt("header-corrupt", fmt::format("'{}': the entry is no tensor", tensor.key), at());
  }
  WB_TRY(const TorchTensor found, file.Tensor(file.root()));
  if (found.dtype != tensor.dtype || found.shape != chunk.sizes) {
    return Corrupt("shape-mismatch",
                   fmt::format("'{}': .metadata says {} {}, the entry holds {} {}", tensor.key,
                               ShortName(tensor.dtype), ToString(chunk.sizes),
                               ShortName(found.dtype), ToString(found.shape)),
                   at());
  }
  if (!found.contiguous) {
    return Fail(ErrorKind::kUnsupported, "strided",
                fmt::format("'{}': its elements are not contiguous", tensor.key), at());
  }
  return file.bytes().subspan(found.offset, found.nbytes);
}

std::span<const std::byte> TorchDistCheckpoint::Stored(const DistObject& object) const {
  return files_[object.stored.file]->bytes().subspan(object.stored.offset, object.stored.length);
}

Result<nlohmann::json> TorchDistCheckpoint::CommonState() const {
  const fs::path path = folder_ / kCommonName;
  std::error_code error;
  if (fs::exists(path, error)) {
    WB_TRY(const auto file, MappedFile::Open(path));
    WB_TRY(const TorchFile common, TorchFile::Open(file->bytes(), path.string()));
    return CommonStateOf(common.root());
  }
  for (const DistObject& object : metadata_.objects) {
    if (!object.key.starts_with(kCommonEntry)) continue;
    WB_TRY(const TorchFile common, Object(object));
    return CommonStateOf(common.root());
  }
  return nlohmann::json::object();
}

Result<TorchFile> TorchDistCheckpoint::Object(const DistObject& object) const {
  return OpenEntry(object.stored, object.key);
}

}  // namespace weighbridge
