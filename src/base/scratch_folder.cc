#include "base/scratch_folder.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "base/atomic_output.h"
#include "base/interrupt.h"

namespace weighbridge {
namespace fs = std::filesystem;

Result<std::unique_ptr<ScratchFolder>> ScratchFolder::Create(std::string_view purpose) {
  std::error_code error;
  const fs::path path =
      fs::temp_directory_path(error) / fmt::format("weighbridge-{}-{}", purpose, RandomId());
  if (!error && ::mkdir(path.c_str(), 0700) != 0) error = {errno, std::generic_category()};
  if (error) {
    return Fail(ErrorKind::kIo, "io", "cannot create a temporary folder: " + error.message(),
                path.string(), "name one with TMPDIR");
  }
  return std::unique_ptr<ScratchFolder>(new ScratchFolder(path));
}

ScratchFolder::ScratchFolder(fs::path path) : path_(std::move(path)) { RegisterUnfinished(path_); }

ScratchFolder::~ScratchFolder() {
  std::error_code error;
  fs::remove_all(path_, error);
  ForgetUnfinished(path_);
}

}  // namespace weighbridge
