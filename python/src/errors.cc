#include "python/src/errors.h"

#include <nanobind/stl/string.h>

#include <array>

namespace nb = nanobind;

namespace weighbridge::python {
namespace {

// In the order of ErrorKind.
constexpr std::array kKinds = {"usage",   "not-found",   "permission", "io",
                               "corrupt", "unsupported", "invalid",    "internal"};

}  // namespace

nb::tuple ErrorFields(const Error& error) {
  return nb::make_tuple(kKinds.at(static_cast<size_t>(error.kind)), error.id, error.what, error.at,
                        error.hint);
}

void Raise(const Error& error) {
  const nb::object type = nb::module_::import_("weighbridge._errors").attr("Error");
  const nb::object exception = type(*ErrorFields(error));
  PyErr_SetObject(type.ptr(), exception.ptr());
  throw nb::python_error();
}

}  // namespace weighbridge::python
