#include "base/hash.h"

#include <gtest/gtest.h>

#include <string_view>

namespace weighbridge {
namespace {

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Known answers of `xxhsum -H2`.
TEST(Xxh3, GivesTheCanonicalDigests) {
  EXPECT_EQ(Xxh3Hex({}), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(Xxh3Hex(Bytes("a")), "a96faf705af16834e6c632b61e964e1f");
}

TEST(Xxh3, DoesNotDependOnHowTheBytesAreCut) {
  std::string text;
  for (int i = 0; i < 5000; ++i) text.push_back(static_cast<char>(i * 7));
  for (size_t step : {1u, 7u, 240u, 1024u, 5000u}) {
    Xxh3Stream stream;
    for (size_t at = 0; at < text.size(); at += step) {
      stream.Update(Bytes(std::string_view(text).substr(at, step)));
    }
    EXPECT_EQ(stream.Hex(), Xxh3Hex(Bytes(text))) << step;
  }
}

TEST(Xxh3, DigestsAreReadFromWhatTheyPrint) {
  const auto digest = Xxh3Digest::Parse("a96faf705af16834e6c632b61e964e1f");
  ASSERT_TRUE(digest);
  EXPECT_EQ(digest->Hex(), Xxh3Hex(Bytes("a")));
  for (const char* text :
       {"", "a96faf705af16834e6c632b61e964e1", "A96faf705af16834e6c632b61e964e1f",
        "g96faf705af16834e6c632b61e964e1f", "a96faf705af16834e6c632b61e964e1f0"}) {
    EXPECT_FALSE(Xxh3Digest::Parse(text)) << text;
  }
}

}  // namespace
}  // namespace weighbridge
