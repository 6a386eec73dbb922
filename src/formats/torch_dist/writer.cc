#include "formats/torch_dist/writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/atomic_output.h"
#include "base/crc32.h"
#include "base/file.h"
#include "base/threads.h"
#include "formats/torch_dist/metadata.h"
#include "formats/torch_dist/texts.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

// Small enough that the bytes are in the cache when the kernel copies what was just summed.
constexpr uint64_t kBlock = 256 << 10;
constexpr uint64_t kPart = 16 << 20;  // what one thread reads back at a time

struct Part {
  uint32_t tensor, chunk;
  uint64_t offset;
};

std::span<const std::byte> AsBytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Reserves the space where the file system can, so that a full disk shows before the work.
Status Reserve(int fd, uint64_t nbytes, const fs::path& path) {
  if (nbytes == 0) return {};
  const auto size = static_cast<off_t>(nbytes);
  int rc;
  do {
    rc = ::fallocate(fd, 0, 0, size);
  } while (rc != 0 && errno == EINTR);
  if (rc == 0) return {};
  if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL) {
    return Fail(ErrnoError(errno, "cannot reserve space for the file", path));
  }
  if (::ftruncate(fd, size) == 0) return {};
  return Fail(ErrnoError(errno, "cannot size the file", path));
}

Status Sync(int fd, const fs::path& path) {
  if (::fsync(fd) == 0) return {};
  return Fail(ErrnoError(errno, "cannot sync", path));
}

Status WriteSmallFile(const fs::path& path, std::string_view text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return Fail(ErrnoError(errno, "cannot create the file", path));
  Status status = WriteFully(fd, 0, AsBytes(text), path);
  if (status) status = Sync(fd, path);
  ::close(fd);
  return status;
}

Status FailReadBack(const fs::path& path, uint64_t offset) {
  return Fail(ErrorKind::kIo, "readback-mismatch",
              "what was read back differs from what was written",
              fmt::format("{}:{}", path.string(), offset), "check the disk and its file system");
}

// Calls use(piece) over [offset, offset + nbytes).
Status ReadPieces(int fd, uint64_t offset, uint64_t nbytes, const fs::path& path,
                  const std::function<void(std::span<const std::byte>)>& use) {
  std::vector<std::byte> block(std::min(nbytes, kBlock));
  while (nbytes > 0) {
    const auto got =
        ::pread(fd, block.data(), std::min(nbytes, kBlock), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Fail(ErrnoError(errno, "cannot read back", path));
    if (got == 0) return FailReadBack(path, offset);
    use(std::span(block).first(static_cast<size_t>(got)));
    offset += static_cast<uint64_t>(got);
    nbytes -= static_cast<uint64_t>(got);
  }
  return {};
}

Status CheckText(int fd, uint64_t offset, std::string_view expected, const fs::path& path) {
  bool same = true;
  size_t at = 0;
  WB_RETURN_IF_ERROR(ReadPieces(fd, offset, expected.size(), path, [&](auto piece) {
    const auto part = AsBytes(expected).subspan(at, piece.size());
    same = same && std::equal(piece.begin(), piece.end(), part.begin());
    at += piece.size();
  }));
  return same ? Status() : FailReadBack(path, offset);
}

}  // namespace

struct TorchDistWriter::State {
  TorchDistPlan plan;
  fs::path folder;
  std::vector<fs::path> paths;
  std::vector<int> fds;
  // Per chunk; those of tensor t begin at first[t].
  std::vector<size_t> first;
  std::unique_ptr<std::atomic<uint64_t>[]> written;
  std::unique_ptr<std::atomic<uint32_t>[]> crc;

  ~State() {
    for (int fd : fds) ::close(fd);
  }

  void CountChunks() {
    size_t count = 0;
    for (const TorchDistTensor& t : plan.tensors) {
      first.push_back(count);
      count += t.chunks.size();
    }
    written = std::make_unique<std::atomic<uint64_t>[]>(count);
    crc = std::make_unique<std::atomic<uint32_t>[]>(count);
  }

  Status CreateFiles() {
    for (const auto& file : plan.files) {
      const fs::path path = folder / file.name;
      std::error_code error;
      fs::create_directories(path.parent_path(), error);
      if (error) return Fail(ErrnoError(error.value(), "cannot make the folder", path));
      const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
      if (fd < 0) return Fail(ErrnoError(errno, "cannot create the file", path));
      fds.push_back(fd);
      paths.push_back(path);
      WB_RETURN_IF_ERROR(Reserve(fd, file.nbytes, path));
    }
    return {};
  }

  Status CheckComplete() const {
    for (size_t t = 0; t < plan.tensors.size(); ++t) {
      const TorchDistTensor& tensor = plan.tensors[t];
      for (size_t c = 0; c < tensor.chunks.size(); ++c) {
        const uint64_t got = written[first[t] + c].load();
        if (got == tensor.chunks[c].data_bytes) continue;
        return Fail(ErrorKind::kInvalid, "invalid-call",
                    fmt::format("chunk {} of '{}' has {} bytes: {} were written", c, tensor.key,
                                tensor.chunks[c].data_bytes, got));
      }
    }
    return {};
  }

  Status ForEachTextOf(size_t i, const UseText& use) const {
    return ForEachText(
        plan, plan.files[i], [&](uint32_t t, uint32_t c) { return crc[first[t] + c].load(); }, use);
  }

  Status ReadBackFile(size_t i) const {
    return ForEachTextOf(i, [&](uint64_t offset, std::string_view text) {
      return CheckText(fds[i], offset, text, paths[i]);
    });
  }

  // The share of one part in the CRC of its chunk.
  Result<uint32_t> ReadBackPart(const Part& part) const {
    const TorchDistChunk& chunk = plan.tensors[part.tensor].chunks[part.chunk];
    const uint64_t nbytes = std::min(kPart, chunk.data_bytes - part.offset);
    uint32_t sum = 0;
    WB_RETURN_IF_ERROR(ReadPieces(fds[chunk.file], chunk.data_offset + part.offset, nbytes,
                                  paths[chunk.file], [&](auto piece) { sum = Crc32(piece, sum); }));
    return Crc32Shift(sum, chunk.data_bytes - part.offset - nbytes);
  }

  // All data in parts, chunk after chunk.
  std::vector<Part> Parts() const {
    std::vector<Part> parts;
    for (uint32_t t = 0; t < plan.tensors.size(); ++t) {
      for (uint32_t c = 0; c < plan.tensors[t].chunks.size(); ++c) {
        const uint64_t nbytes = plan.tensors[t].chunks[c].data_bytes;
        for (uint64_t at = 0; at < nbytes; at += kPart) parts.push_back({t, c, at});
      }
    }
    return parts;
  }

  Status ReadBackData(int threads) const {
    const std::vector<Part> parts = Parts();
    std::vector<Result<uint32_t>> shares(parts.size(), 0u);
    ParallelFor(parts.size(), threads, [&](size_t i) { shares[i] = ReadBackPart(parts[i]); });
    uint32_t sum = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      if (!shares[i]) return Fail(shares[i].error());
      sum ^= *shares[i];
      const Part& p = parts[i];
      if (i + 1 < parts.size() && parts[i + 1].offset != 0) continue;  // more of this chunk
      const TorchDistChunk& chunk = plan.tensors[p.tensor].chunks[p.chunk];
      if (sum != crc[first[p.tensor] + p.chunk].load()) {
        return FailReadBack(paths[chunk.file], chunk.data_offset);
      }
      sum = 0;
    }
    return {};
  }
};

TorchDistWriter::TorchDistWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
TorchDistWriter::TorchDistWriter(TorchDistWriter&&) noexcept = default;
TorchDistWriter::~TorchDistWriter() = default;

const TorchDistPlan& TorchDistWriter::plan() const { return state_->plan; }

Result<TorchDistWriter> TorchDistWriter::Create(const fs::path& folder, TorchDistPlan plan) {
  auto state = std::make_unique<State>();
  state->folder = folder;
  state->plan = std::move(plan);
  state->CountChunks();
  WB_RETURN_IF_ERROR(state->CreateFiles());
  return TorchDistWriter(std::move(state));
}

Status TorchDistWriter::Write(size_t tensor, size_t chunk, uint64_t offset,
                              std::span<const std::byte> bytes) {
  const TorchDistPlan& plan = state_->plan;
  if (tensor >= plan.tensors.size() || chunk >= plan.tensors[tensor].chunks.size()) {
    return Fail(ErrorKind::kInvalid, "invalid-call",
                fmt::format("there is no chunk {} of tensor {}", chunk, tensor));
  }
  const TorchDistChunk& c = plan.tensors[tensor].chunks[chunk];
  if (offset > c.data_bytes || bytes.size() > c.data_bytes - offset) {
    return Fail(ErrorKind::kInvalid, "invalid-call",
                fmt::format("writing {} bytes at {} exceeds the {} bytes of chunk {} of '{}'",
                            bytes.size(), offset, c.data_bytes, chunk, plan.tensors[tensor].key));
  }
  uint32_t crc = 0;
  for (uint64_t at = 0; at < bytes.size(); at += kBlock) {
    const auto block = bytes.subspan(at, std::min<uint64_t>(kBlock, bytes.size() - at));
    crc = Crc32(block, crc);
    WB_RETURN_IF_ERROR(
        WriteFully(state_->fds[c.file], c.data_offset + offset + at, block, state_->paths[c.file]));
  }
  const size_t i = state_->first[tensor] + chunk;
  const uint32_t share = Crc32Shift(crc, c.data_bytes - offset - bytes.size());
  state_->crc[i].fetch_xor(share, std::memory_order_relaxed);
  state_->written[i].fetch_add(bytes.size(), std::memory_order_relaxed);
  return {};
}

Status TorchDistWriter::Finish() {
  WB_RETURN_IF_ERROR(state_->CheckComplete());
  const TorchDistPlan& plan = state_->plan;
  for (size_t i = 0; i < plan.files.size(); ++i) {
    WB_RETURN_IF_ERROR(state_->ForEachTextOf(i, [&](uint64_t offset, std::string_view text) {
      return WriteFully(state_->fds[i], offset, AsBytes(text), state_->paths[i]);
    }));
  }
  for (size_t i = 0; i < plan.files.size(); ++i) {
    WB_RETURN_IF_ERROR(Sync(state_->fds[i], state_->paths[i]));
  }
  if (!plan.has_metadata) return {};
  WB_RETURN_IF_ERROR(WriteSmallFile(state_->folder / "metadata.json", kTorchDistMetadataJson));
  return WriteSmallFile(state_->folder / ".metadata", TorchDistMetadata(plan));
}

uint32_t TorchDistWriter::Crc(size_t tensor, size_t chunk) const {
  return state_->crc[state_->first[tensor] + chunk].load();
}

Status TorchDistWriter::ReadBack(int threads) const {
  for (size_t i = 0; i < state_->plan.files.size(); ++i) {
    WB_RETURN_IF_ERROR(state_->ReadBackFile(i));
  }
  WB_RETURN_IF_ERROR(state_->ReadBackData(threads));
  if (!plan().has_metadata) return {};
  const fs::path path = state_->folder / ".metadata";
  WB_TRY(const std::string metadata, ReadTextFile(path, UINT64_MAX));
  return metadata == TorchDistMetadata(plan()) ? Status() : FailReadBack(path, 0);
}

}  // namespace weighbridge
