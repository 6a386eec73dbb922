// The comparison kernels for AVX-512 (F, BW, DQ, VL); compiled with those flags.
#include "tensor/compare_kernel_impl.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace weighbridge::internal {
namespace {

struct Avx512Ops {
  using D = __m512d;

  static D Zero() { return _mm512_setzero_pd(); }
  static D Splat(double x) { return _mm512_set1_pd(x); }
  static D Sub(D a, D b) { return _mm512_sub_pd(a, b); }
  static D Add(D a, D b) { return _mm512_add_pd(a, b); }
  static D Mul(D a, D b) { return _mm512_mul_pd(a, b); }
  static D MulAdd(D a, D b, D c) { return _mm512_fmadd_pd(a, b, c); }
  static D Div(D a, D b) { return _mm512_div_pd(a, b); }
  static D Abs(D a) { return _mm512_andnot_pd(_mm512_set1_pd(-0.0), a); }
  static D Max(D a, D b) { return _mm512_max_pd(a, b); }
  static D ZeroWhereZero(D value, D condition) {
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(condition, Zero(), _CMP_NEQ_OQ), value);
  }
  static bool AnyGreaterEqual(D a, D b) { return _mm512_cmp_pd_mask(a, b, _CMP_GE_OQ) != 0; }
  static int CountNotWithin(D a, D b) {
    return __builtin_popcount(_mm512_cmp_pd_mask(a, b, _CMP_NLE_UQ));
  }
  static void Store(double* out, D a) { _mm512_storeu_pd(out, a); }

  static __m128i Load16(const unsigned char* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static D Load(F32Format, const unsigned char* p) {
    return _mm512_cvtps_pd(_mm256_loadu_ps(reinterpret_cast<const float*>(p)));
  }
  static D Load(BF16Format, const unsigned char* p) {
    const __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(Load16(p)), 16);
    return _mm512_cvtps_pd(_mm256_castsi256_ps(bits));
  }
  static D Load(F16Format, const unsigned char* p) {
    return _mm512_cvtps_pd(_mm256_cvtph_ps(Load16(p)));
  }

  // One or two registers of integer lanes hold a group.
  template <typename Format>
  static constexpr size_t kRegisters = kGroup * sizeof(typename Format::Bits) / 64;
  static __m512i LoadBits(const unsigned char* p, size_t i) {
    return _mm512_loadu_si512(p + i * 64);
  }

  template <typename Format>
  static bool AnyNonFinite(const unsigned char* e, const unsigned char* a) {
    if constexpr (sizeof(typename Format::Bits) == 2) {
      const __m512i m = _mm512_set1_epi16(static_cast<short>(Format::kMagnitude));
      const __m512i high = _mm512_max_epu16(_mm512_and_si512(LoadBits(e, 0), m),
                                            _mm512_and_si512(LoadBits(a, 0), m));
      return _mm512_cmpge_epu16_mask(high, _mm512_set1_epi16(Format::kInfinity)) != 0;
    } else {
      const __m512i m = _mm512_set1_epi32(Format::kMagnitude);
      const auto high = [&](size_t i) {
        return _mm512_max_epu32(_mm512_and_si512(LoadBits(e, i), m),
                                _mm512_and_si512(LoadBits(a, i), m));
      };
      return _mm512_cmpge_epu32_mask(_mm512_max_epu32(high(0), high(1)),
                                     _mm512_set1_epi32(Format::kInfinity)) != 0;
    }
  }

  template <typename Format>
  static int CountUnequal(const unsigned char* e, const unsigned char* a) {
    if constexpr (sizeof(typename Format::Bits) == 2) {
      return __builtin_popcount(_mm512_cmpneq_epu16_mask(LoadBits(e, 0), LoadBits(a, 0)));
    } else {
      const unsigned low = _mm512_cmpneq_epu32_mask(LoadBits(e, 0), LoadBits(a, 0));
      const unsigned high = _mm512_cmpneq_epu32_mask(LoadBits(e, 1), LoadBits(a, 1));
      return __builtin_popcount(low | high << 16);
    }
  }

  template <typename Format>
  class Ulps {
   public:
    void Add(const unsigned char* e, const unsigned char* a) {
      for (size_t i = 0; i < kRegisters<Format>; ++i) AddRegister(LoadBits(e, i), LoadBits(a, i));
    }
    uint64_t Max() const {
      typename Format::Bits lanes[64 / sizeof(typename Format::Bits)];
      _mm512_storeu_si512(lanes, max_);
      uint64_t max = 0;
      for (const auto lane : lanes) max = lane > max ? lane : max;
      return max;
    }

   private:
    void AddRegister(__m512i x, __m512i y) {
      if constexpr (sizeof(typename Format::Bits) == 2) {
        const __m512i m = _mm512_set1_epi16(static_cast<short>(Format::kMagnitude));
        const __m512i mx = _mm512_and_si512(x, m), my = _mm512_and_si512(y, m);
        const __m512i high = _mm512_max_epu16(mx, my), low = _mm512_min_epu16(mx, my);
        const __mmask32 other_sign = _mm512_movepi16_mask(_mm512_xor_si512(x, y));
        const __m512i same = _mm512_sub_epi16(high, low);
        max_ = _mm512_max_epu16(max_, _mm512_mask_add_epi16(same, other_sign, high, low));
      } else {
        const __m512i m = _mm512_set1_epi32(Format::kMagnitude);
        const __m512i mx = _mm512_and_si512(x, m), my = _mm512_and_si512(y, m);
        const __m512i high = _mm512_max_epu32(mx, my), low = _mm512_min_epu32(mx, my);
        const __mmask16 other_sign = _mm512_movepi32_mask(_mm512_xor_si512(x, y));
        const __m512i same = _mm512_sub_epi32(high, low);
        max_ = _mm512_max_epu32(max_, _mm512_mask_add_epi32(same, other_sign, high, low));
      }
    }
    __m512i max_ = _mm512_setzero_si512();
  };
};

}  // namespace

const KernelTable* Avx512Kernels() {
  static constexpr KernelTable kTable = MakeKernels<Avx512Ops>("avx512");
  return &kTable;
}

}  // namespace weighbridge::internal

#else

namespace weighbridge::internal {
const KernelTable* Avx512Kernels() { return nullptr; }
}  // namespace weighbridge::internal

#endif
