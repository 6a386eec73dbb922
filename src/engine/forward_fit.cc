#include "engine/forward_fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "base/memory.h"
#include "base/strings.h"
#include "engine/compare.h"
#include "engine/describe.h"

namespace weighbridge {
namespace {

constexpr int64_t kTokens = 128;
constexpr double kMostSeconds = 600;
constexpr double kStartSeconds = 2;  // libtorch is loaded
// Of each weight: as stored, in float32 on both sides, in float64.
constexpr double kBytesEach = 24;
// Each weight counts once a token in every pass: four in float32, two of half the speed in float64.
constexpr double kPasses = 8;
constexpr double kFlopsEach = 1.5e10;  // of a processor, in matrices of few rows

double ElementsOf(const Model& model, StageId stage) {
  double elements = 0;
  for (const MegatronUse& use : MegatronTensorsOf(model, stage)) {
    double count = 1;
    for (const int64_t extent : use.parameter->shape) count *= static_cast<double>(extent);
    elements += count;
  }
  return elements;
}

}  // namespace

Result<ForwardFit> EstimateForward(const Model& model) {
  CompareOptions options;
  WB_TRY(const auto ids, RandomTokenIds(model, options));
  ForwardFit fit;
  fit.tokens = std::min<int64_t>(kTokens, static_cast<int64_t>(ids.front().size()));
  const double embedding = ElementsOf(model, {StageKind::kEmbedding});
  const double output = ElementsOf(model, {StageKind::kOutput});
  double largest = 0, all = output;
  for (int64_t layer = 0; layer < model.layers(); ++layer) {
    const double elements = ElementsOf(model, {StageKind::kLayer, layer});
    largest = std::max(largest, elements);
    all += elements;
  }
  fit.memory = static_cast<uint64_t>(kBytesEach * std::max({largest, embedding, output}));
  const double processors = std::max(1u, std::thread::hardware_concurrency());
  fit.seconds = kStartSeconds +
                kPasses * 2 * all * static_cast<double>(fit.tokens) / (kFlopsEach * processors);
  const uint64_t free = AvailableMemory();
  fit.fits = fit.memory <= free / 2 && fit.seconds <= kMostSeconds;
  fit.sentence =
      fmt::format("{} random tokens need about {} of memory, where {} are free, and {}", fit.tokens,
                  FormatBytes(fit.memory), FormatBytes(free), FormatDuration(fit.seconds));
  return fit;
}

}  // namespace weighbridge
