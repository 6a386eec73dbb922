#include "cli/version_text.h"

#include <fmt/format.h>

#include "cli/version.h"

namespace weighbridge::cli {

std::string VersionText() {
  const std::string revision = kRevision;
  return revision.empty() ? kVersion : fmt::format("{} ({})", kVersion, revision);
}

}  // namespace weighbridge::cli
