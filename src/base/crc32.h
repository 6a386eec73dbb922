// CRC-32 as ZIP has it (polynomial 0xEDB88320, reflected), and the CRC of data whose pieces arrive
// in any order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace weighbridge {

// Of `bytes`, or of bytes whose CRC is `before` and then these.
uint32_t Crc32(std::span<const std::byte> bytes, uint32_t before = 0);
uint32_t Crc32(std::string_view text);

// What a piece with the CRC `crc` adds to the CRC of the whole when `bytes_after` bytes follow it:
// the CRC of the whole is the XOR of this over all pieces, whatever their order. About 0.5 us.
uint32_t Crc32Shift(uint32_t crc, uint64_t bytes_after);

}  // namespace weighbridge
