#include "formats/torch_dist/texts.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <string>

#include "base/crc32.h"
#include "formats/torch_file/stored_zip.h"
#include "formats/torch_file/write.h"

namespace weighbridge {
namespace {

using File = TorchDistPlan::File;
using UseData = std::function<void(uint32_t tensor, uint32_t chunk, uint64_t offset)>;

// torch.save names the folder in its archive after the file.
std::string ArchiveName(const File& file) { return std::filesystem::path(file.name).stem(); }

// The chunks of a tensor stand one behind the other in one storage.
Status WalkArchive(const TorchDistPlan& plan, const File& file, const ChunkCrc& crc,
                   const UseText& use, const UseData& data) {
  StoredZip zip{ArchiveName(file)};
  BeginTorchArchive(zip, file.pickle);
  uint64_t at = 0;
  const auto flush = [&](const std::string& text) -> Status {
    WB_RETURN_IF_ERROR(use(at, text));
    at += text.size();
    return {};
  };
  uint32_t storage = 0;
  for (size_t i = 0; i < file.chunks.size(); ++storage) {
    const uint32_t tensor = file.chunks[i].first;
    size_t end = i;
    uint64_t left = 0;
    for (; end < file.chunks.size() && file.chunks[end].first == tensor; ++end) {
      left += plan.tensors[tensor].chunks[file.chunks[end].second].data_bytes;
    }
    zip.BeginData(fmt::format("data/{}", storage), left);
    WB_RETURN_IF_ERROR(flush(zip.TakeText()));
    uint32_t sum = 0;
    for (; i < end; ++i) {
      const uint32_t chunk = file.chunks[i].second;
      const uint64_t bytes = plan.tensors[tensor].chunks[chunk].data_bytes;
      data(tensor, chunk, at);
      at += bytes;
      left -= bytes;
      sum ^= Crc32Shift(crc(tensor, chunk), left);
    }
    zip.EndData(sum);
  }
  for (uint32_t i = 0; i < file.empty_storages; ++i) {
    zip.Add(fmt::format("data/{}", storage + i), "");
  }
  return flush(FinishTorchArchive(zip));
}

Status ForEachArchive(const TorchDistPlan& plan, const File& file, const ChunkCrc& crc,
                      const UseText& use) {
  uint64_t begin = 0;
  std::string text;
  for (uint32_t i : file.entries) {
    WB_RETURN_IF_ERROR(use(begin, plan.entries[i].content));
    begin += plan.entries[i].content.size();
  }
  for (const auto& [t, c] : file.chunks) {
    const TorchDistChunk& chunk = plan.tensors[t].chunks[c];
    WB_TRY(const auto zip, PlanTorchTensor(plan.tensors[t].dtype, chunk.sizes));
    text += zip.head;
    WB_RETURN_IF_ERROR(use(begin, text));
    begin = chunk.data_offset + chunk.data_bytes;
    text = zip.Tail(crc(t, c));
  }
  return use(begin, text);
}

}  // namespace

Status ForEachText(const TorchDistPlan& plan, const File& file, const ChunkCrc& crc,
                   const UseText& use) {
  if (file.pickle.empty()) return ForEachArchive(plan, file, crc, use);
  return WalkArchive(plan, file, crc, use, [](uint32_t, uint32_t, uint64_t) {});
}

void PlaceInArchive(TorchDistPlan& plan, size_t file) {
  File& f = plan.files[file];
  const Status walked = WalkArchive(
      plan, f, [](uint32_t, uint32_t) { return 0; },
      [&](uint64_t offset, std::string_view text) -> Status {
        f.nbytes = offset + text.size();
        return {};
      },
      [&](uint32_t tensor, uint32_t chunk, uint64_t offset) {
        TorchDistChunk& c = plan.tensors[tensor].chunks[chunk];
        c.file = static_cast<uint32_t>(file);
        c.data_offset = offset;
      });
  (void)walked;  // nothing in it can fail
}

}  // namespace weighbridge
