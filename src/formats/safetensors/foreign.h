// Files that carry the name of a safetensors file but are something else: pointers of git-lfs,
// error pages, other formats. They deserve a better message than "corrupt".
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

namespace weighbridge {

inline constexpr char kFetchAgainHint[] =
    "the download or copy is not complete: fetch the file again";

struct ForeignFile {
  std::string id;  // a cause id
  std::string what, hint;
};

// nullopt when the first bytes are not known to be something else.
std::optional<ForeignFile> DescribeForeignFile(std::span<const std::byte> file);

}  // namespace weighbridge
