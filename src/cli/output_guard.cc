#include "cli/output_guard.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "formats/checkpoint.h"
#include "formats/checkpoint_files.h"

namespace weighbridge::cli {
namespace {

namespace fs = std::filesystem;

fs::path Canonical(const fs::path& path) {
  std::error_code error;
  const fs::path canonical = fs::weakly_canonical(fs::absolute(path, error), error);
  return error ? path : canonical;
}

bool SameFile(const fs::path& a, const fs::path& b) {
  std::error_code error;
  if (fs::equivalent(a, b, error) && !error) return true;
  return Canonical(a) == Canonical(b);
}

bool Contains(const fs::path& folder, const fs::path& path) {
  const auto [outer, inner] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
  return outer == folder.end() && inner != path.end();
}

// Whether `target` is a file of the model's folder, at any depth, under a name that checkpoints
// have; or the same file as one directly in the folder (a hard link, a blob of the cache).
bool BelongsTo(const fs::path& target, const fs::path& folder) {
  std::error_code error;
  if (Contains(Canonical(folder), Canonical(target)) &&
      IsCheckpointFileName(target.filename().string())) {
    return true;
  }
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (IsCheckpointFileName(it->path().filename().string()) &&
        fs::equivalent(it->path(), target, ignored)) {
      return true;
    }
  }
  return false;
}

tl::unexpected<Error> Refuse(const NamedOutput& output, const std::string& input) {
  return Fail(
      ErrorKind::kUsage, "output-is-input",
      fmt::format("{} {} would overwrite what the command reads", output.option, output.path),
      input, "name another FILE");
}

Status CheckOne(const NamedOutput& output, const CommandInputs& inputs) {
  const fs::path target(output.path);
  for (const std::string& file : inputs.files) {
    if (!file.empty() && SameFile(target, file)) return Refuse(output, file);
  }
  for (const std::string& model : inputs.models) {
    if (model.empty()) continue;
    // A model that cannot be found has no files to protect; opening it says so.
    const auto path = ResolveModelPath(model);
    if (!path) continue;
    std::error_code error;
    const bool folder = fs::is_directory(*path, error);
    if (!folder && SameFile(target, *path)) return Refuse(output, path->string());
    const fs::path parent = path->has_parent_path() ? path->parent_path() : fs::path(".");
    if (BelongsTo(target, folder ? *path : parent)) return Refuse(output, path->string());
  }
  return {};
}

}  // namespace

Status CheckOutputsSpareInputs(std::span<const NamedOutput> outputs, const CommandInputs& inputs) {
  std::vector<NamedOutput> seen;
  for (const NamedOutput& output : outputs) {
    if (output.path.empty() || output.path == "-") continue;
    std::error_code error;
    const auto status = fs::status(output.path, error);
    // A pipe or a device takes several documents and holds none.
    if (fs::exists(status) && !fs::is_regular_file(status)) continue;
    WB_RETURN_IF_ERROR(CheckOne(output, inputs));
    for (const NamedOutput& other : seen) {
      if (!SameFile(output.path, other.path)) continue;
      return Fail(ErrorKind::kUsage, "usage",
                  fmt::format("{} and {} write the same file", other.option, output.option),
                  output.path, "name two files");
    }
    seen.push_back(output);
  }
  return {};
}

}  // namespace weighbridge::cli
