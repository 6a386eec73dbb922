#include "checks/moves.h"

#include <algorithm>
#include <cstring>

namespace weighbridge {
namespace {

constexpr int64_t kValueBytes = 64 << 10;  // of quantized tensors, made at a time

// Copies fixed-size elements with a stride; the compiler turns each size into plain moves.
template <size_t N>
void GatherStrided(const std::byte* from, int64_t stride, int64_t count, std::byte* to) {
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(to + i * static_cast<int64_t>(N), from + i * stride, N);
}

template <size_t N>
void ScatterStrided(const std::byte* from, int64_t count, std::byte* to, int64_t stride) {
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(to + i * stride, from + i * static_cast<int64_t>(N), N);
}

template <size_t N>
bool EqualStrided(const std::byte* a, int64_t stride, int64_t count, const std::byte* b) {
  unsigned different = 0;
  for (int64_t i = 0; i < count; ++i) {
    different |=
        static_cast<unsigned>(std::memcmp(a + i * stride, b + i * static_cast<int64_t>(N), N) != 0);
  }
  return different == 0;
}

}  // namespace

void GatherRun(const Run& run, const std::byte* source, std::byte* to) {
  const std::byte* from = source + run.other_offset;
  if (run.count == 1) {
    std::memcpy(to, from, static_cast<size_t>(run.length));
    return;
  }
  switch (run.length) {
    case 1:
      return GatherStrided<1>(from, run.other_stride, run.count, to);
    case 2:
      return GatherStrided<2>(from, run.other_stride, run.count, to);
    case 4:
      return GatherStrided<4>(from, run.other_stride, run.count, to);
    case 8:
      return GatherStrided<8>(from, run.other_stride, run.count, to);
    default:
      for (int64_t i = 0; i < run.count; ++i) {
        std::memcpy(to + i * run.length, from + i * run.other_stride,
                    static_cast<size_t>(run.length));
      }
  }
}

void ScatterRun(const Run& run, const std::byte* from, std::byte* target) {
  std::byte* to = target + run.other_offset;
  switch (run.count == 1 ? 0 : run.length) {
    case 1:
      return ScatterStrided<1>(from, run.count, to, run.other_stride);
    case 2:
      return ScatterStrided<2>(from, run.count, to, run.other_stride);
    case 4:
      return ScatterStrided<4>(from, run.count, to, run.other_stride);
    case 8:
      return ScatterStrided<8>(from, run.count, to, run.other_stride);
    default:
      for (int64_t i = 0; i < run.count; ++i) {
        std::memcpy(to + i * run.other_stride, from + i * run.length,
                    static_cast<size_t>(run.length));
      }
  }
}

bool EqualRun(const Run& run, const std::byte* source, const std::byte* block) {
  const std::byte* from = source + run.other_offset;
  if (run.count == 1) return std::memcmp(from, block, static_cast<size_t>(run.length)) == 0;
  switch (run.length) {
    case 1:
      return EqualStrided<1>(from, run.other_stride, run.count, block);
    case 2:
      return EqualStrided<2>(from, run.other_stride, run.count, block);
    case 4:
      return EqualStrided<4>(from, run.other_stride, run.count, block);
    case 8:
      return EqualStrided<8>(from, run.other_stride, run.count, block);
    default:
      for (int64_t i = 0; i < run.count; ++i) {
        if (std::memcmp(from + i * run.other_stride, block + i * run.length,
                        static_cast<size_t>(run.length)) != 0) {
          return false;
        }
      }
      return true;
  }
}

void Sources::Add(const std::byte* start, const QuantizedTensor* values) {
  if (values != nullptr || !quantized.empty()) {
    quantized.resize(starts.size());
    quantized.push_back(values);
  }
  starts.push_back(values != nullptr ? nullptr : start);
}

void GatherRun(const Run& run, const Sources& sources, std::byte* to) {
  const QuantizedTensor* q = sources.Quantized(run.other);
  if (q == nullptr) return GatherRun(run, sources.Data(run.other), to);
  const int64_t size = BitsOf(q->dtype) / 8;
  for (int64_t i = 0; i < run.count; ++i) {
    Dequantize(*q, (run.other_offset + i * run.other_stride) / size, run.length / size,
               to + i * run.length);
  }
}

bool EqualRun(const Run& run, const Sources& sources, const std::byte* block) {
  if (sources.Quantized(run.other) == nullptr) {
    return EqualRun(run, sources.Data(run.other), block);
  }
  thread_local std::vector<std::byte> values;
  bool equal = true;
  for (int64_t at = run.offset; at < run.end() && equal; at += kValueBytes) {
    VisitClipped(run, at, std::min(at + kValueBytes, run.end()), [&](const Run& part) {
      values.resize(static_cast<size_t>(part.bytes()));
      GatherRun(part, sources, values.data());
      equal = equal &&
              std::memcmp(values.data(), block + (part.offset - run.offset), values.size()) == 0;
    });
  }
  return equal;
}

bool EqualTensors(const Checkpoint& checkpoint, const TensorInfo& a, const TensorInfo& b) {
  Sources sources;
  sources.dtype = a.dtype;
  for (const TensorInfo* t : {&a, &b}) {
    sources.Add(checkpoint.Data(*t).data(), checkpoint.Quantized(*t));
  }
  if (sources.quantized.empty()) {
    return std::memcmp(sources.Data(0), sources.Data(1), static_cast<size_t>(a.nbytes)) == 0;
  }
  std::vector<std::byte> values;
  const auto nbytes = static_cast<int64_t>(a.nbytes);
  for (int64_t at = 0; at < nbytes; at += kValueBytes) {
    Run run{.other_offset = at, .length = std::min(kValueBytes, nbytes - at)};
    values.resize(static_cast<size_t>(run.length));
    GatherRun(run, sources, values.data());
    run.other = 1;
    if (!EqualRun(run, sources, values.data())) return false;
  }
  return true;
}

void GatherBytes(const Plan& plan, const Sources& sources, int64_t begin,
                 std::span<std::byte> out) {
  const auto end = begin + static_cast<int64_t>(out.size());
  plan.Visit(begin, end, [&](const Run& run) {
    std::byte* to = out.data() + (run.offset - begin);
    if (run.other == kZeroSource) {
      std::memset(to, 0, static_cast<size_t>(run.bytes()));
    } else {
      GatherRun(run, sources, to);
    }
  });
}

bool EqualBytes(const Plan& plan, const Sources& sources, int64_t begin,
                std::span<const std::byte> block) {
  const auto end = begin + static_cast<int64_t>(block.size());
  bool equal = true;
  plan.Visit(begin, end, [&](const Run& run) {
    if (!equal || run.other == kZeroSource) return;
    equal = EqualRun(run, sources, block.data() + (run.offset - begin));
  });
  return equal;
}

Status GatherElements(const Plan& plan, const Sources& sources, Op op, DType dtype, int64_t begin,
                      std::span<std::byte> out, std::vector<std::byte>& scratch) {
  const int64_t source_size = BitsOf(sources.dtype) / 8;
  const int64_t elements = static_cast<int64_t>(out.size()) * 8 / BitsOf(dtype);
  if (op == Op::kNone && dtype == sources.dtype) {
    GatherBytes(plan, sources, begin * source_size, out);
    return {};
  }
  scratch.resize(static_cast<size_t>(elements * source_size));
  GatherBytes(plan, sources, begin * source_size, scratch);
  return Apply(op, sources.dtype, scratch, dtype, out);
}

}  // namespace weighbridge
