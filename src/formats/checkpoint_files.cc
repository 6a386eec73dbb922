#include "formats/checkpoint_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <string>
#include <system_error>
#include <vector>

#include "base/file.h"
#include "base/strings.h"
#include "formats/torch_legacy/rank_folders.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

constexpr auto kHuggingFace = std::to_array<std::string_view>({
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "*preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model*",
    "*.model",
    "*.tiktoken",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.*",
    "configuration_*.py",
    "modeling_*.py",
    "tokenization_*.py",
    "processing_*.py",
    "image_processing_*.py",
    "README.md",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
    ".gitattributes",
});

constexpr auto kMegatron = std::to_array<std::string_view>({
    "*.distcp",
    "*.pt",
    ".metadata",
    "metadata.json",
    "run_config.yaml",
    "latest_checkpointed_iteration.txt",
    "latest_train_state.pt",
});

template <size_t N>
bool AnyMatches(const std::array<std::string_view, N>& patterns, std::string_view name) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](std::string_view pattern) { return GlobMatch(pattern, name); });
}

tl::unexpected<Error> Refuse(const fs::path& folder, std::string what) {
  return Fail(ErrorKind::kUsage, "output-not-a-checkpoint", std::move(what), folder.string(),
              "choose another name, or remove the folder yourself");
}

struct Listing {
  std::vector<std::string> names;    // of files and folders that are expected
  std::vector<std::string> foreign;  // of all else, sorted and printable
};

Result<Listing> List(const fs::path& folder, bool (*expected)(std::string_view name),
                     bool (*folders)(const fs::path& folder)) {
  std::error_code error;
  fs::directory_iterator it(folder, error);
  if (error) return Fail(ErrnoError(error.value(), "cannot list the folder", folder));
  Listing listing;
  for (; it != fs::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    std::error_code ignored;
    const auto type = it->symlink_status(ignored).type();
    const bool file = type == fs::file_type::regular || type == fs::file_type::symlink;
    if (file ? expected(name) : type == fs::file_type::directory && folders(it->path())) {
      listing.names.push_back(name);
    } else {
      listing.foreign.push_back(ToPrintable(name));
    }
    if (error) break;
  }
  if (error) return Fail(ErrnoError(error.value(), "cannot list the folder", folder));
  std::sort(listing.foreign.begin(), listing.foreign.end());
  return listing;
}

tl::unexpected<Error> RefuseForeign(const fs::path& folder, std::vector<std::string> foreign,
                                    bool checkpoint) {
  constexpr size_t kShown = 8;
  const size_t more = foreign.size() - std::min(kShown, foreign.size());
  foreign.resize(foreign.size() - more);
  return Refuse(
      folder,
      fmt::format("the output would replace a folder that {}: {}{}",
                  checkpoint ? "holds more than a checkpoint" : "is no checkpoint, it holds",
                  fmt::join(foreign, ", "), more > 0 ? fmt::format(" and {} more", more) : ""));
}

// A folder of the legacy format that holds its one file and nothing else.
bool IsRankFolder(const fs::path& folder) {
  std::error_code error;
  if (ParseRankFolder(folder.filename().string()).numbers.empty()) return false;
  bool file = false;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (it->path().filename() != kRankFileName) return false;
    file = it->symlink_status(ignored).type() == fs::file_type::regular;
  }
  return !error && file;
}

bool IsHuggingFaceName(std::string_view name) { return AnyMatches(kHuggingFace, name); }
bool IsMegatronName(std::string_view name) { return AnyMatches(kMegatron, name); }

}  // namespace

bool IsCheckpointFileName(std::string_view name) {
  return IsHuggingFaceName(name) || IsMegatronName(name);
}

Status CheckReplaceable(const fs::path& folder) {
  WB_TRY(const Listing listing,
         List(folder, IsHuggingFaceName, [](const fs::path&) { return false; }));
  const auto holds = [&](auto matches) {
    return std::any_of(listing.names.begin(), listing.names.end(), matches);
  };
  const bool checkpoint =
      holds([](const std::string& name) { return name == "config.json"; }) &&
      holds([](const std::string& name) { return name.ends_with(".safetensors"); });
  if (!listing.foreign.empty()) return RefuseForeign(folder, listing.foreign, checkpoint);
  if (checkpoint) return {};
  return Refuse(folder,
                "the output would replace a folder that is no checkpoint: it has no config.json "
                "with safetensors");
}

Status CheckReplaceableIteration(const fs::path& folder) {
  WB_TRY(const Listing listing, List(folder, IsMegatronName, IsRankFolder));
  const bool checkpoint =
      std::any_of(listing.names.begin(), listing.names.end(), [](const std::string& name) {
        return name == ".metadata" || !ParseRankFolder(name).numbers.empty();
      });
  if (!listing.foreign.empty()) return RefuseForeign(folder, listing.foreign, checkpoint);
  if (checkpoint) return {};
  return Refuse(folder,
                "the output would replace a folder that is no checkpoint: it has neither "
                ".metadata nor mp_rank_*");
}

}  // namespace weighbridge
