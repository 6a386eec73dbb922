// Lets the Python tests reach the reader and the writer:
//   safetensors_tool read FILE...        one line of JSON per file: {"ok", "id", "what", "tensors",
//   "metadata"} safetensors_tool rewrite IN OUT [MAX_SHARD_BYTES]   reads a checkpoint, writes it
//   to the folder OUT safetensors_tool resolve MODEL       prints the path
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/atomic_output.h"
#include "base/file.h"
#include "base/hash.h"
#include "formats/checkpoint.h"
#include "formats/safetensors/header.h"
#include "formats/safetensors/writer.h"

namespace weighbridge {
namespace {

using nlohmann::json;

int PrintError(const Error& e) {
  fmt::print(stderr, "error: {}\n  at: {}\n  hint: {}\n", e.what, e.at, e.hint);
  return e.kind == ErrorKind::kCorrupt ? 1 : 2;
}

json Describe(const char* path) {
  auto file = MappedFile::Open(path);
  if (!file) return {{"ok", false}, {"id", file.error().id}, {"what", file.error().what}};
  const auto bytes = (*file)->bytes();
  const auto header = ParseSafetensorsHeader(bytes, path);
  if (!header) return {{"ok", false}, {"id", header.error().id}, {"what", header.error().what}};
  json tensors = json::object();
  for (const TensorInfo& t : header->tensors) {
    tensors[t.name] = {{"dtype", SafetensorsName(t.dtype)},
                       {"shape", t.shape},
                       {"offset", t.offset},
                       {"nbytes", t.nbytes},
                       {"xxh3", Xxh3Hex(bytes.subspan(t.offset, t.nbytes))}};
  }
  return {{"ok", true}, {"tensors", std::move(tensors)}, {"metadata", header->metadata}};
}

int Read(int count, char** paths) {
  for (int i = 0; i < count; ++i) {
    fmt::print("{}\n", Describe(paths[i]).dump(-1, ' ', true, json::error_handler_t::replace));
  }
  return 0;
}

Status Rewrite(const char* in, const char* out, uint64_t max_shard_bytes) {
  WB_TRY(const auto checkpoint, OpenCheckpoint(in));
  WB_TRY(auto plan, PlanSafetensors(checkpoint->tensors(), {.max_shard_bytes = max_shard_bytes}));
  WB_TRY(auto folder, AtomicDirectory::Create(out, {.expected_bytes = plan.TotalFileBytes()}));
  WB_TRY(auto writer, SafetensorsWriter::Create(folder.path(), std::move(plan)));
  constexpr uint64_t kPiece = 1000;
  for (size_t i = 0; i < checkpoint->tensors().size(); ++i) {
    const auto bytes = checkpoint->Data(checkpoint->tensors()[i]);
    for (uint64_t at = 0; at < bytes.size(); at += kPiece) {
      const auto piece = bytes.subspan(at, std::min<uint64_t>(kPiece, bytes.size() - at));
      WB_RETURN_IF_ERROR(writer.Write(i, at, piece));
    }
  }
  WB_RETURN_IF_ERROR(writer.Finish());
  WB_RETURN_IF_ERROR(folder.Commit());
  return {};
}

int Main(int argc, char** argv) {
  const std::string_view command = argc > 1 ? argv[1] : "";
  if (command == "read") return Read(argc - 2, argv + 2);
  if (command == "rewrite" && argc >= 4) {
    const uint64_t max_bytes = argc > 4 ? std::strtoull(argv[4], nullptr, 10) : UINT64_MAX;
    const Status status = Rewrite(argv[2], argv[3], max_bytes);
    return status ? 0 : PrintError(status.error());
  }
  if (command == "resolve" && argc == 3) {
    const auto path = ResolveModelPath(argv[2]);
    if (!path) return PrintError(path.error());
    fmt::print("{}\n", path->string());
    return 0;
  }
  fmt::print(stderr,
             "usage: safetensors_tool read FILE... | rewrite IN OUT [BYTES] | resolve MODEL\n");
  return 2;
}

}  // namespace
}  // namespace weighbridge

int main(int argc, char** argv) { return weighbridge::Main(argc, argv); }
