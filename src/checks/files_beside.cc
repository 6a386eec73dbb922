#include "checks/files_beside.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <system_error>

#include "base/file.h"
#include "base/strings.h"

namespace weighbridge {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kMaxCopiedFile = 64u << 20;  // bytes; tokenizers reach some 40 MB

bool HoldsWeights(const std::string& name) {
  static constexpr std::array<std::string_view, 14> kEndings = {
      ".safetensors", ".index.json", ".bin", ".pt",     ".pth",  ".ckpt", ".gguf",
      ".h5",          ".msgpack",    ".npz", ".distcp", ".onnx", ".ot",   ".tflite"};
  return std::any_of(kEndings.begin(), kEndings.end(), [&](auto e) { return name.ends_with(e); });
}

// Without links, dots and a slash at the end.
fs::path Canonical(const fs::path& path, std::error_code& error) {
  const fs::path canonical = fs::weakly_canonical(fs::absolute(path, error), error);
  return canonical.has_filename() ? canonical : canonical.parent_path();
}

}  // namespace

Result<std::vector<std::string>> FilesBeside(const fs::path& source,
                                             std::vector<std::string>& notes) {
  std::vector<std::string> names;
  std::error_code error;
  if (!fs::is_directory(source, error)) return names;
  fs::directory_iterator it(source, error);
  if (error) return Fail(ErrnoError(error.value(), "cannot list the folder", source));
  for (; it != fs::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name == "config.json" || HoldsWeights(name)) continue;
    if (!it->is_regular_file(error)) {
      if (!name.starts_with("."))
        notes.push_back(fmt::format("not copied: {}, which is no file", ToPrintable(name)));
    } else if (it->file_size(error) > kMaxCopiedFile) {
      notes.push_back(
          fmt::format("not copied: {}, which is larger than 64 MiB", ToPrintable(name)));
    } else {
      names.push_back(name);
    }
  }
  if (error) return Fail(ErrnoError(error.value(), "cannot list the folder", source));
  std::sort(names.begin(), names.end());
  return names;
}

Status CopyFiles(const fs::path& source, const std::vector<std::string>& names,
                 const AtomicDirectory& target) {
  for (const std::string& name : names) {
    WB_TRY(const std::string content, ReadTextFile(source / name, kMaxCopiedFile));
    WB_RETURN_IF_ERROR(target.WriteFile(name, content));
  }
  return {};
}

Status RefuseSourceAsTarget(const fs::path& source, const fs::path& target) {
  std::error_code error;
  const fs::path inner = Canonical(source, error);
  const fs::path outer = Canonical(target, error);
  const auto mismatch = std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end());
  if (error || mismatch.first != outer.end()) return {};
  return Fail(ErrorKind::kUsage, "usage", "the output would replace the model that it is made from",
              target.string(), "choose another folder");
}

}  // namespace weighbridge
