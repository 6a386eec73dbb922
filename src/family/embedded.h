// The files that were in families/, runtimes/ and engine/children/ at build time.
#pragma once

#include <span>
#include <string_view>

namespace weighbridge {

struct EmbeddedFile {
  std::string_view name;  // file name without ending: "llama"
  std::string_view text;
};

// Sorted by name. Written by cmake/Embed.cmake.
std::span<const EmbeddedFile> EmbeddedFamilies();
// The same for runtimes/.
std::span<const EmbeddedFile> EmbeddedRuntimes();
// The same for src/engine/children/; only the engine has it.
std::span<const EmbeddedFile> EmbeddedChildren();

}  // namespace weighbridge
