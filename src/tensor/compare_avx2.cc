// The comparison kernels for AVX2 with FMA and F16C; compiled with those flags.
#include "tensor/compare_kernel_impl.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace weighbridge::internal {
namespace {

struct Avx2Ops {
  struct D {
    __m256d a, b;
  };

  static D Zero() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }
  static D Splat(double x) { return {_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
  static D Sub(D x, D y) { return {_mm256_sub_pd(x.a, y.a), _mm256_sub_pd(x.b, y.b)}; }
  static D Add(D x, D y) { return {_mm256_add_pd(x.a, y.a), _mm256_add_pd(x.b, y.b)}; }
  static D Mul(D x, D y) { return {_mm256_mul_pd(x.a, y.a), _mm256_mul_pd(x.b, y.b)}; }
  static D Div(D x, D y) { return {_mm256_div_pd(x.a, y.a), _mm256_div_pd(x.b, y.b)}; }
  static D Max(D x, D y) { return {_mm256_max_pd(x.a, y.a), _mm256_max_pd(x.b, y.b)}; }
  static D MulAdd(D x, D y, D z) {
    return {_mm256_fmadd_pd(x.a, y.a, z.a), _mm256_fmadd_pd(x.b, y.b, z.b)};
  }
  static D Abs(D x) {
    const __m256d sign = _mm256_set1_pd(-0.0);
    return {_mm256_andnot_pd(sign, x.a), _mm256_andnot_pd(sign, x.b)};
  }
  static D ZeroWhereZero(D value, D condition) {
    const __m256d zero = _mm256_setzero_pd();
    return {_mm256_and_pd(value.a, _mm256_cmp_pd(condition.a, zero, _CMP_NEQ_OQ)),
            _mm256_and_pd(value.b, _mm256_cmp_pd(condition.b, zero, _CMP_NEQ_OQ))};
  }
  static bool AnyGreaterEqual(D x, D y) {
    return _mm256_movemask_pd(_mm256_or_pd(_mm256_cmp_pd(x.a, y.a, _CMP_GE_OQ),
                                           _mm256_cmp_pd(x.b, y.b, _CMP_GE_OQ))) != 0;
  }
  static int CountNotWithin(D x, D y) {
    const int a = _mm256_movemask_pd(_mm256_cmp_pd(x.a, y.a, _CMP_NLE_UQ));
    const int b = _mm256_movemask_pd(_mm256_cmp_pd(x.b, y.b, _CMP_NLE_UQ));
    return __builtin_popcount(static_cast<unsigned>(a | b << 4));
  }
  static void Store(double* out, D x) {
    _mm256_storeu_pd(out, x.a);
    _mm256_storeu_pd(out + 4, x.b);
  }

  static D Widen(__m256 v) {
    return {_mm256_cvtps_pd(_mm256_castps256_ps128(v)),
            _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))};
  }
  static __m128i Load16(const unsigned char* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static D Load(F32Format, const unsigned char* p) {
    return Widen(_mm256_loadu_ps(reinterpret_cast<const float*>(p)));
  }
  static D Load(BF16Format, const unsigned char* p) {
    return Widen(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(Load16(p)), 16)));
  }
  static D Load(F16Format, const unsigned char* p) { return Widen(_mm256_cvtph_ps(Load16(p))); }

  template <typename Format>
  static constexpr size_t kRegisters = kGroup * sizeof(typename Format::Bits) / 32;
  template <typename Format>
  static constexpr bool kIs16 = sizeof(typename Format::Bits) == 2;
  static __m256i LoadBits(const unsigned char* p, size_t i) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i * 32));
  }

  template <typename Format>
  static bool AnyNonFinite(const unsigned char* e, const unsigned char* a) {
    // Magnitudes have no sign bit, so the signed comparison is right.
    __m256i any = _mm256_setzero_si256();
    for (size_t i = 0; i < kRegisters<Format>; ++i) {
      const __m256i x = LoadBits(e, i), y = LoadBits(a, i);
      if constexpr (kIs16<Format>) {
        const __m256i m = _mm256_set1_epi16(static_cast<short>(Format::kMagnitude));
        const __m256i high = _mm256_max_epu16(_mm256_and_si256(x, m), _mm256_and_si256(y, m));
        any = _mm256_or_si256(any,
                              _mm256_cmpgt_epi16(high, _mm256_set1_epi16(Format::kInfinity - 1)));
      } else {
        const __m256i m = _mm256_set1_epi32(Format::kMagnitude);
        const __m256i high = _mm256_max_epu32(_mm256_and_si256(x, m), _mm256_and_si256(y, m));
        any = _mm256_or_si256(any,
                              _mm256_cmpgt_epi32(high, _mm256_set1_epi32(Format::kInfinity - 1)));
      }
    }
    return _mm256_testz_si256(any, any) == 0;
  }

  template <typename Format>
  static int CountUnequal(const unsigned char* e, const unsigned char* a) {
    int equal_bytes = 0;
    for (size_t i = 0; i < kRegisters<Format>; ++i) {
      const __m256i x = LoadBits(e, i), y = LoadBits(a, i);
      const __m256i equal = kIs16<Format> ? _mm256_cmpeq_epi16(x, y) : _mm256_cmpeq_epi32(x, y);
      equal_bytes += __builtin_popcount(static_cast<unsigned>(_mm256_movemask_epi8(equal)));
    }
    return static_cast<int>(kGroup) - equal_bytes / static_cast<int>(sizeof(typename Format::Bits));
  }

  template <typename Format>
  class Ulps {
   public:
    void Add(const unsigned char* e, const unsigned char* a) {
      for (size_t i = 0; i < kRegisters<Format>; ++i) AddRegister(LoadBits(e, i), LoadBits(a, i));
    }
    uint64_t Max() const {
      typename Format::Bits lanes[32 / sizeof(typename Format::Bits)];
      std::memcpy(lanes, &max_, sizeof(lanes));
      uint64_t max = 0;
      for (const auto lane : lanes) max = lane > max ? lane : max;
      return max;
    }

   private:
    void AddRegister(__m256i x, __m256i y) {
      const __m256i signs = _mm256_xor_si256(x, y);
      if constexpr (kIs16<Format>) {
        const __m256i m = _mm256_set1_epi16(static_cast<short>(Format::kMagnitude));
        const __m256i mx = _mm256_and_si256(x, m), my = _mm256_and_si256(y, m);
        const __m256i high = _mm256_max_epu16(mx, my), low = _mm256_min_epu16(mx, my);
        // Where the signs differ, high - low becomes high + low.
        const __m256i twice =
            _mm256_and_si256(_mm256_srai_epi16(signs, 15), _mm256_add_epi16(low, low));
        max_ = _mm256_max_epu16(max_, _mm256_add_epi16(_mm256_sub_epi16(high, low), twice));
      } else {
        const __m256i m = _mm256_set1_epi32(Format::kMagnitude);
        const __m256i mx = _mm256_and_si256(x, m), my = _mm256_and_si256(y, m);
        const __m256i high = _mm256_max_epu32(mx, my), low = _mm256_min_epu32(mx, my);
        const __m256i twice =
            _mm256_and_si256(_mm256_srai_epi32(signs, 31), _mm256_add_epi32(low, low));
        max_ = _mm256_max_epu32(max_, _mm256_add_epi32(_mm256_sub_epi32(high, low), twice));
      }
    }
    __m256i max_ = _mm256_setzero_si256();
  };
};

}  // namespace

const KernelTable* Avx2Kernels() {
  static constexpr KernelTable kTable = MakeKernels<Avx2Ops>("avx2");
  return &kTable;
}

}  // namespace weighbridge::internal

#else

namespace weighbridge::internal {
const KernelTable* Avx2Kernels() { return nullptr; }
}  // namespace weighbridge::internal

#endif
