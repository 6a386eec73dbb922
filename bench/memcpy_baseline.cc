// What `roundtrip` is measured against: one thread copies every byte of the given files, mapped and
// in the page cache, into a buffer that is larger than any cache and already touched.
// usage: memcpy_baseline REPEATS FILE...
// Prints {"bytes": N, "seconds": [...]}, one number per pass over all files.
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr size_t kBuffer = size_t{256} << 20;

struct Mapping {
  const std::byte* data = nullptr;
  size_t size = 0;
};

// Maps `path` with every page present. An empty mapping: the file cannot be mapped.
Mapping MapWarm(const char* path) {
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (fd < 0 || ::fstat(fd, &status) != 0 || status.st_size == 0) return {};
  const auto size = static_cast<size_t>(status.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
  ::close(fd);
  if (data == MAP_FAILED) return {};
  return {static_cast<const std::byte*>(data), size};
}

double CopyAll(const std::vector<Mapping>& files, std::vector<std::byte>& buffer) {
  const auto start = std::chrono::steady_clock::now();
  for (const Mapping& file : files) {
    for (size_t at = 0; at < file.size; at += buffer.size()) {
      const size_t n = std::min(buffer.size(), file.size - at);
      std::memcpy(buffer.data(), file.data + at, n);
      asm volatile("" : : "r"(buffer.data()) : "memory");  // the copy is not to be left out
    }
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main(int argc, char** argv) {
  const int repeats = argc > 2 ? std::atoi(argv[1]) : 0;
  if (repeats < 1) {
    fmt::print(stderr, "usage: memcpy_baseline REPEATS FILE...\n");
    return 2;
  }
  std::vector<Mapping> files;
  size_t bytes = 0;
  for (int i = 2; i < argc; ++i) {
    files.push_back(MapWarm(argv[i]));
    if (files.back().data == nullptr) {
      fmt::print(stderr, "error: cannot map the file\n  at: {}\n", argv[i]);
      return 2;
    }
    bytes += files.back().size;
  }
  std::vector<std::byte> buffer(kBuffer, std::byte{1});
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) seconds.push_back(CopyAll(files, buffer));
  fmt::print("{{\"bytes\": {}, \"seconds\": [{:.6f}]}}\n", bytes, fmt::join(seconds, ", "));
  return 0;
}
