// The comparison kernels for any processor: eight lanes as plain arrays.
#include "tensor/compare_kernel_impl.h"

namespace weighbridge::internal {
namespace {

struct ScalarOps {
  struct D {
    double v[kLanes];
  };

  static D Zero() { return {}; }
  static D Splat(double x) { return {{x, x, x, x, x, x, x, x}}; }
  template <typename F>
  static D Map(F f) {
    D r;
    for (size_t i = 0; i < kLanes; ++i) r.v[i] = f(i);
    return r;
  }
  static D Sub(D a, D b) {
    return Map([&](size_t i) { return a.v[i] - b.v[i]; });
  }
  static D Add(D a, D b) {
    return Map([&](size_t i) { return a.v[i] + b.v[i]; });
  }
  static D Mul(D a, D b) {
    return Map([&](size_t i) { return a.v[i] * b.v[i]; });
  }
  static D MulAdd(D a, D b, D c) {
    return Map([&](size_t i) { return a.v[i] * b.v[i] + c.v[i]; });
  }
  static D Div(D a, D b) {
    return Map([&](size_t i) { return b.v[i] == 0 ? 0 : a.v[i] / b.v[i]; });
  }
  static D Abs(D a) {
    return Map([&](size_t i) { return __builtin_fabs(a.v[i]); });
  }
  static D Max(D a, D b) {
    return Map([&](size_t i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static D ZeroWhereZero(D value, D condition) {
    return Map([&](size_t i) { return condition.v[i] == 0 ? 0 : value.v[i]; });
  }
  static bool AnyGreaterEqual(D a, D b) {
    bool any = false;
    for (size_t i = 0; i < kLanes; ++i) any |= a.v[i] >= b.v[i];
    return any;
  }
  static int CountNotWithin(D a, D b) {
    int n = 0;
    for (size_t i = 0; i < kLanes; ++i) n += !(a.v[i] <= b.v[i]);
    return n;
  }
  static void Store(double* out, D a) { std::memcpy(out, a.v, sizeof(a.v)); }

  static float AsFloat(uint32_t bits) {
    float f;
    std::memcpy(&f, &bits, sizeof(f));
    return f;
  }
  template <typename T>
  static T Get(const unsigned char* p, size_t i) {
    T value;
    std::memcpy(&value, p + i * sizeof(T), sizeof(T));
    return value;
  }
  static D Load(F32Format, const unsigned char* p) {
    return Map([&](size_t i) { return AsFloat(Get<uint32_t>(p, i)); });
  }
  static D Load(BF16Format, const unsigned char* p) {
    return Map([&](size_t i) { return AsFloat(uint32_t{Get<uint16_t>(p, i)} << 16); });
  }
  // Finite values only: the magnitude read as a float32 is the value times 2^-112.
  static D Load(F16Format, const unsigned char* p) {
    return Map([&](size_t i) {
      const uint32_t h = Get<uint16_t>(p, i);
      const float magnitude = AsFloat((h & 0x7fff) << 13) * 0x1p112f;
      return (h & 0x8000) != 0 ? -magnitude : magnitude;
    });
  }

  template <typename Format>
  static bool AnyNonFinite(const unsigned char* e, const unsigned char* a) {
    using Bits = typename Format::Bits;
    bool any = false;
    for (size_t i = 0; i < kGroup; ++i) {
      any |= (Get<Bits>(e, i) & Format::kMagnitude) >= Format::kInfinity;
      any |= (Get<Bits>(a, i) & Format::kMagnitude) >= Format::kInfinity;
    }
    return any;
  }
  template <typename Format>
  static int CountUnequal(const unsigned char* e, const unsigned char* a) {
    using Bits = typename Format::Bits;
    int n = 0;
    for (size_t i = 0; i < kGroup; ++i) n += Get<Bits>(e, i) != Get<Bits>(a, i);
    return n;
  }
  template <typename Format>
  class Ulps {
   public:
    void Add(const unsigned char* e, const unsigned char* a) {
      for (size_t i = 0; i < kGroup; ++i) {
        const uint32_t x = Get<typename Format::Bits>(e, i), y = Get<typename Format::Bits>(a, i);
        const uint32_t mx = x & Format::kMagnitude, my = y & Format::kMagnitude;
        const uint32_t high = mx > my ? mx : my, low = mx > my ? my : mx;
        const uint32_t distance =
            ((x ^ y) & ~uint32_t{Format::kMagnitude}) != 0 ? high + low : high - low;
        if (distance > max_) max_ = distance;
      }
    }
    uint64_t Max() const { return max_; }

   private:
    uint32_t max_ = 0;
  };
};

}  // namespace

const KernelTable& ScalarKernels() {
  static constexpr KernelTable kTable = MakeKernels<ScalarOps>("scalar");
  return kTable;
}

}  // namespace weighbridge::internal
