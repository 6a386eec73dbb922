// What stands in the files of a plan beside the tensors' bytes: heads and ends of archives.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "base/result.h"
#include "formats/torch_dist/plan.h"

namespace weighbridge {

// The CRC-32 of a chunk's data: (tensor, chunk).
using ChunkCrc = std::function<uint32_t(uint32_t, uint32_t)>;
using UseText = std::function<Status(uint64_t offset, std::string_view text)>;

// Calls `use` for all texts of a file in rising order; stops at the first error.
Status ForEachText(const TorchDistPlan& plan, const TorchDistPlan::File& file, const ChunkCrc& crc,
                   const UseText& use);

// For a file with a pickle: fills in where each chunk's data stands, and the file's size.
// data_bytes of the chunks are known.
void PlaceInArchive(TorchDistPlan& plan, size_t file);

}  // namespace weighbridge
