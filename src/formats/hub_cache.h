// The local Hugging Face cache: HUB/models--ORG--NAME/{refs,blobs,snapshots/COMMIT}. Read-only; the
// network is never used.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"

namespace weighbridge {

// HF_HUB_CACHE, else HF_HOME/hub, else XDG_CACHE_HOME/huggingface/hub, else
// ~/.cache/huggingface/hub: the order of the huggingface_hub library.
std::filesystem::path HubCacheFolder();

// `org/name`, `name`, `org/name@REV`; REV is a branch, a tag, a commit or the start of one (at
// least 6 digits); refs/main by default. Gives the snapshot's folder; kNotFound shows the download
// command.
Result<std::filesystem::path> FindInHubCache(std::string_view model);

// "org/name" when `folder` is a snapshot in a Hugging Face cache, else "".
std::string ModelOfCachedFolder(const std::filesystem::path& folder);

}  // namespace weighbridge
