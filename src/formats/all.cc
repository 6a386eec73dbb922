#include "formats/all.h"

#include <fmt/format.h>

#include <array>
#include <system_error>

#include "base/file.h"
#include "formats/hub_cache.h"
#include "formats/safetensors/layout.h"
#include "formats/safetensors/reader.h"
#include "formats/torch_file/bin_checkpoint.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

// safetensors first: where a folder holds both, transformers reads them.
constexpr std::array<Format, 2> kFormats = {{
    {"safetensors", ProbeSafetensors, OpenSafetensors},
    {"pytorch", ProbeTorchBin, OpenTorchBin},
}};

bool Exists(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

bool HoldsEntry(const fs::path& folder, bool (*matches)(const std::string& name)) {
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (matches(it->path().filename().string())) return true;
  }
  return false;
}

bool HoldsTorchFiles(const fs::path& folder) {
  return HoldsEntry(folder, [](const std::string& name) {
    return name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth");
  });
}

Error DescribeUnknown(const fs::path& path) {
  std::error_code error;
  const bool folder = fs::is_directory(path, error);
  Error e{ErrorKind::kUnsupported, "unsupported-format", "", path.string(), ""};
  if (folder && LooksLikeMegatron(path)) {
    e.what = "this is a Megatron checkpoint, and a Hugging Face model is expected here";
    e.hint = "`weighbridge verify HF MEGATRON` judges it, `weighbridge export` makes a model of it";
  } else if (folder && HoldsTorchFiles(path)) {
    e.what = "the folder holds PyTorch files, but no pytorch_model.bin and no index of shards";
    e.hint = "name the file that holds the weights";
  } else if (folder) {
    e.kind = ErrorKind::kNotFound;
    e.id = "no-weights";
    e.what = "the folder holds no checkpoint";
    e.hint = DownloadHint(path);
  } else {
    e.what = "the file is in no format that is known here";
    e.hint = "a model is a .safetensors or .bin file, or a folder that holds them";
  }
  return e;
}

}  // namespace

namespace {

// The transformer of a pipeline of diffusers, whose parts are folders; another path as it is.
fs::path TransformerOf(const fs::path& path) {
  const bool pipeline = Exists(path / "model_index.json") && !Exists(path / "config.json") &&
                        Exists(path / "transformer" / "config.json");
  return pipeline ? path / "transformer" : path;
}

}  // namespace

bool LooksLikeMegatron(const fs::path& path) {
  if (Exists(path / "latest_checkpointed_iteration.txt")) return true;
  return HoldsEntry(path, [](const std::string& name) {
    return name.ends_with(".distcp") || name.starts_with("iter_") || name.starts_with("mp_rank_");
  });
}

std::span<const Format> AllFormats() { return kFormats; }

Result<std::unique_ptr<Checkpoint>> OpenCheckpoint(const fs::path& path) {
  std::error_code error;
  const auto type = fs::status(path, error).type();
  if (type == fs::file_type::not_found) {
    return Fail(ErrorKind::kNotFound, "not-found", "there is no such file or folder",
                path.string());
  }
  if (error) return Fail(ErrnoError(error.value(), "cannot look at", path));
  if (type == fs::file_type::directory) {
    fs::directory_iterator it(path, error);
    if (error) return Fail(ErrnoError(error.value(), "cannot list the folder", path));
  }
  for (const Format& format : AllFormats()) {
    if (format.probe(path)) return format.open(path);
  }
  if (type != fs::file_type::directory) {
    WB_TRY(const auto readable, MappedFile::Open(path));
    (void)readable;
  }
  return Fail(DescribeUnknown(path));
}

Result<fs::path> ResolveModelPath(std::string_view model) {
  if (model.empty()) {
    return Fail(ErrorKind::kUsage, "usage", "the model's name is empty");
  }
  const fs::path path(model);
  std::error_code error;
  // Also a path that cannot be looked at: opening it gives the better message.
  if (fs::status(path, error).type() != fs::file_type::not_found) return TransformerOf(path);
  WB_TRY(const fs::path cached, FindInHubCache(model));
  return TransformerOf(cached);
}

}  // namespace weighbridge
