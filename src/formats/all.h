// The one table of checkpoint formats. A new format is a folder here and a row in all.cc.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string_view>

#include "formats/checkpoint.h"

namespace weighbridge {

struct Format {
  std::string_view name;
  // Looks at names and first bytes only; never fails.
  bool (*probe)(const std::filesystem::path& path);
  Result<std::unique_ptr<Checkpoint>> (*open)(const std::filesystem::path& path);
};

// In the order in which they are probed.
std::span<const Format> AllFormats();

}  // namespace weighbridge
