// The directory of a ZIP archive whose members are stored without compression. Reads no content.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace weighbridge {

struct ZipMember {
  std::string_view name;  // into the archive's bytes; unique
  uint64_t offset = 0;    // of its content
  uint64_t size = 0;
  uint32_t crc32 = 0;  // of its content, not checked
};

struct ZipArchive {
  std::vector<ZipMember> members;  // in the order of the directory
  std::span<const std::byte> directory;
};

// `bytes` is the whole archive; `where` its place for errors. Guarantees on success: the members
// lie in the archive in one row, from its first byte to the directory, each once, without overlap
// and without bytes between them that are none's; local headers say what the directory says.
// Errors: kCorrupt "file-truncated" (there is no end of a directory), "header-corrupt";
// kUnsupported for members that are compressed or encrypted, and archives of several files.
Result<ZipArchive> ReadZip(std::span<const std::byte> bytes, const std::string& where);

// The CRC-32 of zip.
uint32_t Crc32(std::span<const std::byte> bytes);

}  // namespace weighbridge
