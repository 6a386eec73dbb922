#include "base/source_files.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "base/file.h"
#include "base/hash.h"

namespace weighbridge {
namespace fs = std::filesystem;

Result<SourceFiles::File> SourceFiles::LookAt(const fs::path& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) {
    return Fail(ErrnoError(errno, "cannot look at the file", path));
  }
  const auto ns = [](const timespec& t) { return t.tv_sec * 1'000'000'000 + t.tv_nsec; };
  return File{path, static_cast<uint64_t>(st.st_size), ns(st.st_mtim), ns(st.st_ctim),
              static_cast<uint64_t>(st.st_ino)};
}

Result<SourceFiles> SourceFiles::Look(const std::vector<fs::path>& paths) {
  SourceFiles sources;
  for (const fs::path& path : paths) {
    std::error_code error;
    const fs::path canonical = fs::canonical(path, error);
    if (error) return Fail(ErrnoError(error.value(), "cannot look at the file", path));
    WB_TRY(File file, LookAt(canonical));
    sources.files_.push_back(std::move(file));
  }
  std::sort(sources.files_.begin(), sources.files_.end(),
            [](const File& a, const File& b) { return a.path < b.path; });
  Xxh3Stream hash;
  for (const File& file : sources.files_) {
    const std::string text = fmt::format("{}\n{}\n{}\n{}\n{}\n", file.path.string(), file.nbytes,
                                         file.changed_ns, file.status_ns, file.inode);
    hash.Update(std::as_bytes(std::span(text)));
  }
  sources.key_ = hash.Hex();
  return sources;
}

Status SourceFiles::CheckUnchanged() const {
  for (const File& file : files_) {
    const auto now = LookAt(file.path);
    if (now && *now == file) continue;
    return Fail(ErrorKind::kIo, "source-changed",
                now ? "the file changed while it was read" : "the file is gone: it was being read",
                file.path.string(), "start again when it is complete");
  }
  return {};
}

}  // namespace weighbridge
