#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <map>

#include "base/crc32.h"
#include "base/threads.h"
#include "formats/torch_dist/metadata.h"
#include "formats/torch_dist/run_files.h"
#include "formats/torch_dist/writer.h"
#include "support/temp_dir.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::ReadBytes;
using testing::TempDir;
using testing::WriteBytes;

const std::vector<TorchDistTensor> kTensors = {
    {"embedding", DType::kBF16, {600, 64}, {{{0, 0}, {300, 64}, 0}, {{300, 0}, {300, 64}, 1}}},
    {"layers.fc2",
     DType::kF32,
     {2, 5, 4},
     {{{0, 0, 0}, {1, 5, 2}, 0},
      {{1, 0, 0}, {1, 5, 2}, 0},
      {{0, 0, 2}, {1, 5, 2}, 1},
      {{1, 0, 2}, {1, 5, 2}, 1}}},
    {"scalar", DType::kI64, {}, {{{}, {}, 1}}},
    {"empty", DType::kF16, {0, 3}, {{{0, 0}, {0, 3}, 0}}},
};

std::vector<TorchDistBytes> Entries() {
  return {CommonStateEntry({}), ExtraStateEntry("fc2._extra_state/shard_0_2", false, 1)};
}

std::vector<std::byte> Pattern(size_t tensor, size_t chunk, uint64_t nbytes) {
  std::vector<std::byte> bytes(nbytes);
  for (uint64_t i = 0; i < nbytes; ++i) {
    bytes[i] = static_cast<std::byte>(i * 31 + tensor * 17 + chunk * 5 + (i >> 8));
  }
  return bytes;
}

struct Piece {
  size_t tensor, chunk;
  uint64_t offset, nbytes;
};

void WriteAll(TorchDistWriter& writer, int threads, uint64_t piece) {
  std::vector<Piece> pieces;
  const auto& tensors = writer.plan().tensors;
  for (size_t t = tensors.size(); t-- > 0;) {
    for (size_t c = 0; c < tensors[t].chunks.size(); ++c) {
      const uint64_t nbytes = tensors[t].chunks[c].data_bytes;
      for (uint64_t at = 0; at < nbytes; at += piece) {
        pieces.push_back({t, c, at, std::min(piece, nbytes - at)});
      }
    }
  }
  ParallelFor(pieces.size(), threads, [&](size_t i) {
    const Piece& p = pieces[i];
    const auto bytes = Pattern(p.tensor, p.chunk, tensors[p.tensor].chunks[p.chunk].data_bytes);
    EXPECT_TRUE(
        writer.Write(p.tensor, p.chunk, p.offset, std::span(bytes).subspan(p.offset, p.nbytes)));
  });
}

TorchDistWriter Create(const fs::path& folder,
                       const std::vector<TorchDistTensor>& tensors = kTensors) {
  auto plan = PlanTorchDist(tensors, Entries());
  EXPECT_TRUE(plan) << plan.error().what;
  auto writer = TorchDistWriter::Create(folder, *plan);
  EXPECT_TRUE(writer) << writer.error().what;
  return std::move(*writer);
}

std::map<std::string, std::string> Contents(const fs::path& folder) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : fs::directory_iterator(folder)) {
    contents[entry.path().filename()] = ReadBytes(entry.path());
  }
  return contents;
}

uint64_t Number(std::string_view text, size_t at, int bytes) {
  uint64_t value = 0;
  std::memcpy(&value, text.data() + at, static_cast<size_t>(bytes));
  return value;
}

// What `unzip -t` checks: {member: content} by way of the end record and the central directory.
std::map<std::string, std::string> Unzip(std::string_view zip) {
  std::map<std::string, std::string> members;
  const size_t end = zip.size() - 22;
  EXPECT_EQ(zip.substr(end, 4), "PK\x05\x06");
  size_t at = Number(zip, end + 16, 4);
  for (uint64_t i = 0; i < Number(zip, end + 10, 2); ++i) {
    EXPECT_EQ(zip.substr(at, 4), "PK\x01\x02");
    const uint64_t crc = Number(zip, at + 16, 4), size = Number(zip, at + 24, 4);
    const uint64_t name = Number(zip, at + 28, 2), header = Number(zip, at + 42, 4);
    const std::string key(zip.substr(at + 46, name));
    EXPECT_EQ(zip.substr(header, 4), "PK\x03\x04");
    EXPECT_EQ(zip.substr(header + 30, name), key);
    const size_t data = header + 30 + name + Number(zip, header + 28, 2);
    EXPECT_EQ(data % 64, 0u) << key;
    members[key] = zip.substr(data, size);
    EXPECT_EQ(Crc32(members[key]), crc) << key;
    at += 46 + name + Number(zip, at + 30, 2);
  }
  return members;
}

TEST(TorchDistWriter, EachEntryIsAZipWhoseCrcsAreRight) {
  const TempDir folder;
  auto writer = Create(folder.path());
  WriteAll(writer, 2, 1000);
  ASSERT_TRUE(writer.Finish());
  const auto& tensors = writer.plan().tensors;
  for (size_t t = 0; t < tensors.size(); ++t) {
    for (size_t c = 0; c < tensors[t].chunks.size(); ++c) {
      const TorchDistChunk& chunk = tensors[t].chunks[c];
      const auto file = ReadBytes(folder / writer.plan().files[chunk.file].name);
      const auto members =
          Unzip(std::string_view(file).substr(chunk.entry_offset, chunk.entry_bytes));
      const auto expected = Pattern(t, c, chunk.data_bytes);
      EXPECT_EQ(members.size(), 7u);
      EXPECT_EQ(members.at("archive/data/0"),
                std::string(reinterpret_cast<const char*>(expected.data()), expected.size()));
      EXPECT_EQ(writer.Crc(t, c), Crc32(expected));
    }
  }
}

TEST(TorchDistWriter, BytesDoNotDependOnThreadsOrPieces) {
  std::map<std::string, std::string> expected;
  for (const auto& [threads, piece] : {std::pair<int, uint64_t>{1, 1 << 20}, {4, 100}, {3, 33}}) {
    const TempDir folder;
    auto writer = Create(folder.path());
    WriteAll(writer, threads, piece);
    ASSERT_TRUE(writer.Finish());
    const auto actual = Contents(folder.path());
    if (expected.empty()) expected = actual;
    EXPECT_EQ(actual, expected) << threads << " threads";
  }
  EXPECT_EQ(expected.size(), 4u);
  EXPECT_EQ(expected.at("metadata.json"), kTorchDistMetadataJson);
}

TEST(TorchDistWriter, PutsByteEntriesFirstAndLeavesNoGap) {
  const auto plan = PlanTorchDist(kTensors, Entries());
  ASSERT_TRUE(plan);
  ASSERT_EQ(plan->files.size(), 2u);
  for (const auto& file : plan->files) {
    uint64_t end = 0;
    for (uint32_t i : file.entries) {
      EXPECT_EQ(plan->entries[i].entry_offset, end);
      end += plan->entries[i].content.size();
    }
    for (const auto& [t, c] : file.chunks) {
      EXPECT_EQ(plan->tensors[t].chunks[c].entry_offset, end);
      end += plan->tensors[t].chunks[c].entry_bytes;
    }
    EXPECT_EQ(end, file.nbytes);
  }
  EXPECT_EQ(plan->files[1].name, "__1_0.distcp");
  EXPECT_EQ(plan->TotalFileBytes(), plan->files[0].nbytes + plan->files[1].nbytes);
}

TEST(TorchDistWriter, PlacesEntriesBeyond4GiB) {
  const int64_t huge = int64_t{5} << 30;
  const auto plan = PlanTorchDist(
      {{"a", DType::kU8, {huge}, {{{0}, {huge}, 0}}}, {"b", DType::kU8, {2}, {{{0}, {2}, 0}}}}, {});
  ASSERT_TRUE(plan);
  const auto& a = plan->tensors[0].chunks[0];
  const auto& b = plan->tensors[1].chunks[0];
  EXPECT_EQ(b.entry_offset, a.entry_bytes);
  EXPECT_EQ(b.entry_bytes, 1577u);  // its own zip is small
  // 5368711785 as a LONG1 of 5 bytes.
  EXPECT_THAT(TorchDistMetadata(*plan), HasSubstr(std::string("\x8a\x05", 2)));
}

TEST(TorchDistWriter, ReadBackFindsAChangedByte) {
  const TempDir folder;
  auto writer = Create(folder.path());
  WriteAll(writer, 1, 1 << 20);
  ASSERT_TRUE(writer.Finish());
  ASSERT_TRUE(writer.ReadBack(3));
  ASSERT_TRUE(writer.ReadBack(1, ReadBackMode::kDevice));
  ASSERT_TRUE(writer.ReadBackMetadata());
  const uint64_t data = writer.plan().tensors[0].chunks[1].data_offset;
  for (const auto& [name, offset] : {std::pair<std::string, uint64_t>{"__1_0.distcp", data + 777},
                                     {"__1_0.distcp", data - 1},
                                     {"__0_0.distcp", 5},
                                     {".metadata", 100}}) {
    std::string text = ReadBytes(folder / name);
    text[offset] ^= 1;
    WriteBytes(folder / name, text);
    const auto status = name == ".metadata" ? writer.ReadBackMetadata() : writer.ReadBack(2);
    ASSERT_FALSE(status) << name;
    EXPECT_EQ(status.error().id, "readback-mismatch");
    EXPECT_THAT(status.error().at, HasSubstr(name));
    text[offset] ^= 1;
    WriteBytes(folder / name, text);
  }
  fs::resize_file(folder / "__0_0.distcp", 1000);
  EXPECT_EQ(writer.ReadBack(1).error().id, "readback-mismatch");
}

TEST(TorchDistWriter, FinishNamesAChunkThatIsNotComplete) {
  const TempDir folder;
  auto writer = Create(folder.path());
  const auto bytes = Pattern(0, 0, 100);
  ASSERT_TRUE(writer.Write(0, 0, 0, bytes));
  const auto status = writer.Finish();
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().what, HasSubstr("'embedding' has 38400 bytes: 100 were written"));
  EXPECT_FALSE(fs::exists(folder / ".metadata"));
}

TEST(TorchDistWriter, RefusesBytesPastTheEnd) {
  const TempDir folder;
  auto writer = Create(folder.path());
  const auto bytes = Pattern(0, 0, 9);
  EXPECT_EQ(writer.Write(2, 0, 0, bytes).error().id, "invalid-call");
  EXPECT_EQ(writer.Write(0, 0, UINT64_MAX, bytes).error().id, "invalid-call");
  EXPECT_EQ(writer.Write(0, 2, 0, bytes).error().id, "invalid-call");
  EXPECT_EQ(writer.Write(9, 0, 0, bytes).error().id, "invalid-call");
}

TEST(TorchDistWriter, NamesTheFileThatCannotBeCreated) {
  const TempDir folder;
  const auto writer =
      TorchDistWriter::Create(folder / "absent", *PlanTorchDist(kTensors, Entries()));
  ASSERT_FALSE(writer);
  EXPECT_EQ(writer.error().kind, ErrorKind::kNotFound);
  EXPECT_THAT(writer.error().at, HasSubstr("__0_0.distcp"));
  if (::geteuid() == 0) return;  // root may write everywhere
  fs::permissions(folder.path(), fs::perms::owner_read | fs::perms::owner_exec);
  const auto refused = TorchDistWriter::Create(folder.path(), *PlanTorchDist(kTensors, {}));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kPermission);
}

std::string PlanError(const Shape& shape, std::vector<TorchDistChunk> chunks) {
  const auto plan = PlanTorchDist({{"t", DType::kU8, shape, std::move(chunks)}}, {});
  return plan ? "" : plan.error().what;
}

TEST(TorchDistPlan, AcceptsCutsThatTileUnevenly) {
  EXPECT_EQ(PlanError({3, 3}, {{{0, 0}, {1, 2}},
                               {{0, 2}, {2, 1}},
                               {{2, 1}, {1, 2}},
                               {{1, 0}, {2, 1}},
                               {{1, 1}, {1, 1}}}),
            "");
}

TEST(TorchDistPlan, RefusesChunksThatDoNotTileTheirTensor) {
  EXPECT_THAT(PlanError({4}, {{{0}, {2}}, {{2}, {1}}}), HasSubstr("cover each element"));
  EXPECT_THAT(PlanError({4}, {{{0}, {3}}, {{2}, {2}}}), HasSubstr("cover each element"));
  EXPECT_THAT(PlanError({4}, {{{1}, {3}}}), HasSubstr("cover each element"));
  EXPECT_THAT(PlanError({4}, {}), HasSubstr("cover each element"));
  EXPECT_THAT(PlanError({4}, {{{0}, {4}}, {{0}, {4}}}), HasSubstr("cover each element"));
  EXPECT_THAT(PlanError({2, 2}, {{{0, 0}, {1, 2}}, {{1, 1}, {1, 1}}, {{0, 0}, {1, 1}}}),
              HasSubstr("cover each element"));
  EXPECT_THAT(PlanError({}, {{{}, {}}, {{}, {}}}), HasSubstr("cover each element"));
  EXPECT_THAT(PlanError({0}, {}), HasSubstr("cover each element"));
  EXPECT_THAT(PlanError({4}, {{{0}, {4}}, {{4}, {0}}}), HasSubstr("without elements"));
  EXPECT_THAT(PlanError({4}, {{{0}, {5}}}), HasSubstr("does not fit"));
  EXPECT_THAT(PlanError({4}, {{{-1}, {4}}}), HasSubstr("does not fit"));
  EXPECT_THAT(PlanError({4}, {{{0, 0}, {4, 1}}}), HasSubstr("does not fit"));
  EXPECT_THAT(PlanError({INT64_MAX, 3}, {}), HasSubstr("overflows"));
}

TEST(TorchDistPlan, RefusesNamesThatCannotBeKeys) {
  const TorchDistTensor good{"t", DType::kU8, {1}, {{{0}, {1}}}};
  TorchDistTensor bad = good;
  EXPECT_THAT(PlanTorchDist({good, good}, {}).error().what, HasSubstr("twice"));
  EXPECT_THAT(PlanTorchDist({good}, {{"t", "x"}}).error().what, HasSubstr("twice"));
  bad.key = "\xff";
  EXPECT_THAT(PlanTorchDist({bad}, {}).error().what, HasSubstr("UTF-8"));
  bad.key = "";
  EXPECT_THAT(PlanTorchDist({bad}, {}).error().what, HasSubstr("no name"));
  bad = good;
  bad.dtype = DType::kF4;
  bad.shape = bad.chunks[0].sizes = {2};
  EXPECT_EQ(PlanTorchDist({bad}, {}).error().kind, ErrorKind::kUnsupported);
}

// 61 layers of 256 experts with a gate and an up piece each.
TEST(TorchDistPlan, ChecksManyChunksInATimeThatGrowsWithTheirNumber) {
  TorchDistTensor tensor{"experts", DType::kBF16, {61, 256, 8, 4}, {}};
  for (int64_t l = 0; l < 61; ++l) {
    for (int64_t e = 0; e < 256; ++e) {
      for (int64_t half : {0, 4}) tensor.chunks.push_back({{l, e, half, 0}, {1, 1, 4, 4}});
    }
  }
  const auto plan = PlanTorchDist({tensor}, {});
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->files[0].chunks.size(), 31232u);
  EXPECT_LT(TorchDistMetadata(*plan).size(), 31232u * 320);
}

// Sizes of the files that Megatron Bridge wrote; tests/oracle compares the bytes.
TEST(TorchDistRunFiles, HaveTheSizesOfTheOriginals) {
  EXPECT_EQ(TrainStatePt({}).size(), 3461u);
  EXPECT_EQ(CommonStateEntry({}).content.size(), 1389u);
  EXPECT_EQ(ExtraStateEntry("x").content.size(), 1513u);
  EXPECT_EQ(IterationFolder(70000), "iter_0070000");
  EXPECT_EQ(Unzip(CommonPt({})).size(), 6u);
  EXPECT_EQ(Unzip(TrainStatePt({.step = 258})).at("train_state/data/0"),
            std::string("\x02\x01\0\0\0\0\0\0", 8));
}

}  // namespace
}  // namespace weighbridge
