#include <gtest/gtest.h>

#include "base/crc32.h"
#include "formats/torch_file/write.h"

namespace weighbridge {
namespace {

// Byte i of the recorded tensors; a bool has its lowest bit.
std::string Pattern(DType dtype, uint64_t nbytes) {
  std::string bytes(nbytes, '\0');
  for (uint64_t i = 0; i < nbytes; ++i) {
    const uint64_t value = i * 31 + (i >> 8);
    bytes[i] = static_cast<char>(dtype == DType::kBool ? value & 1 : value);
  }
  return bytes;
}

struct Recorded {
  DType dtype;
  Shape shape;
  size_t nbytes;
  uint32_t crc;  // of the whole file
};

// torch.save of torch 2.11.0 into a buffer.
const std::vector<Recorded> kRecorded = {
    {DType::kF32, {2, 3}, 1577, 0xb7caa749},
    {DType::kBF16, {64, 300}, 39977, 0xb9bba1f5},
    {DType::kF16, {}, 1577, 0x4a266f85},
    {DType::kF8E4M3, {5, 7}, 1641, 0x3bdc9ca9},
    {DType::kI64, {1, 1, 1, 1, 7}, 1577, 0x740a6d77},
    {DType::kBool, {3}, 1577, 0xbb68a109},
    {DType::kF32, {0, 5}, 1513, 0xe7e4cf05},
    {DType::kU64, {70000}, 561577, 0xc533fb12},
};

TEST(TorchFileWriter, WritesTheBytesThatTorchSaves) {
  for (const Recorded& r : kRecorded) {
    const auto zip = PlanTorchTensor(r.dtype, r.shape);
    ASSERT_TRUE(zip) << zip.error().what;
    const std::string data = Pattern(r.dtype, zip->data_bytes);
    const std::string file = zip->head + data + zip->Tail(Crc32(data));
    EXPECT_EQ(zip->nbytes(), r.nbytes) << ToString(r.shape);
    EXPECT_EQ(file.size(), r.nbytes) << ToString(r.shape);
    EXPECT_EQ(Crc32(file), r.crc) << ToString(r.shape);
  }
}

struct RecordedHuge {
  uint64_t data_bytes, nbytes;
  uint32_t data_crc, head_crc, tail_crc;
};

// torch.save of uint8 zeros: the member's size reaches 32 bits, the places behind it do, both do.
TEST(TorchFileWriter, WritesTheBytesThatTorchSavesBeyond4GiB) {
  for (const RecordedHuge& r :
       {RecordedHuge{4294967294, 4294968905, 0x0f6a7026, 0xc9f7cdc7, 0x07bc2d56},
        RecordedHuge{4294967295, 4294968925, 0x00000000, 0x06737a10, 0x8b198e63},
        RecordedHuge{4294967301, 4294968925, 0xb1c2a1a3, 0xa25bdf09, 0x53f2ad2e}}) {
    const auto zip = PlanTorchTensor(DType::kU8, {static_cast<int64_t>(r.data_bytes)});
    ASSERT_TRUE(zip) << zip.error().what;
    EXPECT_EQ(zip->nbytes(), r.nbytes);
    EXPECT_EQ(zip->head.size(), 704u);
    EXPECT_EQ(Crc32(zip->head), r.head_crc);
    EXPECT_EQ(Crc32(zip->Tail(r.data_crc)), r.tail_crc);
  }
}

TEST(TorchFileWriter, BeginsTheDataAtAMultipleOf64) {
  for (int64_t n : {1, 9, 100, 1000, 70000}) {
    EXPECT_EQ(PlanTorchTensor(DType::kBF16, {n, n, n})->head.size() % 64, 0u);
  }
}

TEST(TorchFileWriter, RefusesPackedDtypesAndSizesThatOverflow) {
  EXPECT_EQ(PlanTorchTensor(DType::kF4, {2}).error().id, "unsupported-dtype");
  for (const Shape& shape : {Shape{INT64_MAX, 2}, Shape{INT64_MAX}, Shape{0, INT64_MAX, 2}}) {
    EXPECT_EQ(PlanTorchTensor(DType::kF32, shape).error().id, "invalid-tensor");
  }
}

}  // namespace
}  // namespace weighbridge
