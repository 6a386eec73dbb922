// A small file cut at every byte, and with every bit of its header flipped.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>

#include "formats/safetensors/header.h"
#include "formats/safetensors/writer.h"

namespace weighbridge {
namespace {

std::string SmallFile() {
  auto plan = PlanSafetensors(
      {{"a", DType::kF32, {2, 3}}, {"b", DType::kBF16, {4}}, {"c", DType::kU8, {5}}});
  EXPECT_TRUE(plan);
  std::string file = plan->files[0].header;
  while (file.size() < plan->files[0].nbytes) file.push_back(static_cast<char>(file.size()));
  return file;
}

Result<SafetensorsHeader> Parse(const std::string& file) {
  // An exact heap copy, so that AddressSanitizer sees every read past the end.
  const std::vector<char> exact(file.begin(), file.end());
  return ParseSafetensorsHeader(std::as_bytes(std::span(exact)), "small.safetensors");
}

// Everything that the header says, as text.
std::string Meaning(const SafetensorsHeader& header) {
  std::string text;
  for (const auto& [key, value] : header.metadata) text += fmt::format("{}={};", key, value);
  for (const TensorInfo& t : header.tensors) {
    text += fmt::format("{} {} {} {} {};", t.name, SafetensorsName(t.dtype), ToString(t.shape),
                        t.offset, t.nbytes);
  }
  return text;
}

TEST(SafetensorsHeader, RefusesASmallFileCutAtEveryByte) {
  const std::string file = SmallFile();
  ASSERT_TRUE(Parse(file));
  for (size_t size = 0; size < file.size(); ++size) {
    const auto header = Parse(file.substr(0, size));
    ASSERT_FALSE(header) << size;
    EXPECT_EQ(header.error().kind, ErrorKind::kCorrupt);
    EXPECT_EQ(header.error().id, "file-truncated") << size << ": " << header.error().what;
  }
}

TEST(SafetensorsHeader, RefusesAnyBytesBehindTheLastTensor) {
  std::string file = SmallFile();
  for (int i = 0; i < 64; ++i) {
    file.push_back(static_cast<char>(i));
    const auto header = Parse(file);
    ASSERT_FALSE(header);
    EXPECT_EQ(header.error().id, "bytes-overlap");
  }
}

// True when flipping `mask` in byte `at` leaves a valid header: the byte is a character of a
// tensor's name or of a metadata string, stays plain ASCII, and no two names become equal.
bool FlipMakesAnotherValidHeader(const std::string& file, size_t at, char mask) {
  const auto flipped = static_cast<unsigned char>(file[at] ^ mask);
  if (flipped < 0x20 || flipped >= 0x80 || flipped == '"' || flipped == '\\') return false;
  for (const char* text : {"format", "pt"}) {
    const size_t start = file.find(fmt::format("\"{}\"", text)) + 1;
    if (at >= start && at < start + std::strlen(text)) return true;
  }
  const std::string names = "abc";
  for (char name : names) {
    if (at != file.find(fmt::format("\"{}\":", name)) + 1) continue;
    return names.find(static_cast<char>(flipped)) == names.npos;
  }
  return false;
}

TEST(SafetensorsHeader, RefusesEveryFlippedBitOfItThatDoesNotSpellAnotherName) {
  const std::string file = SmallFile();
  const auto original = Parse(file);
  ASSERT_TRUE(original);
  int accepted = 0;
  for (size_t bit = 0; bit < original->data_start() * 8; ++bit) {
    const auto mask = static_cast<char>(1 << (bit % 8));
    std::string flipped = file;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ mask);
    const auto header = Parse(flipped);
    EXPECT_EQ(header.has_value(), FlipMakesAnotherValidHeader(file, bit / 8, mask))
        << "bit " << bit << ": " << (header ? Meaning(*header) : header.error().what);
    if (!header) {
      EXPECT_EQ(header.error().kind, ErrorKind::kCorrupt) << bit;
      continue;
    }
    EXPECT_NE(Meaning(*header), Meaning(*original)) << "bit " << bit << " changes nothing";
    ++accepted;
  }
  EXPECT_EQ(accepted, 72);
}

}  // namespace
}  // namespace weighbridge
