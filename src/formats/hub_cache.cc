#include "formats/hub_cache.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <system_error>
#include <vector>

#include "base/file.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "models--";

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string ReplaceAll(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != text.npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

// What a repository or revision may look like; keeps `..` and absolute paths out of the cache's
// path.
bool IsSafe(std::string_view text, bool slashes) {
  if (text.empty() || text.front() == '/' || text.back() == '/') return false;
  if (text.find("..") != text.npos || text.find("//") != text.npos) return false;
  return std::all_of(text.begin(), text.end(), [slashes](unsigned char c) {
    return std::isalnum(c) || c == '-' || c == '_' || c == '.' || (slashes && c == '/');
  });
}

bool IsFolder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

std::vector<std::string> ListNames(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string Lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

// Cached models whose name contains the last part of `repository` or the other way round.
std::vector<std::string> NearNames(const fs::path& hub, std::string_view repository) {
  const auto last = [](std::string_view name) {
    return Lower(std::string(name.substr(name.rfind('/') + 1)));
  };
  std::vector<std::string> near;
  for (const std::string& name : ListNames(hub)) {
    if (!name.starts_with(kPrefix)) continue;
    const std::string model = ReplaceAll(name.substr(kPrefix.size()), "--", "/");
    const bool similar = last(model).find(last(repository)) != std::string::npos ||
                         last(repository).find(last(model)) != std::string::npos;
    if (similar && near.size() < 3) near.push_back(model);
  }
  return near;
}

tl::unexpected<Error> FailAbsent(const fs::path& hub, std::string_view repository,
                                 std::string_view revision) {
  const std::string command =
      revision.empty() ? fmt::format("hf download {}", repository)
                       : fmt::format("hf download {} --revision {}", repository, revision);
  const auto near = revision.empty() ? NearNames(hub, repository) : std::vector<std::string>{};
  return Fail(
      ErrorKind::kNotFound, "model-not-found",
      revision.empty()
          ? fmt::format("'{}' is neither a path nor a model in the Hugging Face cache", repository)
          : fmt::format("the Hugging Face cache has no revision '{}' of '{}'", revision,
                        repository),
      hub.string(),
      near.empty()
          ? fmt::format("`{}` fetches it", command)
          : fmt::format("`{}` fetches it; the cache has {}", command, fmt::join(near, ", ")));
}

Result<std::string> CommitOf(const fs::path& repository, std::string_view revision) {
  std::error_code error;
  const fs::path ref = repository / "refs" / revision;
  if (fs::is_regular_file(ref, error)) {
    WB_TRY(std::string commit, ReadTextFile(ref, 4096));
    while (!commit.empty() && std::isspace(static_cast<unsigned char>(commit.back()))) {
      commit.pop_back();
    }
    return commit;
  }
  const fs::path snapshots = repository / "snapshots";
  if (IsSafe(revision, false) && IsFolder(snapshots / revision)) return std::string(revision);
  std::vector<std::string> matching;
  for (std::string& name : ListNames(snapshots)) {
    if (revision.size() >= 6 && name.starts_with(revision)) matching.push_back(std::move(name));
  }
  return matching.size() == 1 ? matching[0] : std::string();
}

}  // namespace

fs::path HubCacheFolder() {
  if (const auto v = Environment("HF_HUB_CACHE"); !v.empty()) return v;
  if (const auto v = Environment("HUGGINGFACE_HUB_CACHE"); !v.empty()) return v;
  if (const auto v = Environment("HF_HOME"); !v.empty()) return fs::path(v) / "hub";
  if (const auto v = Environment("XDG_CACHE_HOME"); !v.empty()) {
    return fs::path(v) / "huggingface" / "hub";
  }
  return fs::path(Environment("HOME")) / ".cache" / "huggingface" / "hub";
}

Result<fs::path> FindInHubCache(std::string_view model) {
  const auto at = model.find('@');
  const std::string_view repository = model.substr(0, at);
  const std::string_view revision = at == model.npos ? "" : model.substr(at + 1);
  const bool valid = IsSafe(repository, true) &&
                     std::count(repository.begin(), repository.end(), '/') <= 1 &&
                     (at == model.npos || IsSafe(revision, true));
  if (!valid) {
    return Fail(
        ErrorKind::kNotFound, "model-not-found",
        fmt::format("'{}' is not there, and not a model name like org/name or org/name@REV", model),
        std::string(model));
  }
  const fs::path hub = HubCacheFolder();
  const fs::path folder =
      hub / (std::string(kPrefix) + ReplaceAll(std::string(repository), "/", "--"));
  if (!IsFolder(folder)) return FailAbsent(hub, repository, "");
  WB_TRY(const std::string commit, CommitOf(folder, revision.empty() ? "main" : revision));
  const fs::path snapshot = folder / "snapshots" / commit;
  if (!IsSafe(commit, false) || !IsFolder(snapshot)) {
    return FailAbsent(hub, repository, revision.empty() ? "main" : revision);
  }
  return snapshot;
}

std::string ModelOfCachedFolder(const fs::path& folder) {
  std::error_code error;
  const fs::path absolute = fs::absolute(folder, error).lexically_normal();
  std::string previous;
  for (const fs::path& part : absolute) {
    const std::string name = part.string();
    if (name == "snapshots" && previous.starts_with(kPrefix)) {
      return ReplaceAll(previous.substr(kPrefix.size()), "--", "/");
    }
    previous = name;
  }
  return "";
}

}  // namespace weighbridge
