// What this build calls itself.
#pragma once

#include <string>

namespace weighbridge::cli {

// "0.1.0 (3f2a9c1d8e7b)", or "0.1.0" for a build outside of a checkout.
std::string VersionText();

}  // namespace weighbridge::cli
