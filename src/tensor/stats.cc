#include "tensor/stats.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/threads.h"
#include "tensor/compare.h"
#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

// Count, mean and sum of squared distances from the mean, joined as Chan, Golub and LeVeque do.
struct Moments {
  int64_t count = 0, zeros = 0, nan = 0, inf = 0;
  double min = std::numeric_limits<double>::infinity();
  double max = -std::numeric_limits<double>::infinity();
  double mean = 0, squares = 0;

  void Join(const Moments& next) {
    zeros += next.zeros;
    nan += next.nan;
    inf += next.inf;
    if (next.count == 0) return;
    min = std::min(min, next.min);
    max = std::max(max, next.max);
    const auto n = static_cast<double>(count), m = static_cast<double>(next.count);
    const double delta = next.mean - mean;
    mean += delta * (m / (n + m));
    squares += next.squares + delta * delta * (n * m / (n + m));
    count += next.count;
  }
};

Moments OfChunk(const double* values, size_t count) {
  Moments r;
  double sum = 0;
  for (size_t i = 0; i < count; ++i) {
    const double v = values[i];
    if (!std::isfinite(v)) {
      r.nan += std::isnan(v);
      r.inf += std::isinf(v);
      continue;
    }
    ++r.count;
    r.zeros += v == 0;
    r.min = std::min(r.min, v);
    r.max = std::max(r.max, v);
    sum += v;
  }
  if (r.count == 0) return r;
  r.mean = sum / static_cast<double>(r.count);
  for (size_t i = 0; i < count; ++i) {
    const double d = values[i] - r.mean;
    if (std::isfinite(values[i])) r.squares += d * d;
  }
  return r;
}

Moments OfBlock(const TensorView& view, int64_t first, int64_t count) {
  constexpr int64_t kChunk = 2048;
  double values[kChunk];
  Moments total;
  for (int64_t done = 0; done < count; done += kChunk) {
    const auto n = static_cast<size_t>(std::min(kChunk, count - done));
    DecodeToDouble(view.dtype, view.bytes.data(), static_cast<size_t>(first + done), n, values);
    total.Join(OfChunk(values, n));
  }
  return total;
}

}  // namespace

TensorStats ComputeStats(const TensorView& view, int threads) {
  const int64_t count = ComponentCount(view);
  const auto blocks = static_cast<size_t>((count + kCompareBlock - 1) / kCompareBlock);
  std::vector<Moments> parts(blocks);
  ParallelFor(blocks, threads, [&](size_t i) {
    const int64_t first = static_cast<int64_t>(i) * kCompareBlock;
    parts[i] = OfBlock(view, first, std::min(kCompareBlock, count - first));
  });
  Moments all;
  for (const Moments& part : parts) all.Join(part);
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  TensorStats s{count, all.count, all.zeros, all.nan, all.inf, kNan, kNan, kNan, kNan, kNan};
  if (all.count == 0) return s;
  s.min = all.min;
  s.max = all.max;
  s.mean = all.mean;
  s.std = std::sqrt(all.squares / static_cast<double>(all.count));
  s.absmax = std::max(std::fabs(all.min), std::fabs(all.max));
  return s;
}

}  // namespace weighbridge
