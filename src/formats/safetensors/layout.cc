#include "formats/safetensors/layout.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <system_error>

#include "base/file.h"
#include "formats/hub_cache.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".safetensors";
constexpr std::string_view kIndexSuffix = ".safetensors.index.json";
constexpr char kModelFile[] = "model.safetensors";
constexpr char kModelIndex[] = "model.safetensors.index.json";

bool Contains(const std::vector<std::string>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

struct Listing {
  std::vector<std::string> weights, indexes;  // sorted
};

Result<Listing> ListFolder(const fs::path& folder) {
  std::error_code error;
  fs::directory_iterator it(folder, error);
  if (error) return Fail(ErrnoError(error.value(), "cannot list the folder", folder));
  Listing listing;
  for (; it != fs::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with(".")) continue;
    if (name.ends_with(kSuffix)) listing.weights.push_back(name);
    if (name.ends_with(kIndexSuffix)) listing.indexes.push_back(name);
    if (error) break;
  }
  if (error) return Fail(ErrnoError(error.value(), "cannot list the folder", folder));
  std::sort(listing.weights.begin(), listing.weights.end());
  std::sort(listing.indexes.begin(), listing.indexes.end());
  return listing;
}

struct ShardName {
  std::string stem;  // "model"
  int number = 0, count = 0;
};

std::optional<int> ParseNumber(std::string_view digits) {
  int value = 0;
  const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (digits.size() < 5 || code != std::errc() || end != digits.data() + digits.size() ||
      value < 0) {
    return std::nullopt;
  }
  return value;
}

// "model-00001-of-00003.safetensors"
std::optional<ShardName> ParseShardName(std::string_view name) {
  if (!name.ends_with(kSuffix)) return std::nullopt;
  name.remove_suffix(kSuffix.size());
  const auto of = name.rfind("-of-");
  if (of == name.npos) return std::nullopt;
  const auto dash = name.rfind('-', of - 1);
  if (of == 0 || dash == name.npos) return std::nullopt;
  const auto number = ParseNumber(name.substr(dash + 1, of - dash - 1));
  const auto count = ParseNumber(name.substr(of + 4));
  if (!number || !count) return std::nullopt;
  return ShardName{std::string(name.substr(0, dash)), *number, *count};
}

// Weights grouped into sets: each numbered series is one, each other file is one.
std::map<std::string, std::vector<std::string>> GroupIntoSets(
    const std::vector<std::string>& weights) {
  std::map<std::string, std::vector<std::string>> sets;
  for (const std::string& name : weights) {
    const auto shard = ParseShardName(name);
    sets[shard ? fmt::format("{}-*-of-{:05d}", shard->stem, shard->count) : name].push_back(name);
  }
  return sets;
}

Status CheckSeriesComplete(const fs::path& folder, const std::vector<std::string>& names) {
  const auto first = ParseShardName(names[0]);
  if (!first) return {};
  for (int i = 1; i <= first->count; ++i) {
    const std::string expected =
        fmt::format("{}-{:05d}-of-{:05d}{}", first->stem, i, first->count, kSuffix);
    if (Contains(names, expected)) continue;
    return Corrupt("shard-missing",
                   fmt::format("{} of {} shards are there; the first that is missing is {}",
                               names.size(), first->count, expected),
                   (folder / expected).string(), DownloadHint(folder));
  }
  return {};
}

tl::unexpected<Error> FailAmbiguous(const fs::path& folder,
                                    const std::vector<std::string>& choices) {
  return Fail(
      ErrorKind::kUsage, "ambiguous-model",
      fmt::format("the folder holds more than one set of weights: {}", fmt::join(choices, ", ")),
      folder.string(),
      fmt::format("name the file that is meant, for example {}", (folder / choices[0]).string()));
}

Result<WeightFiles> ChooseInFolder(const fs::path& folder) {
  WB_TRY(const Listing listing, ListFolder(folder));
  WeightFiles files{folder, "", {}, listing.weights};
  if (Contains(listing.indexes, kModelIndex)) {
    files.index = kModelIndex;
    return files;
  }
  if (Contains(listing.weights, kModelFile)) {
    files.names = {kModelFile};
    return files;
  }
  if (listing.indexes.size() > 1) return FailAmbiguous(folder, listing.indexes);
  if (listing.indexes.size() == 1) {
    files.index = listing.indexes[0];
    return files;
  }
  const auto sets = GroupIntoSets(listing.weights);
  if (sets.empty()) {
    return Fail(ErrorKind::kNotFound, "no-weights", "the folder holds no safetensors file",
                folder.string(), DownloadHint(folder));
  }
  if (sets.size() > 1) {
    std::vector<std::string> firsts;
    for (const auto& [key, names] : sets) firsts.push_back(names[0]);
    return FailAmbiguous(folder, firsts);
  }
  files.names = sets.begin()->second;
  WB_RETURN_IF_ERROR(CheckSeriesComplete(folder, files.names));
  return files;
}

}  // namespace

std::vector<fs::path> WeightFiles::ExtraFiles(const std::vector<std::string>& used) const {
  std::vector<fs::path> extra;
  for (const std::string& name : present) {
    if (!Contains(used, name)) extra.push_back(folder / name);
  }
  return extra;
}

Status WeightFiles::CheckAgainstIndex(const std::vector<std::string>& shards) const {
  if (index != kModelIndex || !Contains(present, kModelFile) || Contains(shards, kModelFile)) {
    return {};
  }
  return FailAmbiguous(folder, {kModelIndex, kModelFile});
}

bool HoldsSafetensors(const fs::path& folder) {
  const auto listing = ListFolder(folder);
  return listing && !(listing->weights.empty() && listing->indexes.empty());
}

Result<WeightFiles> ChooseWeightFiles(const fs::path& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) return ChooseInFolder(path);
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const std::string name = path.filename().string();
  if (name.ends_with(".index.json")) return WeightFiles{folder, name, {}, {}};
  return WeightFiles{folder, "", {name}, {}};
}

bool SameSeries(std::string_view a, std::string_view b) {
  const auto x = ParseShardName(a), y = ParseShardName(b);
  return x && y && x->stem == y->stem && x->count == y->count;
}

std::string DownloadHint(const fs::path& folder) {
  const std::string model = ModelOfCachedFolder(folder);
  if (model.empty()) return "the folder is not complete: fetch or copy the missing file";
  return fmt::format("`hf download {}` completes it", model);
}

}  // namespace weighbridge
