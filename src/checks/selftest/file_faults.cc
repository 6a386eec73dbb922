#include "checks/selftest/file_faults.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <system_error>

#include "checks/import.h"
#include "checks/parameter_source.h"
#include "checks/selftest/shard.h"
#include "formats/torch_dist/run_files.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Injected = std::optional<std::string>;

// Files with tensors, of both sides.
std::vector<fs::path> DataFiles(const PairOnDisk& pair) {
  std::vector<fs::path> all = FilesWith(pair.hf, ".safetensors");
  for (fs::path& path : FilesWith(pair.megatron, ".distcp")) all.push_back(std::move(path));
  return all;
}

std::vector<Shard> Shards(const PairOnDisk& pair) {
  std::vector<Shard> out;
  for (const fs::path& path : FilesWith(pair.hf, ".safetensors")) out.push_back(Shard::Load(path));
  return out;
}

// -- faults --

Injected FileTruncated(const PairOnDisk& pair, Random& random) {
  const auto files = DataFiles(pair);
  const fs::path& path = OneOf(files, random);
  std::string bytes = ReadFile(path);
  const auto cut = 1 + Pick(random, std::ssize(bytes) / 4);
  bytes.resize(bytes.size() - static_cast<size_t>(cut));
  WriteFile(path, bytes);
  return fmt::format("{} bytes cut from {}", cut, path.filename().string());
}

Injected HeaderCorrupt(const PairOnDisk& pair, Random& random) {
  std::vector<fs::path> files = FilesWith(pair.hf, ".safetensors");
  for (fs::path& path : FilesWith(pair.hf, ".index.json")) files.push_back(std::move(path));
  for (fs::path& path : FilesWith(pair.megatron, ".metadata")) files.push_back(std::move(path));
  const fs::path& path = OneOf(files, random);
  std::string bytes = ReadFile(path);
  // The length of a safetensors header stands before it.
  const size_t first = path.extension() == ".safetensors" ? 8 : 0;
  const std::vector<std::string> garbage = {std::string(4, '\0'), "x\xff\xfe\x01"};
  bytes.replace(first, 4, OneOf(garbage, random));
  WriteFile(path, bytes);
  return "the first bytes of the header of " + path.filename().string();
}

Injected BytesOverlap(const PairOnDisk& pair, Random& random) {
  struct Two {
    size_t shard;
    std::string a, b;
  };
  std::vector<Shard> shards = Shards(pair);
  std::vector<Two> twos;
  for (size_t i = 0; i < shards.size(); ++i) {
    const auto names = shards[i].Names();
    for (size_t k = 0; k + 1 < names.size(); ++k) twos.push_back({i, names[k], names[k + 1]});
  }
  if (twos.empty()) return std::nullopt;
  const Two& two = OneOf(twos, random);
  Shard& shard = shards[two.shard];
  // Both as long as they were, the second some bytes before its place.
  const uint64_t by = 2;
  Json& offsets = shard.header[two.b]["data_offsets"];
  if (offsets[0] < by) return std::nullopt;
  offsets = {offsets[0].get<uint64_t>() - by, offsets[1].get<uint64_t>() - by};
  shard.Save();
  return fmt::format("'{}' begins {} bytes before '{}' ends", two.b, by, two.a);
}

Injected IndexGhost(const PairOnDisk& pair, Random& random) {
  const auto indexes = FilesWith(pair.hf, ".index.json");
  if (indexes.empty()) return std::nullopt;
  Json index = Json::parse(ReadFile(indexes[0]));
  const auto shards = FilesWith(pair.hf, ".safetensors");
  const std::string name = fmt::format("model.layers.{}.ghost.weight", Pick(random, 100));
  index["weight_map"][name] = OneOf(shards, random).filename().string();
  WriteFile(indexes[0], index.dump());
  return fmt::format("'{}' is in the index alone", name);
}

Injected IndexIncomplete(const PairOnDisk& pair, Random& random) {
  const auto indexes = FilesWith(pair.hf, ".index.json");
  if (indexes.empty()) return std::nullopt;
  Json index = Json::parse(ReadFile(indexes[0]));
  std::vector<std::string> names;
  for (const auto& [name, file] : index["weight_map"].items()) names.push_back(name);
  const std::string& name = OneOf(names, random);
  index["weight_map"].erase(name);
  WriteFile(indexes[0], index.dump());
  return fmt::format("'{}' is not in the index", name);
}

Injected ShardMissing(const PairOnDisk& pair, Random& random) {
  auto files = FilesWith(pair.megatron, ".distcp");
  // Without an index a single file is all there is.
  if (!FilesWith(pair.hf, ".index.json").empty()) files = DataFiles(pair);
  const fs::path& path = OneOf(files, random);
  std::error_code error;
  fs::remove(path, error);
  return path.filename().string() + " is gone";
}

Injected DuplicateName(const PairOnDisk& pair, Random& random) {
  std::vector<Shard> shards = Shards(pair);
  if (shards.size() < 2) return std::nullopt;
  const auto from = static_cast<size_t>(Pick(random, std::ssize(shards)));
  Shard& to = shards[(from + 1) % shards.size()];
  const auto names = shards[from].Names();
  const std::string& name = OneOf(names, random);
  std::string bytes = shards[from].BytesOf(name);
  if (bytes.empty()) return std::nullopt;
  bytes[0] = static_cast<char>(bytes[0] ^ 1);
  const nlohmann::ordered_json& entry = shards[from].header[name];
  to.Add(name, entry["dtype"], entry["shape"], bytes);
  to.Save();
  return fmt::format("'{}' is in {} too, with other bytes", name, to.path.filename().string());
}

Injected TrackerStale(const PairOnDisk& pair, Random& random) {
  const auto trackers = FilesWith(pair.megatron, kTrackerName);
  if (trackers.empty()) return std::nullopt;
  const std::vector<std::string> others = {std::to_string(1 + Pick(random, 1'000'000)), "release"};
  const std::string& other = OneOf(others, random);
  WriteFile(trackers[0], other);
  return fmt::format("the tracker names '{}'", other);
}

}  // namespace

const std::vector<FileFault>& FileFaults() {
  static const std::vector<FileFault> kFaults = {
      {"bytes-overlap", BytesOverlap},   {"duplicate-name", DuplicateName},
      {"file-truncated", FileTruncated}, {"header-corrupt", HeaderCorrupt},
      {"index-ghost", IndexGhost},       {"index-incomplete", IndexIncomplete},
      {"shard-missing", ShardMissing},   {"tracker-stale", TrackerStale},
  };
  return kFaults;
}

Status WriteMegatronSide(const Model& model, const Checkpoint& hf, const fs::path& folder) {
  const fs::path iteration = folder / IterationFolder(0);
  std::error_code error;
  fs::create_directories(iteration, error);
  if (error) return Fail(ErrorKind::kIo, "io", error.message(), iteration.string());
  WB_TRY(const Placement placement, Placement::Create(model, {}));
  WB_TRY(const HfParameters source, HfParameters::Create(model, hf));
  ImportOptions options;
  options.threads = 1;
  WB_TRY(const ImportPlan plan, PlanImport(model, placement, source, options));
  WB_TRY(TorchDistWriter writer, TorchDistWriter::Create(iteration, plan.disk));
  WB_RETURN_IF_ERROR(Import(source, plan, options, writer));
  WB_RETURN_IF_ERROR(writer.Finish());
  WriteFile(folder / kTrackerName, "0");
  return {};
}

Result<PairOnDisk> CopyPair(const PairOnDisk& pair, const fs::path& folder) {
  PairOnDisk copy{folder / "hf", folder / "megatron"};
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error) fs::copy(pair.hf, copy.hf, fs::copy_options::recursive, error);
  if (!error) fs::copy(pair.megatron, copy.megatron, fs::copy_options::recursive, error);
  if (error) return Fail(ErrorKind::kIo, "io", error.message(), folder.string());
  return copy;
}

}  // namespace weighbridge
