// weighbridge._core: what the Python files of the package are written over. Its types stand in
// _core.pyi.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include "checks/bridge_dump.h"
#include "cli/call.h"
#include "cli/version_text.h"
#include "python/src/checkpoints.h"
#include "python/src/compare.h"
#include "python/src/errors.h"
#include "python/src/work.h"
#include "report/json.h"

namespace nb = nanobind;

namespace weighbridge::python {
namespace {

// (status, the report's JSON or None, errors, other output) of a command line.
nb::tuple RunCommand(const std::vector<std::string>& arguments) {
  cli::CallResult result;
  std::string json;
  Run([&] {
    result = cli::Call(arguments);
    if (result.report) WriteJson(*result.report, [&](std::string_view text) { json += text; });
  });
  nb::list errors;
  for (const Error& error : result.errors) errors.append(ErrorFields(error));
  const nb::object report = result.report ? nb::cast(json) : nb::none();
  return nb::make_tuple(result.status, report, errors, result.text);
}

}  // namespace
}  // namespace weighbridge::python

NB_MODULE(_core, module) {
  module.def("run", &weighbridge::python::RunCommand, nb::arg("arguments"));
  module.def("match_rule", &weighbridge::MatchRule, nb::arg("pattern"), nb::arg("name"));
  module.def("version", &weighbridge::cli::VersionText);
  weighbridge::python::BindCheckpoints(module);
  weighbridge::python::BindCompare(module);
}
