// The header of one safetensors file (FORMAT.md): 8 bytes of little-endian length, then JSON that
// names every tensor with dtype, shape and byte range. Nothing here reads tensor data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "formats/checkpoint.h"

namespace weighbridge {

// Files with a longer header are refused by the reference library; we read them and say so.
inline constexpr uint64_t kReferenceHeaderLimit = 100'000'000;

struct SafetensorsHeader {
  uint64_t json_bytes = 0;  // as the first 8 bytes say, padding included
  // Sorted by name. `offset` is counted from the start of the file; `file` is 0.
  std::vector<TensorInfo> tensors;
  std::map<std::string, std::string> metadata;  // __metadata__

  uint64_t data_start() const { return 8 + json_bytes; }
};

// Parses and checks the header of a whole mapped file. `name` is what messages call the file.
// Guarantees on success: names are unique; every shape's product fits int64; nbytes is what dtype
// and shape ask for; the ranges cover the data section exactly once, without a gap, up to the last
// byte. Errors are kCorrupt: file-truncated, header-corrupt, bytes-overlap, duplicate-name; `at` is
// NAME:OFFSET. As strict as the reference implementation, and stricter where FORMAT.md says so.
Result<SafetensorsHeader> ParseSafetensorsHeader(std::span<const std::byte> file,
                                                 const std::string& name);

// True when the first bytes can be the start of a safetensors file: a plausible length, then '{'.
bool LooksLikeSafetensors(std::span<const std::byte> file);

}  // namespace weighbridge
