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

}  // namespace

bool IsCheckpointFileName(std::string_view name) {
  return AnyMatches(kHuggingFace, name) || AnyMatches(kMegatron, name);
}

Status CheckReplaceable(const fs::path& folder) {
  std::error_code error;
  fs::directory_iterator it(folder, error);
  if (error) return Fail(ErrnoError(error.value(), "cannot list the folder", folder));
  std::vector<std::string> foreign;
  bool config = false, weights = false;
  for (; it != fs::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    std::error_code ignored;
    const auto type = it->symlink_status(ignored).type();
    const bool file = type == fs::file_type::regular || type == fs::file_type::symlink;
    if (!file || !AnyMatches(kHuggingFace, name)) foreign.push_back(ToPrintable(name));
    config |= name == "config.json";
    weights |= name.ends_with(".safetensors");
    if (error) break;
  }
  if (error) return Fail(ErrnoError(error.value(), "cannot list the folder", folder));
  if (!foreign.empty()) {
    std::sort(foreign.begin(), foreign.end());
    constexpr size_t kShown = 8;
    const size_t more = foreign.size() - std::min(kShown, foreign.size());
    foreign.resize(foreign.size() - more);
    return Refuse(folder, fmt::format("the output would replace a folder that {}: {}{}",
                                      config && weights ? "holds more than a checkpoint"
                                                        : "is no checkpoint, it holds",
                                      fmt::join(foreign, ", "),
                                      more > 0 ? fmt::format(" and {} more", more) : ""));
  }
  if (config && weights) return {};
  return Refuse(folder,
                "the output would replace a folder that is no checkpoint: it has no config.json "
                "with safetensors");
}

}  // namespace weighbridge
