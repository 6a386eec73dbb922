#include "report/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

#include "base/file.h"
#include "base/interrupt.h"

namespace weighbridge {
namespace {

constexpr size_t kBufferBytes = 256 << 10;

// A descriptor with a buffer. The first error is kept; later writes do nothing.
class BufferedDescriptor {
 public:
  explicit BufferedDescriptor(int fd) : fd_(fd) { buffer_.reserve(kBufferBytes); }
  ~BufferedDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  BufferedDescriptor(const BufferedDescriptor&) = delete;
  BufferedDescriptor& operator=(const BufferedDescriptor&) = delete;

  void Append(std::string_view text) {
    buffer_.append(text);
    if (buffer_.size() >= kBufferBytes) Flush();
  }

  // 0, or the errno of the first failure; the file is closed either way.
  int Finish(bool sync) {
    Flush();
    if (error_ == 0 && sync && ::fsync(fd_) != 0) error_ = errno;
    if (::close(fd_) != 0 && error_ == 0) error_ = errno;
    fd_ = -1;
    return error_;
  }

 private:
  void Flush() {
    size_t done = 0;
    while (error_ == 0 && done < buffer_.size()) {
      const ssize_t n = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
      if (n >= 0) {
        done += static_cast<size_t>(n);
      } else if (errno != EINTR) {
        error_ = errno;
      }
    }
    buffer_.clear();
  }

  int fd_;
  int error_ = 0;
  std::string buffer_;
};

int RenderTo(int fd, bool sync, const std::function<void(const Sink&)>& render) {
  BufferedDescriptor file(fd);
  render([&file](std::string_view text) { file.Append(text); });
  return file.Finish(sync);
}

Status WriteDirectly(const std::filesystem::path& path,
                     const std::function<void(const Sink&)>& render) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return Fail(ErrnoError(errno, "cannot open the output", path));
  const int error = RenderTo(fd, /*sync=*/false, render);
  if (error != 0) return Fail(ErrnoError(error, "cannot write the output", path));
  return {};
}

}  // namespace

Status CheckOutputFile(const std::filesystem::path& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (std::filesystem::is_directory(status)) {
    return Fail(ErrorKind::kUsage, "not-a-file", "the output is a folder", path.string(),
                "name a file in it");
  }
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) return {};
  std::filesystem::path folder = path.parent_path();
  if (folder.empty()) folder = ".";
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    return Fail(ErrnoError(errno, "cannot write into the output's folder", folder));
  }
  return {};
}

Status WriteOutputFile(const std::filesystem::path& path,
                       const std::function<void(const Sink&)>& render) {
  if (auto checked = CheckOutputFile(path); !checked) return checked;
  std::error_code error;
  std::filesystem::path target = path;
  // A link stays a link: what it points to is replaced.
  if (std::filesystem::is_symlink(path, error)) {
    const std::filesystem::path real = std::filesystem::weakly_canonical(path, error);
    if (!error) target = real;
  }
  const auto status = std::filesystem::status(target, error);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    return WriteDirectly(target, render);
  }
  std::filesystem::path partial = target;
  partial += fmt::format(".partial-{}", ::getpid());
  const int fd =
      ::open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd < 0) return Fail(ErrnoError(errno, "cannot create the output", target));
  RegisterUnfinished(partial);
  int failure = RenderTo(fd, /*sync=*/true, render);
  if (failure == 0 && ::rename(partial.c_str(), target.c_str()) != 0) failure = errno;
  if (failure != 0) ::unlink(partial.c_str());
  ForgetUnfinished(partial);
  if (failure != 0) {
    return Fail(ErrnoError(failure, "cannot write the output", target));
  }
  return {};
}

}  // namespace weighbridge
