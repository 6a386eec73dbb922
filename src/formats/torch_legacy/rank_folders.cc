#include "formats/torch_legacy/rank_folders.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>
#include <tuple>

#include "base/file.h"

namespace weighbridge {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kPrefix = "mp_rank_";
constexpr size_t kMostDigits = 5;

}  // namespace

RankFolder ParseRankFolder(std::string_view name) {
  if (!name.starts_with(kPrefix)) return {};
  RankFolder folder{std::string(name), {}};
  std::string_view rest = name.substr(kPrefix.size());
  while (true) {
    const std::string_view digits = rest.substr(0, rest.find('_'));
    const bool number =
        std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (digits.empty() || digits.size() > kMostDigits || !number) return {};
    folder.numbers.push_back(std::stoi(std::string(digits)));
    if (digits.size() == rest.size()) break;
    rest.remove_prefix(digits.size() + 1);
  }
  return folder.numbers.size() <= 3 ? folder : RankFolder{};
}

Result<std::vector<RankFolder>> FindRankFolders(const fs::path& iteration) {
  std::vector<RankFolder> folders;
  std::error_code error;
  for (fs::directory_iterator it(iteration, error), end; !error && it != end; it.increment(error)) {
    RankFolder folder = ParseRankFolder(it->path().filename().string());
    if (!folder.numbers.empty()) folders.push_back(std::move(folder));
  }
  if (error) return Fail(ErrnoError(error.value(), "cannot list the folder", iteration));
  if (folders.empty()) {
    return Fail(ErrorKind::kNotFound, "no-weights", "there is no folder mp_rank_*",
                iteration.string());
  }
  std::sort(folders.begin(), folders.end(), [](const RankFolder& a, const RankFolder& b) {
    return std::tie(a.numbers, a.name) < std::tie(b.numbers, b.name);
  });
  for (size_t i = 1; i < folders.size(); ++i) {
    const RankFolder &a = folders[i - 1], &b = folders[i];
    if (a.numbers.size() == b.numbers.size() && a.numbers != b.numbers) continue;
    return Corrupt("header-corrupt",
                   fmt::format("{} and {} cannot be of one checkpoint", a.name, b.name),
                   iteration.string(), "remove the folders of the other save");
  }
  return folders;
}

std::string RankFolderName(int tp, int pp, int ep, int pp_size, int ep_size) {
  std::string name = fmt::format("mp_rank_{:02}", tp);
  if (pp_size > 1) name += fmt::format("_{:03}", pp);
  if (ep_size > 1) name += fmt::format("_{:03}", ep);
  return name;
}

}  // namespace weighbridge
