// Shell-style patterns for tensor names: `*`, `?` and `[...]`; `*` crosses dots.
#pragma once

#include <fnmatch.h>

#include <string>

namespace weighbridge {

inline bool GlobMatch(const std::string& pattern, const std::string& text) {
  return ::fnmatch(pattern.c_str(), text.c_str(), FNM_NOESCAPE) == 0;
}

}  // namespace weighbridge
