#include "formats/safetensors/writer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <simdjson.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <unordered_set>
#include <utility>

#include "base/atomic_output.h"
#include "base/checked.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

bool IsUtf8(std::string_view text) { return simdjson::validate_utf8(text.data(), text.size()); }

tl::unexpected<Error> FailPlan(const std::string& problem) {
  return Fail(ErrorKind::kInvalid, "invalid-tensor", problem);
}

// Fills in nbytes.
Status CheckTensors(std::vector<TensorInfo>& tensors) {
  std::unordered_set<std::string_view> names;
  for (TensorInfo& t : tensors) {
    if (t.name == "__metadata__") return FailPlan("'__metadata__' cannot be a tensor's name");
    if (!IsUtf8(t.name)) return FailPlan("a tensor's name is not valid UTF-8");
    if (!names.insert(t.name).second)
      return FailPlan(fmt::format("tensor '{}' is given twice", t.name));
    const auto numel = CheckedNumel(t.shape);
    const auto nbytes = numel ? BytesFor(t.dtype, *numel) : std::nullopt;
    if (!nbytes) {
      return FailPlan(fmt::format("tensor '{}': {} {} overflows or does not end on a byte", t.name,
                                  SafetensorsName(t.dtype), ToString(t.shape)));
    }
    t.nbytes = *nbytes;
  }
  return {};
}

// The rule of huggingface_hub's split_torch_state_dict_into_shards: tensors in order; one that is
// larger than a shard stands alone and does not close the shard that is being filled.
std::vector<std::vector<uint32_t>> SplitIntoShards(const std::vector<TensorInfo>& tensors,
                                                   uint64_t max_bytes) {
  std::vector<std::vector<uint32_t>> shards;
  std::vector<uint32_t> current;
  uint64_t current_bytes = 0;
  for (uint32_t i = 0; i < tensors.size(); ++i) {
    const uint64_t nbytes = tensors[i].nbytes;
    if (nbytes > max_bytes) {
      shards.push_back({i});
      continue;
    }
    if (nbytes > max_bytes - current_bytes) {
      shards.push_back(std::exchange(current, {}));
      current_bytes = 0;
    }
    current.push_back(i);
    current_bytes += nbytes;
  }
  if (!current.empty() || shards.empty()) shards.push_back(std::move(current));
  return shards;
}

std::string Quote(const std::string& text) { return nlohmann::json(text).dump(); }

std::string HeaderJson(const std::vector<TensorInfo>& tensors, const std::vector<uint32_t>& order,
                       const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  if (!metadata.empty()) text += "\"__metadata__\":" + nlohmann::json(metadata).dump();
  uint64_t offset = 0;
  for (uint32_t i : order) {
    const TensorInfo& t = tensors[i];
    if (text.size() > 1) text += ',';
    fmt::format_to(std::back_inserter(text),
                   "{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", Quote(t.name),
                   SafetensorsName(t.dtype), fmt::join(t.shape, ","), offset, offset + t.nbytes);
    offset += t.nbytes;
  }
  text += '}';
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

// Lays one file out; gives its tensors their offsets.
Result<SafetensorsPlan::File> PlanFile(std::string name, uint32_t number,
                                       std::vector<uint32_t> members,
                                       const SafetensorsWriteOptions& options,
                                       std::vector<TensorInfo>& tensors) {
  std::sort(members.begin(), members.end(), [&](uint32_t a, uint32_t b) {
    if (tensors[a].dtype != tensors[b].dtype) return tensors[a].dtype > tensors[b].dtype;
    return tensors[a].name < tensors[b].name;
  });
  const std::string json = HeaderJson(tensors, members, options.metadata);
  SafetensorsPlan::File file{std::move(name), std::string(8, '\0') + json, 0};
  const uint64_t length = json.size();
  std::memcpy(file.header.data(), &length, sizeof(length));
  uint64_t end = file.header.size();
  for (uint32_t i : members) {
    tensors[i].file = number;
    tensors[i].offset = end;
    const auto next = CheckedAdd(end, tensors[i].nbytes);
    if (!next || *next > INT64_MAX) return FailPlan("the tensors together overflow a file's size");
    end = *next;
  }
  file.nbytes = end;
  return file;
}

std::string IndexJson(const SafetensorsPlan& plan) {
  nlohmann::json map = nlohmann::json::object();
  for (const TensorInfo& t : plan.tensors) map[t.name] = plan.files[t.file].name;
  const nlohmann::json index = {{"metadata", {{"total_size", plan.total_size}}},
                                {"weight_map", std::move(map)}};
  return index.dump(2, ' ', /*ensure_ascii=*/true) + "\n";
}

}  // namespace

uint64_t SafetensorsPlan::TotalFileBytes() const {
  return std::accumulate(files.begin(), files.end(), uint64_t{index_json.size()},
                         [](uint64_t sum, const File& file) { return sum + file.nbytes; });
}

std::string WeightFileStem(const nlohmann::json& config) {
  return config.is_object() && config.contains("_class_name") ? "diffusion_pytorch_model" : "model";
}

Result<SafetensorsPlan> PlanSafetensors(std::vector<TensorInfo> tensors,
                                        const SafetensorsWriteOptions& options) {
  WB_RETURN_IF_ERROR(CheckTensors(tensors));
  for (const auto& [key, value] : options.metadata) {
    if (!IsUtf8(key) || !IsUtf8(value)) return FailPlan("the metadata is not valid UTF-8");
  }
  SafetensorsPlan plan;
  for (const TensorInfo& t : tensors) {
    const auto sum = CheckedAdd(plan.total_size, t.nbytes);
    if (!sum) return FailPlan("the tensors together overflow 64 bits");
    plan.total_size = *sum;
  }
  auto shards = SplitIntoShards(tensors, options.max_shard_bytes);
  plan.tensors = std::move(tensors);
  for (uint32_t i = 0; i < shards.size(); ++i) {
    std::string name = shards.size() == 1 ? options.stem + ".safetensors"
                                          : fmt::format("{}-{:05d}-of-{:05d}.safetensors",
                                                        options.stem, i + 1, shards.size());
    WB_TRY(auto file, PlanFile(std::move(name), i, std::move(shards[i]), options, plan.tensors));
    plan.files.push_back(std::move(file));
  }
  if (plan.files.size() > 1) {
    plan.index_name = options.stem + ".safetensors.index.json";
    plan.index_json = IndexJson(plan);
  }
  return plan;
}

struct SafetensorsWriter::State {
  SafetensorsPlan plan;
  ShardOptions options;
  fs::path folder;
  std::vector<std::unique_ptr<ShardFile>> files;     // null: skipped
  std::unique_ptr<std::atomic<uint64_t>[]> written;  // bytes per tensor
  std::vector<std::vector<uint32_t>> members;        // tensors per file
  std::vector<std::atomic<bool>> finished;           // per file

  State(SafetensorsPlan what, ShardOptions how)
      : plan(std::move(what)),
        options(std::move(how)),
        written(std::make_unique<std::atomic<uint64_t>[]>(plan.tensors.size())),
        members(plan.files.size()),
        finished(plan.files.size()) {
    for (uint32_t i = 0; i < plan.tensors.size(); ++i) members[plan.tensors[i].file].push_back(i);
  }

  Status CreateFile(size_t i, const std::string& name) {
    files.emplace_back();
    if (options.Skips(i)) return {};
    WB_TRY(files.back(), ShardFile::Create(folder, name, plan.files[i].nbytes));
    WB_RETURN_IF_ERROR(files.back()->Write(0, std::string_view(plan.files[i].header)));
    return {};
  }

  Status FinishFile(size_t i) {
    for (uint32_t t : members[i]) {
      const uint64_t got = written[t].load();
      if (got == plan.tensors[t].nbytes) continue;
      return Fail(ErrorKind::kInvalid, "invalid-call",
                  fmt::format("tensor '{}' has {} bytes: {} were written", plan.tensors[t].name,
                              plan.tensors[t].nbytes, got));
    }
    if (finished[i].exchange(true)) return {};
    WB_TRY(const FinishedFile file, files[i]->Sync());
    return options.finished ? options.finished(file) : Status();
  }
};

SafetensorsWriter::SafetensorsWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter::~SafetensorsWriter() = default;

const SafetensorsPlan& SafetensorsWriter::plan() const { return state_->plan; }

Result<SafetensorsWriter> SafetensorsWriter::Create(const fs::path& folder, SafetensorsPlan plan,
                                                    ShardOptions options) {
  auto state = std::make_unique<State>(std::move(plan), std::move(options));
  state->folder = folder;
  for (size_t i = 0; i < state->plan.files.size(); ++i) {
    WB_RETURN_IF_ERROR(state->CreateFile(i, state->plan.files[i].name));
  }
  return SafetensorsWriter(std::move(state));
}

Result<SafetensorsWriter> SafetensorsWriter::CreateFile(const fs::path& path,
                                                        SafetensorsPlan plan) {
  if (plan.files.size() != 1) {
    return Fail(ErrorKind::kInvalid, "invalid-call",
                fmt::format("a plan of {} files cannot be written as one", plan.files.size()),
                path.string());
  }
  auto state = std::make_unique<State>(std::move(plan), ShardOptions{});
  state->folder = path.parent_path();
  WB_RETURN_IF_ERROR(state->CreateFile(0, path.filename().string()));
  return SafetensorsWriter(std::move(state));
}

bool SafetensorsWriter::Writes(size_t tensor) const {
  return state_->files[state_->plan.tensors[tensor].file] != nullptr;
}

Status SafetensorsWriter::Write(size_t tensor, uint64_t offset, std::span<const std::byte> bytes) {
  if (tensor >= state_->plan.tensors.size()) {
    return Fail(ErrorKind::kInvalid, "invalid-call", fmt::format("there is no tensor {}", tensor));
  }
  const TensorInfo& t = state_->plan.tensors[tensor];
  if (offset > t.nbytes || bytes.size() > t.nbytes - offset) {
    return Fail(ErrorKind::kInvalid, "invalid-call",
                fmt::format("writing {} bytes at {} exceeds the {} bytes of tensor '{}'",
                            bytes.size(), offset, t.nbytes, t.name));
  }
  ShardFile* file = state_->files[t.file].get();
  if (file == nullptr) {
    return Fail(ErrorKind::kInvalid, "invalid-call",
                fmt::format("tensor '{}' is in a file that is left alone", t.name));
  }
  if (bytes.empty()) return {};
  state_->written[tensor].fetch_add(bytes.size(), std::memory_order_relaxed);
  WB_TRY(const ShardFile::Written piece, file->Write(t.offset + offset, bytes));
  return piece.missing == 0 ? state_->FinishFile(t.file) : Status();
}

Status SafetensorsWriter::FinishFiles() {
  for (size_t i = 0; i < state_->files.size(); ++i) {
    if (state_->files[i] != nullptr && !state_->finished[i]) {
      WB_RETURN_IF_ERROR(state_->FinishFile(i));
    }
  }
  return {};
}

Status SafetensorsWriter::Finish() {
  WB_RETURN_IF_ERROR(FinishFiles());
  const SafetensorsPlan& plan = state_->plan;
  if (plan.index_json.empty()) return {};
  return ReplaceFile(state_->folder / plan.index_name, plan.index_json, Durability::kSynced);
}

Status SafetensorsWriter::ReadBack(int threads, ReadBackMode mode) const {
  return ReadBackFiles(state_->files, mode, threads);
}

}  // namespace weighbridge
