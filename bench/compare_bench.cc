// GB/s of each comparison path (both inputs counted), beside memcpy (read and written bytes
// counted) and memcmp of the same buffers.
#include <benchmark/benchmark.h>

#include <cstring>
#include <string>
#include <vector>

#include "tensor/compare.h"
#include "tensor/compare_kernel.h"

namespace weighbridge {
namespace {

constexpr size_t kBytes = size_t{128} << 20;  // far beyond the caches

// Finite patterns of any 16- or 32-bit float that differ nearly everywhere.
const std::vector<std::byte>& Input(int seed) {
  static const auto make = [](uint32_t state) {
    std::vector<std::byte> out(kBytes);
    for (size_t i = 0; i < kBytes; i += 2) {
      state = state * 1664525 + 1013904223;
      const auto pattern = static_cast<uint16_t>(0x3000 + (state >> 20));
      std::memcpy(out.data() + i, &pattern, 2);
    }
    return out;
  };
  static const std::vector<std::byte> a = make(1), b = make(2);
  return seed == 0 ? a : b;
}

void CountBytes(benchmark::State& state) {
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(2 * kBytes));
}

void Memcpy(benchmark::State& state) {
  std::vector<std::byte> target(kBytes);
  for (auto _ : state) {
    std::memcpy(target.data(), Input(0).data(), kBytes);
    benchmark::DoNotOptimize(target.data());
    benchmark::ClobberMemory();
  }
  CountBytes(state);
}

void Memcmp(benchmark::State& state) {
  const std::vector<std::byte> same = Input(0);
  for (auto _ : state) benchmark::DoNotOptimize(BytesEqual(Input(0), same));
  CountBytes(state);
}

void Differing(benchmark::State& state, const internal::KernelTable* kernels, DType dtype) {
  const auto count = static_cast<int64_t>(kBytes * 8 / static_cast<size_t>(BitsOf(dtype)));
  const TensorView e{dtype, {count}, Input(0)}, a{dtype, {count}, Input(1)};
  for (auto _ : state) {
    for (int64_t first = 0; first < count; first += kCompareBlock) {
      benchmark::DoNotOptimize(
          internal::CompareBlockWith(*kernels, e, a, first, kCompareBlock, Tolerance{}));
    }
  }
  CountBytes(state);
}

}  // namespace
}  // namespace weighbridge

int main(int argc, char** argv) {
  using namespace weighbridge;
  benchmark::RegisterBenchmark("memcpy", Memcpy);
  benchmark::RegisterBenchmark("equal bytes", Memcmp);
  for (auto* k = internal::AvailableKernels(); *k != nullptr; ++k) {
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
      const std::string name = std::string((*k)->name) + " " + std::string(ShortName(dtype));
      benchmark::RegisterBenchmark(name.c_str(), Differing, *k, dtype);
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
