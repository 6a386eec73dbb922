#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>

namespace weighbridge {
namespace {

// Lock-free table that a signal handler may read: an entry is published by its `begin`.
struct Mapping {
  std::atomic<uintptr_t> begin{0};
  uintptr_t end = 0;
  std::array<char, 512> name{};
};
constexpr size_t kMaxMappings = 4096;
std::array<Mapping, kMaxMappings>& Mappings() {
  static auto* table = new std::array<Mapping, kMaxMappings>();
  return *table;
}

// Set when a file found no place in the table: from then on no address is known to be no file's.
std::atomic<bool> table_was_full{false};

void RegisterMapping(const void* data, size_t size, const std::string& name) {
  for (Mapping& m : Mappings()) {
    uintptr_t expected = 0;
    if (!m.begin.compare_exchange_strong(expected, 1)) continue;
    m.end = reinterpret_cast<uintptr_t>(data) + size;
    const size_t n = std::min(name.size(), m.name.size() - 1);
    std::memcpy(m.name.data(), name.data(), n);
    m.name[n] = '\0';
    m.begin.store(reinterpret_cast<uintptr_t>(data));
    return;
  }
  table_was_full.store(true);
}

// Async-signal-safe. nullptr: no mapped file holds it, or none of the table.
Mapping* MappingOf(const void* address) {
  const auto a = reinterpret_cast<uintptr_t>(address);
  for (Mapping& m : Mappings()) {
    const uintptr_t begin = m.begin.load();
    if (begin > 1 && begin <= a && a < m.end) return &m;
  }
  return nullptr;
}

void UnregisterMapping(const void* data) {
  if (Mapping* m = MappingOf(data)) m->begin.store(0);
}

uintptr_t PageOf(uintptr_t address) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  return address / page * page;
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

Error ErrnoError(int error_number, const std::string& action, const std::filesystem::path& path) {
  Error e;
  e.what = fmt::format("{}: {}", action, std::strerror(error_number));
  e.at = path.string();
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
      e.kind = ErrorKind::kNotFound;
      e.id = "not-found";
      break;
    case EACCES:
    case EPERM:
    case EROFS:
      e.kind = ErrorKind::kPermission;
      e.id = "permission-denied";
      break;
    case ENOSPC:
    case EDQUOT:
      e.kind = ErrorKind::kIo;
      e.id = "disk-full";
      e.hint = "free space on the target's file system, or choose another target";
      break;
    default:
      e.kind = ErrorKind::kIo;
      e.id = "io-error";
  }
  return e;
}

Result<std::shared_ptr<const MappedFile>> MappedFile::Open(const std::filesystem::path& path) {
  // O_NONBLOCK keeps a named pipe from blocking the open; it is refused below.
  Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0) return Fail(ErrnoError(errno, "cannot open the file", path));
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) return Fail(ErrnoError(errno, "cannot stat the file", path));
  if (!S_ISREG(st.st_mode)) {
    return Fail(ErrorKind::kUsage, "not-a-file", "not a regular file", path.string());
  }
  std::shared_ptr<MappedFile> file(new MappedFile());
  file->path_ = path;
  file->size_ = static_cast<uint64_t>(st.st_size);
  if (file->size_ > 0) {
    // Private, so that AllowPrivateWrites can let a caller write to memory and never to the file.
    void* data = ::mmap(nullptr, file->size_, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, fd.get(), 0);
    if (data == MAP_FAILED) return Fail(ErrnoError(errno, "cannot map the file", path));
    file->data_ = static_cast<const std::byte*>(data);
    RegisterMapping(data, file->size_, path.string());
  }
  return file;
}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  UnregisterMapping(data_);
  ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::DropBehind(uint64_t offset, uint64_t length) const {
  if (offset >= size_ || data_ == nullptr) return;
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t begin = (offset + page - 1) / page * page;
  const uint64_t end = std::min(size_, offset + length) / page * page;
  if (begin < end) ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

Result<std::string> ReadTextFile(const std::filesystem::path& path, uint64_t max_bytes) {
  Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0) return Fail(ErrnoError(errno, "cannot open the file", path));
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) return Fail(ErrnoError(errno, "cannot stat the file", path));
  if (!S_ISREG(st.st_mode)) {
    return Fail(ErrorKind::kUsage, "not-a-file", "not a regular file", path.string());
  }
  if (static_cast<uint64_t>(st.st_size) > max_bytes) {
    return Fail(
        ErrorKind::kUnsupported, "too-large",
        fmt::format("the file has {} bytes, more than the {} accepted here", st.st_size, max_bytes),
        path.string());
  }
  std::string text(static_cast<size_t>(st.st_size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::read(fd.get(), text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Fail(ErrnoError(errno, "cannot read the file", path));
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  text.resize(done);
  return text;
}

const char* MappedFileNameAt(const void* address) {
  const Mapping* mapping = MappingOf(address);
  return mapping == nullptr ? "" : mapping->name.data();
}

bool PutZerosFrom(const void* address) {
  const Mapping* mapping = MappingOf(address);
  if (mapping == nullptr) return false;
  const uintptr_t begin = PageOf(reinterpret_cast<uintptr_t>(address));
  void* zeros = ::mmap(reinterpret_cast<void*>(begin), mapping->end - begin, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
  return zeros != MAP_FAILED;
}

Status AllowPrivateWrites(std::span<const std::byte> bytes) {
  if (bytes.empty()) return {};
  const Mapping* mapping = MappingOf(bytes.data());
  if (mapping == nullptr && !table_was_full.load()) return {};
  if (mapping == nullptr) {
    return Fail(ErrorKind::kUnsupported, "too-many-files", "too many files are open to know them");
  }
  const auto first = reinterpret_cast<uintptr_t>(bytes.data());
  const uintptr_t begin = PageOf(first);
  if (::mprotect(reinterpret_cast<void*>(begin), first + bytes.size() - begin,
                 PROT_READ | PROT_WRITE) != 0) {
    return Fail(ErrnoError(errno, "cannot make memory writable", mapping->name.data()));
  }
  return {};
}

}  // namespace weighbridge
