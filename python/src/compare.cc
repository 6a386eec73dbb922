#include "python/src/compare.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "base/threads.h"
#include "python/src/checkpoints.h"
#include "python/src/held_tensors.h"
#include "python/src/work.h"
#include "weighbridge/compare.h"

namespace nb = nanobind;

namespace weighbridge::python {
namespace {

using Lent = std::tuple<std::string, Shape, Bytes>;

CompareOptions Options(double atol, double rtol, int threads) {
  return {.atol = atol, .rtol = rtol, .threads = threads > 0 ? threads : DefaultThreads()};
}

nb::dict MetricsDict(const Metrics& m) {
  nb::dict out;
  out["max_diff"] = m.max_diff;
  out["mean_diff"] = m.mean_diff;
  out["cosine"] = m.cosine;
  out["max_relative"] = m.max_relative;
  out["max_ulp"] = m.max_ulp;
  out["mismatched"] = m.mismatched;
  out["nan_count"] = m.nan_count;
  out["inf_count"] = m.inf_count;
  return out;
}

nb::dict CompareTwo(const Lent& expected, const Lent& actual, double atol, double rtol,
                    int threads) {
  const auto view = [](const Lent& lent) {
    return ViewOf(std::get<0>(lent), std::get<1>(lent), std::get<2>(lent));
  };
  const TensorView a = view(expected), b = view(actual);
  TensorComparison compared;
  Run([&] { compared = CompareTensors(a, b, Options(atol, rtol, threads)); });
  nb::dict out = MetricsDict(compared.metrics);
  out["equal"] = compared.equal;
  out["shapes_match"] = compared.shapes_match;
  out["dtypes_match"] = compared.dtypes_match;
  out["first_index"] = compared.first_index;
  out["first_expected"] = compared.first_expected;
  out["first_actual"] = compared.first_actual;
  out["message"] = compared.message;
  return out;
}

nb::list Differences(const std::vector<TensorDifference>& differences) {
  nb::list out;
  for (const TensorDifference& d : differences) {
    nb::dict row = MetricsDict(d.metrics);
    row["name"] = d.name;
    row["message"] = d.message;
    out.append(row);
  }
  return out;
}

nb::dict CompareDicts(const Tensors& expected, const Tensors& actual, double atol, double rtol,
                      int threads, std::vector<std::string> ignore) {
  CompareOptions options = Options(atol, rtol, threads);
  options.ignore = std::move(ignore);
  StateDictComparison compared;
  const KeptTensors a(expected.checkpoint()), b(actual.checkpoint());
  Run([&] { compared = CompareStateDicts(a, b, options); });
  nb::dict out;
  out["equal"] = compared.equal;
  out["compared"] = compared.compared;
  out["matched"] = compared.matched;
  out["missing"] = compared.missing;
  out["extra"] = compared.extra;
  out["shape_mismatches"] = Differences(compared.shape_mismatches);
  out["dtype_mismatches"] = Differences(compared.dtype_mismatches);
  out["differences"] = Differences(compared.differences);
  out["summary"] = compared.summary;
  return out;
}

}  // namespace

void BindCompare(nb::module_& module) {
  module.def("compare_tensors", &CompareTwo, nb::arg("expected"), nb::arg("actual"),
             nb::arg("atol"), nb::arg("rtol"), nb::arg("threads"));
  module.def("compare_state_dicts", &CompareDicts, nb::arg("expected"), nb::arg("actual"),
             nb::arg("atol"), nb::arg("rtol"), nb::arg("threads"), nb::arg("ignore"));
}

}  // namespace weighbridge::python
