#include "checks/metrics.h"

#include "tensor/float_bits.h"

namespace weighbridge {

Metrics ToMetrics(const ElementStats& stats) {
  Metrics m;
  m.max_diff = stats.max_diff();
  m.mean_diff = stats.mean_diff();
  m.cosine = stats.cosine();
  m.max_relative = stats.max_relative();
  m.max_ulp = stats.max_ulp;
  m.mismatched = stats.mismatched;
  m.nan_count = stats.nan_count;
  m.inf_count = stats.inf_count;
  return m;
}

std::vector<int64_t> ComponentIndex(DType dtype, const Shape& shape, int64_t component) {
  return MultiIndex(shape, component / ComponentsOf(dtype));
}

FirstDifference DescribePair(const std::string& expected_name, const TensorView& expected,
                             const std::string& actual_name, const TensorView& actual,
                             int64_t component) {
  const auto k = static_cast<size_t>(component);
  FirstDifference first;
  first.hf_tensor = expected_name;
  first.hf_index = ComponentIndex(expected.dtype, expected.shape, component);
  first.megatron_tensor = actual_name;
  first.megatron_index = ComponentIndex(actual.dtype, actual.shape, component);
  first.expected = FormatBits(expected.dtype, RawBits(expected.dtype, expected.bytes.data(), k));
  first.actual = FormatBits(actual.dtype, RawBits(actual.dtype, actual.bytes.data(), k));
  return first;
}

}  // namespace weighbridge
