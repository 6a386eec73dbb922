#include "formats/torch_dist/plan.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <span>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "base/checked.h"
#include "formats/torch_file/write.h"

namespace weighbridge {
namespace {

tl::unexpected<Error> FailPlan(std::string problem) {
  return Fail(ErrorKind::kInvalid, "invalid-tensor", std::move(problem));
}

Status CheckKey(const std::string& key, std::unordered_set<std::string_view>& keys) {
  if (key.empty()) return FailPlan("a tensor has no name");
  if (!simdjson::validate_utf8(key.data(), key.size())) {
    return FailPlan("a tensor's name is not valid UTF-8");
  }
  if (!keys.insert(key).second) return FailPlan(fmt::format("'{}' is given twice", key));
  return {};
}

bool FitsInto(const TorchDistChunk& chunk, const Shape& shape) {
  if (chunk.offsets.size() != shape.size() || chunk.sizes.size() != shape.size()) return false;
  for (size_t i = 0; i < shape.size(); ++i) {
    const int64_t offset = chunk.offsets[i], size = chunk.sizes[i];
    if (offset < 0 || size < 0 || offset > shape[i] || size > shape[i] - offset) return false;
  }
  return true;
}

using Chunks = std::vector<const TorchDistChunk*>;

// Whether the chunks, seen from `axis` on, cover each element of `shape` once. Axis by axis:
// between two neighbouring ends of chunks the same chunks are cut everywhere. None is empty, all
// fit.
bool Tiles(Chunks chunks, const Shape& shape, size_t axis) {
  if (axis == shape.size()) return chunks.size() == 1;
  std::vector<int64_t> ends = {0, shape[axis]};
  for (const auto* c : chunks) {
    ends.push_back(c->offsets[axis]);
    ends.push_back(c->offsets[axis] + c->sizes[axis]);
  }
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  std::sort(chunks.begin(), chunks.end(),
            [&](const auto* a, const auto* b) { return a->offsets[axis] < b->offsets[axis]; });
  Chunks active;
  auto next = chunks.begin();
  for (size_t i = 0; i + 1 < ends.size(); ++i) {
    std::erase_if(active,
                  [&](const auto* c) { return c->offsets[axis] + c->sizes[axis] <= ends[i]; });
    for (; next != chunks.end() && (*next)->offsets[axis] == ends[i]; ++next) {
      active.push_back(*next);
    }
    if (!Tiles(active, shape, axis + 1)) return false;
  }
  return true;
}

Status CheckChunks(const TorchDistTensor& t) {
  const auto numel = CheckedNumel(t.shape);
  if (!numel) return FailPlan(fmt::format("'{}': {} overflows", t.key, ToString(t.shape)));
  Chunks chunks;
  for (const TorchDistChunk& c : t.chunks) {
    if (!FitsInto(c, t.shape)) {
      return FailPlan(fmt::format("'{}': the chunk {} at {} does not fit into {}", t.key,
                                  ToString(c.sizes), ToString(c.offsets), ToString(t.shape)));
    }
    if (*numel != 0 && Numel(c.sizes) == 0) {
      return FailPlan(fmt::format("'{}' has a chunk without elements", t.key));
    }
    chunks.push_back(&c);
  }
  const bool good = *numel == 0 ? t.chunks.size() == 1 && t.chunks[0].sizes == t.shape
                                : Tiles(std::move(chunks), t.shape, 0);
  if (good) return {};
  return FailPlan(fmt::format("'{}': its {} chunks do not cover each element of {} once", t.key,
                              t.chunks.size(), ToString(t.shape)));
}

Result<uint64_t> AddToFile(uint64_t& end, uint64_t nbytes) {
  const uint64_t begin = end;
  const auto next = CheckedAdd(end, nbytes);
  if (!next || *next > INT64_MAX) return FailPlan("the tensors together overflow a file's size");
  end = *next;
  return begin;
}

Status Place(TorchDistPlan::File& file, TorchDistPlan& plan) {
  for (uint32_t i : file.entries) {
    TorchDistBytes& e = plan.entries[i];
    WB_TRY(e.entry_offset, AddToFile(file.nbytes, e.content.size()));
  }
  for (const auto& [tensor, chunk] : file.chunks) {
    TorchDistChunk& c = plan.tensors[tensor].chunks[chunk];
    WB_TRY(const auto zip, PlanTorchTensor(plan.tensors[tensor].dtype, c.sizes));
    c.entry_bytes = zip.nbytes();
    c.data_bytes = zip.data_bytes;
    WB_TRY(c.entry_offset, AddToFile(file.nbytes, c.entry_bytes));
    c.file = static_cast<uint32_t>(plan.files.size());
    c.data_offset = c.entry_offset + zip.head.size();
  }
  return {};
}

}  // namespace

uint64_t TorchDistPlan::TotalFileBytes() const {
  return std::accumulate(files.begin(), files.end(), uint64_t{0},
                         [](uint64_t sum, const File& file) { return sum + file.nbytes; });
}

Result<TorchDistPlan> PlanTorchDist(std::vector<TorchDistTensor> tensors,
                                    std::vector<TorchDistBytes> entries) {
  std::unordered_set<std::string_view> keys;
  std::map<uint32_t, TorchDistPlan::File> files;
  for (uint32_t i = 0; i < entries.size(); ++i) {
    WB_RETURN_IF_ERROR(CheckKey(entries[i].key, keys));
    files[entries[i].writer].entries.push_back(i);
  }
  for (uint32_t i = 0; i < tensors.size(); ++i) {
    WB_RETURN_IF_ERROR(CheckKey(tensors[i].key, keys));
    WB_RETURN_IF_ERROR(CheckChunks(tensors[i]));
    for (uint32_t c = 0; c < tensors[i].chunks.size(); ++c) {
      files[tensors[i].chunks[c].writer].chunks.emplace_back(i, c);
    }
  }
  TorchDistPlan plan{std::move(tensors), std::move(entries), {}};
  for (auto& [writer, file] : files) {
    file.writer = writer;
    file.name = fmt::format("__{}_0.distcp", writer);
    WB_RETURN_IF_ERROR(Place(file, plan));
    plan.files.push_back(std::move(file));
  }
  return plan;
}

}  // namespace weighbridge
