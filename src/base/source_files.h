// The files that a command reads: what identifies their state, and whether it changed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace weighbridge {

class SourceFiles {
 public:
  // Looks at size and time of each file; links are followed. Errors: kNotFound, kPermission, kIo.
  static Result<SourceFiles> Look(const std::vector<std::filesystem::path>& paths);

  // 32 hexadecimal digits: equal when paths, sizes and times are.
  const std::string& Key() const { return key_; }
  // kIo "source-changed" names a file that is not what it was.
  Status CheckUnchanged() const;

 private:
  struct File {
    std::filesystem::path path;
    uint64_t nbytes = 0;
    int64_t changed_ns = 0;  // of the content; anyone may set it back
    int64_t status_ns = 0;   // of the inode; nobody may
    uint64_t inode = 0;
    bool operator==(const File&) const = default;
  };
  static Result<File> LookAt(const std::filesystem::path& path);
  std::vector<File> files_;
  std::string key_;
};

}  // namespace weighbridge
