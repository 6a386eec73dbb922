// Finding the iteration that a user means.
#include <fmt/format.h>

#include <cctype>
#include <system_error>

#include "base/file.h"
#include "base/strings.h"
#include "formats/torch_dist/reader.h"
#include "formats/torch_dist/run_files.h"

namespace weighbridge {
namespace fs = std::filesystem;
namespace {

// What may not be looked at is an error, not something that is missing.
Result<bool> Exists(const fs::path& path) {
  std::error_code error;
  const fs::file_type type = fs::status(path, error).type();
  if (type == fs::file_type::not_found) return false;
  if (error) return Fail(ErrnoError(error.value(), "cannot look at", path));
  return true;
}

Result<bool> HasRankFolders(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) return false;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().filename().string().starts_with("mp_rank_")) return true;
  }
  if (error) return Fail(ErrnoError(error.value(), "cannot list the folder", folder));
  return false;
}

Result<bool> IsIteration(const fs::path& folder) {
  WB_TRY(const bool metadata, Exists(folder / ".metadata"));
  return metadata ? Result<bool>(true) : HasRankFolders(folder);
}

Result<MegatronFolder> Found(const fs::path& root, const fs::path& iteration) {
  WB_TRY(const bool metadata, Exists(iteration / ".metadata"));
  return MegatronFolder{root, iteration, metadata};
}

std::string Trimmed(std::string text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text[0]))) text.erase(0, 1);
  return text;
}

}  // namespace

Result<std::string> ReadTracker(const fs::path& root) {
  const fs::path tracker = root / kTrackerName;
  WB_TRY(const bool there, Exists(tracker));
  if (!there) return std::string();
  WB_TRY(std::string text, ReadTextFile(tracker, 4096));
  return Trimmed(std::move(text));
}

Result<MegatronFolder> FindMegatronFolder(const fs::path& given) {
  const fs::path path = given.has_filename() ? given : given.parent_path();  // "DIR/" is DIR
  WB_TRY(const bool there, Exists(path));
  if (!there) {
    return Fail(ErrorKind::kNotFound, "not-found", "there is no such folder", path.string());
  }
  const fs::path tracker = path / kTrackerName;
  WB_TRY(const bool tracked, Exists(tracker));
  if (!tracked) {
    WB_TRY(const bool iteration, IsIteration(path));
    if (iteration) {
      const fs::path parent = path.parent_path();
      WB_TRY(const bool root, Exists(parent / kTrackerName));
      return Found(root ? parent : path, path);
    }
    return Fail(ErrorKind::kNotFound, "no-weights",
                "this is no Megatron checkpoint: it has neither a tracker file nor .metadata nor "
                "mp_rank_* folders",
                path.string(),
                fmt::format("give the folder with {}, or one of its iter_N", kTrackerName));
  }
  WB_TRY(const std::string text, ReadTracker(path));
  const std::string name = TrackedFolder(text);
  if (name.empty()) {
    return Corrupt("tracker-stale",
                   fmt::format("the tracker says '{}', which is no iteration", text.substr(0, 40)),
                   tracker.string());
  }
  WB_TRY(const bool complete, IsIteration(path / name));
  if (!complete) {
    WB_TRY(const bool folder, Exists(path / name));
    return Corrupt("tracker-stale",
                   fmt::format("the tracker names {}, which {}", name,
                               folder ? "is not complete" : "is not there"),
                   tracker.string(), "give an iter_N folder to read another one");
  }
  return Found(path, path / name);
}

}  // namespace weighbridge
