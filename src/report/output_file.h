// Report files: written whole or not at all.
#pragma once

#include <filesystem>
#include <functional>

#include "base/result.h"
#include "report/sink.h"

namespace weighbridge {

// Lets `render` write into a new file beside `path`, syncs it and gives it the name; on any error
// the old file, if there was one, stays as it was. A target that is no regular file (a pipe,
// /dev/stderr) is written directly. Errors: kNotFound (no such folder), kPermission, kIo.
Status WriteOutputFile(const std::filesystem::path& path,
                       const std::function<void(const Sink&)>& render);

// The error that WriteOutputFile would certainly meet: no folder, a folder as target, no
// permission. For saying so before hours of work instead of after.
Status CheckOutputFile(const std::filesystem::path& path);

}  // namespace weighbridge
