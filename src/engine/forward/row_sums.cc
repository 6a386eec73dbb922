#include "engine/forward/row_sums.h"

#include <algorithm>
#include <cmath>
#include <cstring>

// The same code for processors with and without AVX2; the first call chooses.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
#define WB_CLONED __attribute__((target_clones("avx2", "default")))
#else
#define WB_CLONED
#endif

namespace weighbridge::engine {
namespace {

constexpr int64_t kLanes = 4;
template <typename T>
using Vector [[gnu::vector_size(kLanes * sizeof(T))]] = T;
using Doubles = Vector<double>;

// A sum in each lane: one chain of additions would wait for itself.
struct LaneSums {
  Doubles apart{}, apart_squared{}, apart_fourth{}, largest{};
  Doubles product{}, first{}, second{}, peak{};
};

template <typename T>
[[gnu::always_inline]] inline void Load(const T* from, Doubles& out) {
  Vector<T> loaded;
  std::memcpy(&loaded, from, sizeof loaded);
  out = __builtin_convertvector(loaded, Doubles);
}

[[gnu::always_inline]] inline void Add(const Doubles& x, const Doubles& y, LaneSums& sums) {
  const Doubles difference = x - y, size = y < 0 ? -y : y;
  const Doubles apart = difference < 0 ? -difference : difference, squared = apart * apart;
  sums.apart += apart;
  sums.apart_squared += squared;
  sums.apart_fourth += squared * squared;
  // What is no number stays.
  const auto stays = (apart <= sums.largest) | (sums.largest != sums.largest);
  sums.largest = stays ? sums.largest : apart;
  sums.product += x * y;
  sums.first += x * x;
  sums.second += y * y;
  sums.peak = size > sums.peak ? size : sums.peak;
}

double SumOf(const Doubles& lanes) { return lanes[0] + lanes[1] + lanes[2] + lanes[3]; }

RowSums Folded(const LaneSums& sums) {
  RowSums out = {SumOf(sums.apart),   SumOf(sums.apart_squared), SumOf(sums.apart_fourth), 0,
                 SumOf(sums.product), SumOf(sums.first),         SumOf(sums.second),       0};
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    out.largest = LargerOf(out.largest, sums.largest[lane]);
    out.peak = std::max(out.peak, sums.peak[lane]);
  }
  return out;
}

template <typename B>
[[gnu::always_inline]] inline void AddRow(const float* a, const B* b, int64_t count,
                                          LaneSums& sums) {
  int64_t i = 0;
  Doubles x, y;
  for (; i + kLanes <= count; i += kLanes) {
    Load(a + i, x);
    Load(b + i, y);
    Add(x, y, sums);
  }
  if (i == count) return;
  // Zeros add nothing.
  x = y = Doubles{};
  for (int64_t lane = 0; i + lane < count; ++lane) {
    x[lane] = a[i + lane];
    y[lane] = b[i + lane];
  }
  Add(x, y, sums);
}

WB_CLONED void AddFloats(const float* a, const float* b, int64_t count, LaneSums& sums) {
  AddRow(a, b, count, sums);
}

WB_CLONED void AddDoubles(const float* a, const double* b, int64_t count, LaneSums& sums) {
  AddRow(a, b, count, sums);
}

}  // namespace

RowSums SumsOfRow(const float* first, const float* second, int64_t count) {
  LaneSums sums;
  AddFloats(first, second, count, sums);
  return Folded(sums);
}

RowSums SumsOfRow(const float* first, const double* second, int64_t count) {
  LaneSums sums;
  AddDoubles(first, second, count, sums);
  return Folded(sums);
}

}  // namespace weighbridge::engine
