// CompareTensors and CompareStateDicts (include/weighbridge/compare.h) for Python.
#pragma once

#include <nanobind/nanobind.h>

namespace weighbridge::python {

void BindCompare(nanobind::module_& module);

}  // namespace weighbridge::python
