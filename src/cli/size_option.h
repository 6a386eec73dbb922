// Sizes on the command line: 1048576, 64M, 2G (powers of 1024).
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace weighbridge::cli {

// kUsage names `option` and the text when it is not a positive size or overflows.
Result<int64_t> ParseSize(const std::string& text, const std::string& option);

}  // namespace weighbridge::cli
