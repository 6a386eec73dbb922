#include "tensor/compare.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "base/threads.h"
#include "tensor/compare_kernel.h"
#include "tensor/float_bits.h"

namespace weighbridge {
namespace internal {
namespace {

__extension__ typedef __int128 Int128;

constexpr int64_t kChunk = 4096;
constexpr size_t kLanes = 8;

struct Side {
  DType dtype;  // of a component
  const std::byte* data;
};

bool IsIntegral(DType dtype) {
  const DTypeClass kind = Info(dtype).kind;
  return kind != DTypeClass::kFloat && kind != DTypeClass::kComplex;
}

Int128 IntegerValue(DType dtype, uint64_t raw) {
  if (Info(dtype).kind == DTypeClass::kBool) return raw != 0;
  if (Info(dtype).kind == DTypeClass::kUnsigned) return raw;
  const int shift = 64 - BitsOf(dtype);
  return static_cast<int64_t>(raw << shift) >> shift;
}

// Whether an integer and a float are the same number; a float that is not an integer never is.
bool IntegerEqualsFloat(Int128 integer, double value) {
  if (!(std::fabs(value) < 0x1p65) || std::signbit(value) != (integer < 0)) return false;
  return static_cast<double>(static_cast<Int128>(value)) == value &&
         static_cast<Int128>(value) == integer;
}

bool SameValue(DType e_dtype, uint64_t e, DType a_dtype, uint64_t a) {
  if (e_dtype == a_dtype) return e == a;
  const bool e_integral = IsIntegral(e_dtype), a_integral = IsIntegral(a_dtype);
  if (e_integral && a_integral) return IntegerValue(e_dtype, e) == IntegerValue(a_dtype, a);
  if (e_integral) return IntegerEqualsFloat(IntegerValue(e_dtype, e), BitsToDouble(a_dtype, a));
  if (a_integral) return IntegerEqualsFloat(IntegerValue(a_dtype, a), BitsToDouble(e_dtype, e));
  const double x = BitsToDouble(e_dtype, e), y = BitsToDouble(a_dtype, a);
  if (std::isnan(x) || std::isnan(y)) return std::isnan(x) && std::isnan(y);
  return std::bit_cast<uint64_t>(x) == std::bit_cast<uint64_t>(y);
}

double AbsDiff(DType e_dtype, uint64_t e, double x, DType a_dtype, uint64_t a, double y) {
  const bool wide = IsIntegral(e_dtype) && IsIntegral(a_dtype);
  if (!wide) return std::fabs(x - y);
  const Int128 diff = IntegerValue(e_dtype, e) - IntegerValue(a_dtype, a);
  return static_cast<double>(diff < 0 ? -diff : diff);
}

bool Matches(Side e, uint64_t raw_e, Side a, uint64_t raw_a, Tolerance tolerance) {
  if (SameValue(e.dtype, raw_e, a.dtype, raw_a)) return true;
  if (tolerance.bitwise()) return false;
  const double x = BitsToDouble(e.dtype, raw_e), y = BitsToDouble(a.dtype, raw_a);
  if (!std::isfinite(x) || !std::isfinite(y)) return false;
  return AbsDiff(e.dtype, raw_e, x, a.dtype, raw_a, y) <=
         tolerance.atol + tolerance.rtol * std::fabs(x);
}

// A tolerance that is no number matches nothing: a check that any difference passes is no check.
Tolerance Sound(Tolerance tolerance) {
  const auto sound = [](double x) { return std::isfinite(x) && x >= 0; };
  if (sound(tolerance.atol) && sound(tolerance.rtol)) return tolerance;
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  return {kNan, kNan};
}

// The distance in ULP of a pair of finite values (compare.h).
uint64_t Ulps(Side e, uint64_t raw_e, double x, Side a, uint64_t raw_a, double y) {
  if (e.dtype == a.dtype) return UlpDistance(e.dtype, raw_e, raw_a).value_or(0);
  return UlpDistance(DType::kF64, std::bit_cast<uint64_t>(x), std::bit_cast<uint64_t>(y))
      .value_or(0);
}

double SumLanes(const double (&x)[kLanes]) {
  return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

// Any pair of dtypes, one element at a time.
void CompareGeneric(Side e, Side a, size_t first, size_t count, Tolerance tolerance,
                    ChunkStats* stats) {
  double sum[kLanes] = {}, dot[kLanes] = {}, norm_e[kLanes] = {}, norm_a[kLanes] = {};
  for (size_t i = 0; i < count; ++i) {
    const uint64_t raw_e = RawBits(e.dtype, e.data, first + i);
    const uint64_t raw_a = RawBits(a.dtype, a.data, first + i);
    const double x = BitsToDouble(e.dtype, raw_e), y = BitsToDouble(a.dtype, raw_a);
    const bool matches = Matches(e, raw_e, a, raw_a, tolerance);
    stats->mismatched += !matches;
    if (!std::isfinite(x) || !std::isfinite(y)) {
      ++stats->non_finite;
      stats->non_finite_mismatched += !matches;
      stats->nan += std::isnan(x) || std::isnan(y);
      stats->inf += std::isinf(x) || std::isinf(y);
      continue;
    }
    const double diff = AbsDiff(e.dtype, raw_e, x, a.dtype, raw_a, y);
    const size_t lane = i % kLanes;
    sum[lane] += diff;
    dot[lane] += x * y;
    norm_e[lane] += x * x;
    norm_a[lane] += y * y;
    stats->max_abs_expected = std::max(stats->max_abs_expected, std::fabs(x));
    stats->max_abs_actual = std::max(stats->max_abs_actual, std::fabs(y));
    stats->max_abs_diff = std::max(stats->max_abs_diff, diff);
    if (x != 0) stats->max_relative = std::max(stats->max_relative, diff / std::fabs(x));
    if (!matches || raw_e != raw_a) {
      stats->max_ulp = std::max(stats->max_ulp, Ulps(e, raw_e, x, a, raw_a, y));
    }
  }
  stats->sum_abs_diff = SumLanes(sum);
  stats->dot = SumLanes(dot);
  stats->norm2_expected = SumLanes(norm_e);
  stats->norm2_actual = SumLanes(norm_a);
}

// How the patterns of a dtype of at most 16 bits are ordered.
class Order {
 public:
  explicit Order(DType dtype)
      : sign_magnitude_(IsFloat(dtype) && dtype != DType::kF8E8M0),
        signed_(Info(dtype).kind == DTypeClass::kSigned),
        sign_(1 << (BitsOf(dtype) - 1)) {}
  int32_t operator()(uint64_t raw) const {
    const auto value = static_cast<int32_t>(raw);
    if ((value & sign_) == 0) return value;
    if (sign_magnitude_) return -(value & (sign_ - 1));
    return signed_ ? value - 2 * sign_ : value;
  }

 private:
  bool sign_magnitude_, signed_;
  int32_t sign_;
};

// The questions about one dtype's own bits: which are unequal, and by how many ULP. `x` and `y` are
// the values of the chunk.
template <typename GetRaw>
int64_t CompareBits(Order order, size_t count, const float* x, const float* y, GetRaw raw,
                    ChunkStats* stats) {
  int64_t unequal = 0;
  int32_t max_ulp = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto [raw_e, raw_a] = raw(i);
    if (raw_e == raw_a) continue;
    ++unequal;
    if (std::isfinite(x[i]) && std::isfinite(y[i])) {
      max_ulp = std::max(max_ulp, std::abs(order(raw_e) - order(raw_a)));
    } else {
      ++stats->non_finite_mismatched;
    }
  }
  stats->max_ulp = static_cast<uint64_t>(max_ulp);
  return unequal;
}

// Dtypes that float32 holds exactly: widened into a buffer that stays in the first-level cache.
void CompareAsFloat(const KernelTable& kernels, Side e, Side a, size_t first, size_t count,
                    KernelOptions options, ChunkStats* stats) {
  alignas(64) float x[kChunk], y[kChunk];
  DecodeToFloat(e.dtype, e.data, first, count, x);
  DecodeToFloat(a.dtype, a.data, first, count, y);
  options.any_nan_equal = e.dtype != a.dtype;
  kernels.f32(x, y, count, options, stats);
  if (e.dtype != a.dtype) return;
  const int64_t finite_mismatched = stats->mismatched - stats->non_finite_mismatched;
  stats->non_finite_mismatched = 0;
  int64_t unequal = 0;
  if (BitsOf(e.dtype) == 8) {
    const auto raw = [&](size_t i) {
      return std::pair(static_cast<uint64_t>(e.data[first + i]),
                       static_cast<uint64_t>(a.data[first + i]));
    };
    unequal = CompareBits(Order(e.dtype), count, x, y, raw, stats);
  } else {
    const auto raw = [&](size_t i) {
      return std::pair(RawBits(e.dtype, e.data, first + i), RawBits(a.dtype, a.data, first + i));
    };
    unequal = CompareBits(Order(e.dtype), count, x, y, raw, stats);
  }
  stats->mismatched = options.tolerant ? finite_mismatched + stats->non_finite_mismatched : unequal;
}

Kernel KernelFor(const KernelTable& kernels, DType e, DType a) {
  if (e != a) return nullptr;
  switch (e) {
    case DType::kF32:
      return kernels.f32;
    case DType::kBF16:
      return kernels.bf16;
    case DType::kF16:
      return kernels.f16;
    default:
      return nullptr;
  }
}

void AddChunk(ElementStats& total, const ChunkStats& chunk) {
  total.sum_abs_diff.Add(chunk.sum_abs_diff);
  total.dot.Add(chunk.dot);
  total.norm2_expected.Add(chunk.norm2_expected);
  total.norm2_actual.Add(chunk.norm2_actual);
  total.max_abs_diff = std::max(total.max_abs_diff, chunk.max_abs_diff);
  total.max_abs_expected = std::max(total.max_abs_expected, chunk.max_abs_expected);
  total.max_abs_actual = std::max(total.max_abs_actual, chunk.max_abs_actual);
  total.finite_max_relative = std::max(total.finite_max_relative, chunk.max_relative);
  total.max_ulp = std::max(total.max_ulp, chunk.max_ulp);
  total.mismatched += chunk.mismatched;
  total.non_finite += chunk.non_finite;
  total.non_finite_mismatched += chunk.non_finite_mismatched;
  total.nan_count += chunk.nan;
  total.inf_count += chunk.inf;
}

int64_t FindMismatch(Side e, Side a, int64_t first, int64_t count, Tolerance tolerance) {
  for (int64_t i = first; i < first + count; ++i) {
    const auto k = static_cast<size_t>(i);
    if (!Matches(e, RawBits(e.dtype, e.data, k), a, RawBits(a.dtype, a.data, k), tolerance)) {
      return i;
    }
  }
  return -1;
}

#if defined(__x86_64__)
// clang 14's __builtin_cpu_supports does not know "f16c".
bool HasF16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

}  // namespace

const KernelTable* const* AvailableKernels() {
  static const auto* list = [] {
    auto* kernels = new std::vector<const KernelTable*>();
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c();
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
    if (avx512 && Avx512Kernels() != nullptr) kernels->push_back(Avx512Kernels());
    if (avx2 && Avx2Kernels() != nullptr) kernels->push_back(Avx2Kernels());
#endif
    kernels->push_back(&ScalarKernels());
    kernels->push_back(nullptr);
    return kernels;
  }();
  return list->data();
}

ElementStats CompareBlockWith(const KernelTable& kernels, const TensorView& expected,
                              const TensorView& actual, int64_t first, int64_t count,
                              Tolerance tolerance) {
  tolerance = Sound(tolerance);
  const Side e{ComponentDType(expected.dtype), expected.bytes.data()};
  const Side a{ComponentDType(actual.dtype), actual.bytes.data()};
  const Kernel kernel = KernelFor(kernels, e.dtype, a.dtype);
  const bool as_float = FitsFloat(e.dtype) && FitsFloat(a.dtype);
  const KernelOptions options{tolerance.atol, tolerance.rtol, !tolerance.bitwise(), false};
  ElementStats total;
  total.elements = count;
  for (int64_t done = 0; done < count; done += kChunk) {
    const auto at = static_cast<size_t>(first + done);
    const auto n = static_cast<size_t>(std::min(kChunk, count - done));
    ChunkStats chunk;
    chunk.max_relative = total.finite_max_relative;
    if (kernel != nullptr) {
      const size_t offset = at * static_cast<size_t>(BitsOf(e.dtype)) / 8;
      kernel(e.data + offset, a.data + offset, n, options, &chunk);
    } else if (as_float) {
      CompareAsFloat(kernels, e, a, at, n, options, &chunk);
    } else {
      CompareGeneric(e, a, at, n, tolerance, &chunk);
    }
    AddChunk(total, chunk);
    if (chunk.mismatched > 0 && total.first_mismatch < 0) {
      total.first_mismatch =
          FindMismatch(e, a, static_cast<int64_t>(at), static_cast<int64_t>(n), tolerance);
    }
  }
  return total;
}

}  // namespace internal

void CompensatedSum::Add(double term) {
  const double next = sum_ + term;
  carry_ += std::fabs(sum_) >= std::fabs(term) ? (sum_ - next) + term : (term - next) + sum_;
  sum_ = next;
}

double ElementStats::max_diff() const {
  return non_finite_mismatched > 0 ? std::numeric_limits<double>::quiet_NaN() : max_abs_diff;
}

double ElementStats::max_relative() const {
  return non_finite_mismatched > 0 ? std::numeric_limits<double>::quiet_NaN() : finite_max_relative;
}

double ElementStats::mean_diff() const {
  if (non_finite_mismatched > 0) return std::numeric_limits<double>::quiet_NaN();
  const int64_t finite = elements - non_finite;
  return finite == 0 ? 0 : sum_abs_diff.value() / static_cast<double>(finite);
}

double ElementStats::cosine() const {
  if (non_finite_mismatched > 0) return std::numeric_limits<double>::quiet_NaN();
  if (sum_abs_diff.value() == 0) return 1;
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  const double e = norm2_expected.value(), a = norm2_actual.value();
  // The squares of all values are so small that bits of them are lost, or one overflows.
  constexpr double kLeastNorm2 = 0x1p-960;
  const auto unreliable = [](double max, double norm2) {
    return !std::isfinite(norm2) || (max > 0 && norm2 < kLeastNorm2);
  };
  if (unreliable(max_abs_expected, e) || unreliable(max_abs_actual, a)) return kNan;
  if (e == 0 || a == 0) return e == a ? 1 : 0;
  const double cosine = dot.value() / (std::sqrt(e) * std::sqrt(a));
  return std::isfinite(cosine) ? std::clamp(cosine, -1.0, 1.0) : kNan;
}

void ElementStats::Append(const ElementStats& next) {
  elements += next.elements;
  sum_abs_diff.Add(next.sum_abs_diff);
  dot.Add(next.dot);
  norm2_expected.Add(next.norm2_expected);
  norm2_actual.Add(next.norm2_actual);
  max_abs_diff = std::max(max_abs_diff, next.max_abs_diff);
  max_abs_expected = std::max(max_abs_expected, next.max_abs_expected);
  max_abs_actual = std::max(max_abs_actual, next.max_abs_actual);
  finite_max_relative = std::max(finite_max_relative, next.finite_max_relative);
  max_ulp = std::max(max_ulp, next.max_ulp);
  mismatched += next.mismatched;
  non_finite += next.non_finite;
  non_finite_mismatched += next.non_finite_mismatched;
  nan_count += next.nan_count;
  inf_count += next.inf_count;
  if (first_mismatch < 0) first_mismatch = next.first_mismatch;
}

bool BytesEqual(std::span<const std::byte> a, std::span<const std::byte> b, int threads) {
  if (a.size() != b.size()) return false;
  if (a.empty() || a.data() == b.data()) return true;
  constexpr size_t kStep = size_t{1} << 20;
  std::atomic<bool> differs{false};
  ParallelFor((a.size() + kStep - 1) / kStep, threads, [&](size_t i) {
    if (differs.load(std::memory_order_relaxed)) return;
    const size_t offset = i * kStep;
    const size_t n = std::min(kStep, a.size() - offset);
    if (std::memcmp(a.data() + offset, b.data() + offset, n) != 0) differs = true;
  });
  return !differs;
}

ElementStats CompareBlock(const TensorView& expected, const TensorView& actual, int64_t first,
                          int64_t count, Tolerance tolerance) {
  return internal::CompareBlockWith(*internal::AvailableKernels()[0], expected, actual, first,
                                    count, tolerance);
}

ElementStats CompareElements(const TensorView& expected, const TensorView& actual,
                             Tolerance tolerance, int threads, bool count_non_finite) {
  const int64_t count = ComponentCount(expected);
  if (!count_non_finite && expected.dtype == actual.dtype &&
      BytesEqual(expected.bytes, actual.bytes, threads)) {
    ElementStats equal;
    equal.elements = count;
    return equal;
  }
  const auto blocks = static_cast<size_t>((count + kCompareBlock - 1) / kCompareBlock);
  std::vector<ElementStats> parts(blocks);
  ParallelFor(blocks, threads, [&](size_t i) {
    const int64_t first = static_cast<int64_t>(i) * kCompareBlock;
    parts[i] =
        CompareBlock(expected, actual, first, std::min(kCompareBlock, count - first), tolerance);
  });
  ElementStats total;
  for (const ElementStats& part : parts) total.Append(part);
  return total;
}

bool PairMatches(DType expected_dtype, uint64_t expected, DType actual_dtype, uint64_t actual,
                 Tolerance tolerance) {
  return internal::Matches({ComponentDType(expected_dtype), nullptr}, expected,
                           {ComponentDType(actual_dtype), nullptr}, actual,
                           internal::Sound(tolerance));
}

int64_t ComponentCount(const TensorView& view) {
  return Numel(view.shape) * ComponentsOf(view.dtype);
}

}  // namespace weighbridge
