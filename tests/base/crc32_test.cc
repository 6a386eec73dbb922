#include "base/crc32.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <vector>

namespace weighbridge {
namespace {

// The check value of CRC-32/ISO-HDLC in the catalogue of parametrised CRC algorithms, and zlib's.
TEST(Crc32, GivesThePublishedCheckValue) {
  EXPECT_EQ(Crc32("123456789"), 0xcbf43926u);
  EXPECT_EQ(Crc32(""), 0u);
  EXPECT_EQ(Crc32(std::string_view("\0\0\0\0", 4)), 0x2144df1cu);
}

TEST(Crc32, GoesOnFromAnEarlierValue) {
  const auto all = std::as_bytes(std::span("123456789", 9));
  EXPECT_EQ(Crc32(all.subspan(4), Crc32(all.first(4))), 0xcbf43926u);
}

// zlib.crc32 of 2^32 + 5 zeros, and of 2^32 - 1.
TEST(Crc32, ShiftsOverMoreThan4GiB) {
  const std::vector<std::byte> block(1 << 20);
  const uint32_t crc = Crc32(block);
  for (const auto& [nbytes, expected] :
       {std::pair<uint64_t, uint32_t>{4294967301, 0xb1c2a1a3}, {4294967294, 0x0f6a7026}}) {
    uint32_t sum = 0;
    for (uint64_t left = nbytes; left > 0;) {
      const uint64_t n = std::min<uint64_t>(left, block.size());
      left -= n;
      sum ^= Crc32Shift(n == block.size() ? crc : Crc32(std::span(block).first(n)), left);
    }
    EXPECT_EQ(sum, expected);
  }
}

RC_GTEST_PROP(Crc32, IsTheXorOfShiftedPieces, (const std::vector<uint8_t>& data)) {
  const auto bytes = std::as_bytes(std::span(data));
  std::vector<size_t> cuts =
      *rc::gen::container<std::vector<size_t>>(rc::gen::inRange<size_t>(0, data.size() + 1));
  cuts.push_back(0);
  cuts.push_back(data.size());
  std::sort(cuts.begin(), cuts.end());
  uint32_t sum = 0;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    const auto piece = bytes.subspan(cuts[i], cuts[i + 1] - cuts[i]);
    sum ^= Crc32Shift(Crc32(piece), data.size() - cuts[i + 1]);
  }
  RC_ASSERT(sum == Crc32(bytes));
}

}  // namespace
}  // namespace weighbridge
