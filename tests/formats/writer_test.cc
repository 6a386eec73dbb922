#include "formats/safetensors/writer.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <thread>

#include "base/atomic_output.h"
#include "base/json.h"
#include "formats/safetensors/reader.h"
#include "support/temp_dir.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using testing::ReadBytes;
using testing::TempDir;

// Byte i of a tensor, different for each tensor.
std::byte Pattern(size_t tensor, uint64_t i) {
  return static_cast<std::byte>(i * 31 + tensor * 17 + (i >> 8));
}
std::vector<std::byte> PatternBytes(size_t tensor, uint64_t nbytes) {
  std::vector<std::byte> bytes(nbytes);
  for (uint64_t i = 0; i < nbytes; ++i) bytes[i] = Pattern(tensor, i);
  return bytes;
}

void WriteAll(SafetensorsWriter& writer, uint64_t piece) {
  for (size_t t = writer.plan().tensors.size(); t-- > 0;) {
    const auto bytes = PatternBytes(t, writer.plan().tensors[t].nbytes);
    for (uint64_t at = 0; at < bytes.size(); at += piece) {
      const auto n = std::min<uint64_t>(piece, bytes.size() - at);
      ASSERT_TRUE(writer.Write(t, at, std::span(bytes).subspan(at, n)));
    }
  }
}

void WriteFolder(const fs::path& folder, const std::vector<TensorInfo>& tensors,
                 const SafetensorsWriteOptions& options, uint64_t piece) {
  fs::create_directories(folder);
  auto plan = PlanSafetensors(tensors, options);
  ASSERT_TRUE(plan) << plan.error().what;
  auto writer = SafetensorsWriter::Create(folder, *plan);
  ASSERT_TRUE(writer) << writer.error().what;
  WriteAll(*writer, piece);
  const auto finished = writer->Finish();
  ASSERT_TRUE(finished) << finished.error().what;
}

const std::vector<TensorInfo> kThree = {
    {"b", DType::kBF16, {2, 3}}, {"a", DType::kBF16, {4}}, {"c", DType::kF32, {}}};

// The bytes that `safetensors.torch.save_file` writes for these tensors (header copied from a file
// of version 0.8.0, checked again by tests/python).
TEST(SafetensorsWriter, OrdersTensorsAsTheReferenceDoes) {
  const auto plan = PlanSafetensors(kThree);
  ASSERT_TRUE(plan);
  ASSERT_EQ(plan->files.size(), 1u);
  EXPECT_EQ(
      plan->files[0].header.substr(8),
      R"({"__metadata__":{"format":"pt"},"c":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
      R"("a":{"dtype":"BF16","shape":[4],"data_offsets":[4,12]},)"
      R"("b":{"dtype":"BF16","shape":[2,3],"data_offsets":[12,24]}}   )");
  EXPECT_EQ(plan->files[0].header.size() % 8, 0u);
  EXPECT_EQ(plan->files[0].name, "model.safetensors");
  EXPECT_EQ(plan->total_size, 24u);
  EXPECT_TRUE(plan->index_json.empty());
}

TEST(SafetensorsWriter, ShardsInOrderAsSavePretrainedDoes) {
  const std::vector<TensorInfo> tensors = {{"t0", DType::kU8, {40}},
                                           {"t1", DType::kU8, {200}},
                                           {"t2", DType::kU8, {60}},
                                           {"t3", DType::kU8, {1}},
                                           {"t4", DType::kU8, {99}}};
  const auto plan = PlanSafetensors(tensors, {.max_shard_bytes = 100});
  ASSERT_TRUE(plan);
  // t1 is larger than a shard: alone, and first to be closed.
  std::vector<std::string> where;
  for (const TensorInfo& t : plan->tensors) where.push_back(plan->files[t.file].name.substr(6, 5));
  EXPECT_EQ(where, (std::vector<std::string>{"00002", "00001", "00002", "00003", "00003"}));
  EXPECT_EQ(plan->files[2].name, "model-00003-of-00003.safetensors");
  EXPECT_EQ(plan->index_name, "model.safetensors.index.json");
  EXPECT_TRUE(
      plan->index_json.starts_with("{\n  \"metadata\": {\n    \"total_size\": 400\n  },\n  "
                                   "\"weight_map\": {\n    \"t0\": \"model-00002"));
  EXPECT_TRUE(plan->index_json.ends_with("\n  }\n}\n"));
}

TEST(SafetensorsWriter, GivesTheSameBytesForAnyOrderAndSizeOfPieces) {
  TempDir dir;
  WriteFolder(dir / "whole", kThree, {}, 1000);
  WriteFolder(dir / "bytes", kThree, {}, 1);
  EXPECT_EQ(ReadBytes(dir / "whole/model.safetensors"), ReadBytes(dir / "bytes/model.safetensors"));
}

TEST(SafetensorsWriter, TakesPiecesFromSeveralThreads) {
  TempDir dir;
  auto plan = PlanSafetensors({{"a", DType::kU8, {1 << 16}}, {"b", DType::kU8, {1 << 16}}},
                              {.max_shard_bytes = 1 << 16});
  auto writer = SafetensorsWriter::Create(dir.path(), *plan);
  ASSERT_TRUE(writer);
  std::vector<std::thread> threads;
  for (size_t k = 0; k < 4; ++k) {
    threads.emplace_back([&, k] {
      for (size_t t = 0; t < 2; ++t) {
        const auto bytes = PatternBytes(t, 1 << 16);
        for (uint64_t at = k * 64; at < bytes.size(); at += 4 * 64) {
          EXPECT_TRUE(writer->Write(t, at, std::span(bytes).subspan(at, 64)));
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  ASSERT_TRUE(writer->Finish());
  const auto checkpoint = OpenSafetensors(dir.path());
  ASSERT_TRUE(checkpoint) << checkpoint.error().what;
  for (size_t t = 0; t < 2; ++t) {
    EXPECT_TRUE(std::ranges::equal((*checkpoint)->Data((*checkpoint)->tensors()[t]),
                                   PatternBytes(t, 1 << 16)));
  }
}

TEST(SafetensorsWriter, RefusesToFinishBeforeEveryByteIsThere) {
  TempDir dir;
  auto writer = SafetensorsWriter::Create(dir.path(), *PlanSafetensors(kThree));
  ASSERT_TRUE(writer);
  const auto bytes = PatternBytes(0, 12);
  ASSERT_TRUE(writer->Write(0, 0, std::span(bytes).first(11)));
  const auto finished = writer->Finish();
  ASSERT_FALSE(finished);
  EXPECT_NE(finished.error().what.find("'b' has 12 bytes: 11 were written"), std::string::npos)
      << finished.error().what;
  EXPECT_FALSE(writer->Write(0, 11, std::span(bytes).first(2)));
  EXPECT_FALSE(writer->Write(0, UINT64_MAX, std::span(bytes).first(2)));
  EXPECT_FALSE(writer->Write(3, 0, {}));
}

TEST(SafetensorsWriter, RefusesTensorsThatNoFileCanHold) {
  EXPECT_FALSE(PlanSafetensors({{"a", DType::kU8, {1}}, {"a", DType::kU8, {1}}}));
  EXPECT_FALSE(PlanSafetensors({{"__metadata__", DType::kU8, {1}}}));
  EXPECT_FALSE(PlanSafetensors({{"\xff", DType::kU8, {1}}}));
  EXPECT_FALSE(PlanSafetensors({{"a", DType::kF4, {3}}}));
  EXPECT_FALSE(PlanSafetensors({{"a", DType::kU8, {int64_t{1} << 62, 4}}}));
  EXPECT_FALSE(PlanSafetensors({{"a", DType::kU8, {-1}}}));
  EXPECT_FALSE(PlanSafetensors({{"a", DType::kU8, {INT64_MAX}}}));
  EXPECT_FALSE(PlanSafetensors({}, {.metadata = {{"k", "\xc0"}}}));
}

TEST(SafetensorsWriter, WritesOneFileThroughAnAtomicFile) {
  TempDir dir;
  auto file = AtomicFile::Create(dir / "weights.safetensors");
  ASSERT_TRUE(file);
  auto writer = SafetensorsWriter::CreateFile(file->partial(), *PlanSafetensors(kThree));
  ASSERT_TRUE(writer) << writer.error().what;
  WriteAll(*writer, 5);
  ASSERT_TRUE(writer->Finish());
  ASSERT_TRUE(file->Commit());
  EXPECT_EQ((*OpenSafetensors(dir / "weights.safetensors"))->tensors().size(), 3u);
}

rc::Gen<TensorInfo> AnyTensor() {
  return rc::gen::exec([] {
    TensorInfo t;
    t.dtype = AllDTypes()[*rc::gen::inRange<size_t>(0, AllDTypes().size())].dtype;
    const auto rank = *rc::gen::inRange(0, 4);
    for (int i = 0; i < rank; ++i) t.shape.push_back(*rc::gen::inRange(0, 5));
    // Packed dtypes need a whole number of bytes.
    if (BitsOf(t.dtype) < 8) t.shape.push_back(4);
    return t;
  });
}

RC_GTEST_PROP(SafetensorsWriter, WhatIsWrittenIsReadBack, ()) {
  auto tensors = *rc::gen::container<std::vector<TensorInfo>>(AnyTensor());
  for (size_t i = 0; i < tensors.size(); ++i) {
    tensors[i].name =
        *rc::gen::elementOf(std::vector<std::string>{"ä", "\"", "\n", "x.y", "\x7f"}) +
        std::to_string(i);
  }
  const uint64_t max_shard = *rc::gen::inRange(1, 200);
  TempDir dir;
  WriteFolder(dir.path(), tensors, {.max_shard_bytes = max_shard}, 7);
  const auto checkpoint = OpenSafetensors(dir.path());
  RC_ASSERT(checkpoint.has_value());
  RC_ASSERT((*checkpoint)->tensors().size() == tensors.size());
  RC_ASSERT((*checkpoint)->notes().empty());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo* found = (*checkpoint)->Find(tensors[i].name);
    RC_ASSERT(found != nullptr);
    RC_ASSERT(found->dtype == tensors[i].dtype);
    RC_ASSERT(found->shape == tensors[i].shape);
    RC_ASSERT(std::ranges::equal((*checkpoint)->Data(*found), PatternBytes(i, found->nbytes)));
  }
}

}  // namespace
}  // namespace weighbridge
