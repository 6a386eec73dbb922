// A folder for what a command needs only while it runs.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "base/result.h"

namespace weighbridge {

// Goes with the object, and when the process is interrupted.
class ScratchFolder {
 public:
  // In $TMPDIR or /tmp, for this user only; `purpose` is part of its name. Errors: kIo.
  static Result<std::unique_ptr<ScratchFolder>> Create(std::string_view purpose);
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  explicit ScratchFolder(std::filesystem::path path);
  std::filesystem::path path_;
};

}  // namespace weighbridge
