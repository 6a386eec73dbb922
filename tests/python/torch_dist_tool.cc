// Lets the Python tests reach the writer of torch_dist:
//   torch_dist_tool write PLAN.json DATA OUT [THREADS] [PIECE]   writes the folder OUT; DATA has
//   the
//     chunks' bytes in the plan's order; they are given in pieces of PIECE bytes, last one first.
//     Prints the seconds of writing, syncing and reading back.
//   torch_dist_tool pickle PROTOCOL IN.json OUT      a pickle of the JSON value
//   torch_dist_tool zip DTYPE SHAPE CRC HEAD TAIL    what stands around a tensor's bytes; SHAPE:
//   2,3 torch_dist_tool run_files OUT N                  train_state.pt and common.pt of iteration
//   N torch_dist_tool crc MIB                          the speed of CRC-32 on one thread
// PLAN: {"tensors": [{"key", "dtype", "shape", "chunks": [{"offsets", "sizes", "writer"}]}],
//        "entries": [{"key", "kind": "common" | "empty" | "none", "writer"}]}
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/atomic_output.h"
#include "base/crc32.h"
#include "base/file.h"
#include "base/threads.h"
#include "formats/torch_dist/run_files.h"
#include "formats/torch_dist/writer.h"
#include "formats/torch_file/write.h"

namespace weighbridge {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

int PrintError(const Error& e) {
  fmt::print(stderr, "error: {}\n  at: {}\n  hint: {}\n", e.what, e.at, e.hint);
  return e.kind == ErrorKind::kCorrupt ? 1 : 2;
}

json ReadJson(const char* path) {
  std::ifstream in(path);
  return json::parse(in);
}

void WriteFile(const std::string& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

TorchDistTensor ToTensor(const json& row) {
  TorchDistTensor tensor{
      row["key"], *ParseShortName(row["dtype"].get<std::string>()), row["shape"], {}};
  for (const json& c : row["chunks"]) {
    tensor.chunks.push_back({c["offsets"], c["sizes"], c.value("writer", 0u)});
  }
  return tensor;
}

TorchDistBytes ToEntry(const json& row) {
  const std::string key = row["key"], kind = row["kind"];
  const uint32_t writer = row.value("writer", 0u);
  if (kind == "common") return CommonStateEntry({}, writer);
  return ExtraStateEntry(key, kind == "none", writer);
}

struct Piece {
  size_t tensor, chunk;
  uint64_t offset;
  std::span<const std::byte> bytes;
};

std::vector<Piece> CutPieces(const TorchDistPlan& plan, std::span<const std::byte> data,
                             uint64_t piece) {
  std::vector<Piece> pieces;
  uint64_t begin = 0;
  for (size_t t = 0; t < plan.tensors.size(); ++t) {
    for (size_t c = 0; c < plan.tensors[t].chunks.size(); ++c) {
      const uint64_t nbytes = plan.tensors[t].chunks[c].data_bytes;
      for (uint64_t at = 0; at < nbytes; at += piece) {
        const uint64_t n = std::min(piece, nbytes - at);
        pieces.push_back({t, c, at, data.subspan(begin + at, n)});
      }
      begin += nbytes;
    }
  }
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

Status Write(char** arguments, int threads, uint64_t piece) {
  const json text = ReadJson(arguments[0]);
  std::vector<TorchDistTensor> tensors;
  std::vector<TorchDistBytes> entries;
  for (const json& row : text["tensors"]) tensors.push_back(ToTensor(row));
  for (const json& row : text["entries"]) entries.push_back(ToEntry(row));
  WB_TRY(const auto data, MappedFile::Open(arguments[1]));
  WB_TRY(auto plan, PlanTorchDist(std::move(tensors), std::move(entries)));
  WB_TRY(auto folder, AtomicDirectory::Create(arguments[2], {}));
  WB_TRY(auto writer, TorchDistWriter::Create(folder.path(), std::move(plan)));
  const auto start = Clock::now();
  const auto pieces = CutPieces(writer.plan(), data->bytes(), piece);
  std::mutex mutex;
  Status status;
  ParallelFor(pieces.size(), threads, [&](size_t i) {
    const Piece& p = pieces[i];
    Status one = writer.Write(p.tensor, p.chunk, p.offset, p.bytes);
    const std::lock_guard lock(mutex);
    if (!one) status = one;
  });
  WB_RETURN_IF_ERROR(status);
  const double wrote = SecondsSince(start);
  WB_RETURN_IF_ERROR(writer.Finish());
  const double finished = SecondsSince(start);
  WB_RETURN_IF_ERROR(writer.ReadBack(threads));
  fmt::print("{:.3f} {:.3f} {:.3f}\n", wrote, finished - wrote, SecondsSince(start) - finished);
  WB_RETURN_IF_ERROR(folder.Commit());
  return {};
}

// NOLINTNEXTLINE(misc-no-recursion)
void Pickle(pickle::Writer& pickle, const json& value) {
  if (value.is_null()) pickle.None();
  if (value.is_boolean()) pickle.Bool(value);
  if (value.is_number_integer()) pickle.Int(value);
  if (value.is_number_float()) pickle.Float(value);
  if (value.is_string()) pickle.String(value.get<std::string>());
  if (value.is_array()) {
    pickle.List(value.size());
    for (const json& item : value) Pickle(pickle, item);
  }
  if (value.is_object()) {
    pickle.Dict(value.size());
    for (const auto& [key, item] : value.items()) Pickle(pickle.String(key), item);
  }
}

Status Zip(char** arguments) {
  const json shape = json::parse(fmt::format("[{}]", arguments[1]));
  WB_TRY(const auto zip, PlanTorchTensor(*ParseShortName(arguments[0]), shape));
  const std::string tail =
      zip.Tail(static_cast<uint32_t>(std::strtoull(arguments[2], nullptr, 10)));
  WriteFile(arguments[3], zip.head);
  WriteFile(arguments[4], tail);
  fmt::print("{} {} {}\n", zip.head.size(), zip.data_bytes, tail.size() == zip.tail_bytes ? 1 : 0);
  return {};
}

int RunFiles(const std::string& out, int64_t n) {
  WriteFile(out + "/train_state.pt", TrainStatePt({.step = n,
                                                   .consumed_train_samples = 8 * n,
                                                   .skipped_train_samples = 1,
                                                   .consumed_valid_samples = 2,
                                                   .floating_point_operations_so_far = 1.5e20f,
                                                   .do_valid = true}));
  WriteFile(out + "/common.pt", CommonPt({.iteration = n}));
  fmt::print("{}\n", IterationFolder(n));
  return 0;
}

int MeasureCrc(uint64_t mib) {
  const std::vector<std::byte> data(1 << 20, std::byte{7});
  const auto start = Clock::now();
  uint32_t crc = 0;
  for (uint64_t i = 0; i < mib; ++i) crc = Crc32(data, crc);
  const double seconds = SecondsSince(start);
  fmt::print("{:.1f} GB/s ({:08x})\n", static_cast<double>(mib << 20) / seconds / 1e9, crc);
  return 0;
}

int Main(int argc, char** argv) {
  const std::string_view command = argc > 1 ? argv[1] : "";
  Status status;
  if (command == "write" && argc >= 5) {
    status = Write(argv + 2, argc > 5 ? std::atoi(argv[5]) : 1,
                   argc > 6 ? std::strtoull(argv[6], nullptr, 10) : 1 << 20);
  } else if (command == "pickle" && argc == 5) {
    pickle::Writer pickle(std::atoi(argv[2]));
    Pickle(pickle, ReadJson(argv[3]));
    WriteFile(argv[4], std::move(pickle).Finish());
  } else if (command == "zip" && argc == 7) {
    status = Zip(argv + 2);
  } else if (command == "run_files" && argc == 4) {
    return RunFiles(argv[2], std::atoll(argv[3]));
  } else if (command == "crc" && argc == 3) {
    return MeasureCrc(std::strtoull(argv[2], nullptr, 10));
  } else {
    fmt::print(stderr, "usage: see the head of tests/python/torch_dist_tool.cc\n");
    return 2;
  }
  return status ? 0 : PrintError(status.error());
}

}  // namespace
}  // namespace weighbridge

int main(int argc, char** argv) { return weighbridge::Main(argc, argv); }
