#include "checks/rank_copies.h"

#include <fmt/format.h>

#include <optional>

#include "base/threads.h"
#include "tensor/compare.h"
#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

std::string ValueText(DType dtype, std::span<const std::byte> bytes, int64_t element) {
  return FormatBits(dtype, RawBits(dtype, bytes.data(), static_cast<size_t>(element)));
}

Result<std::optional<DriftedCopy>> Compare(const MegatronCheckpoint& megatron,
                                           const ChunkCopy& copy) {
  const DistChunk& chunk = copy.tensor->chunks[copy.chunk];
  WB_TRY(const auto expected, megatron.Data(*copy.tensor, chunk));
  WB_TRY(const auto actual, megatron.Data(*copy.tensor, {chunk.offsets, chunk.sizes, copy.stored}));
  if (BytesEqual(expected, actual)) return std::nullopt;
  const DType dtype = copy.tensor->dtype;
  const ElementStats stats =
      CompareElements({dtype, chunk.sizes, expected}, {dtype, chunk.sizes, actual}, {}, 1, true);
  DriftedCopy drifted{&copy,
                      megatron.PlaceOf(chunk.stored).value_or(RankPlace{}),
                      megatron.PlaceOf(copy.stored).value_or(RankPlace{}),
                      stats.mismatched,
                      0,
                      "",
                      ""};
  if (stats.first_mismatch >= 0) {
    drifted.element = drifted.place.first_element + stats.first_mismatch;
    drifted.expected = ValueText(dtype, expected, stats.first_mismatch);
    drifted.actual = ValueText(dtype, actual, stats.first_mismatch);
  }
  return drifted;
}

}  // namespace

RankId RankOf(const RankPlace& place) {
  return {place.tp, place.pp, place.vpp, place.ep, place.etp};
}

Result<std::vector<DriftedCopy>> FindDriftedCopies(const MegatronCheckpoint& megatron, int threads,
                                                   const std::function<void(uint64_t)>& progress) {
  const auto copies = megatron.copies();
  std::vector<std::optional<DriftedCopy>> found(copies.size());
  WB_RETURN_IF_ERROR(TryParallelFor(copies.size(), threads, [&](size_t i) -> Status {
    WB_TRY(found[i], Compare(megatron, copies[i]));
    if (progress) progress(copies[i].stored.length);
    return {};
  }));
  std::vector<DriftedCopy> drifted;
  for (std::optional<DriftedCopy>& one : found) {
    if (one) drifted.push_back(std::move(*one));
  }
  return drifted;
}

Status RequireEqualCopies(const MegatronCheckpoint& megatron, int threads) {
  WB_TRY(const auto drifted, FindDriftedCopies(megatron, threads, nullptr));
  if (drifted.empty()) return {};
  const DriftedCopy& first = drifted.front();
  return Corrupt("replica-drift",
                 fmt::format("{} and {} hold different copies of '{}'", first.original.file,
                             first.place.file, first.place.name),
                 megatron.path().string(), "`weighbridge verify` lists all of them");
}

}  // namespace weighbridge
