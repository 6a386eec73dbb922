// Errors of the rooms as exceptions of the package.
#pragma once

#include <nanobind/nanobind.h>

#include <utility>

#include "base/result.h"

namespace weighbridge::python {

// Raises weighbridge.Error; the GIL is held.
[[noreturn]] void Raise(const Error& error);

template <typename T>
T OrRaise(Result<T> result) {
  if (!result) Raise(result.error());
  return *std::move(result);
}

// (kind, id, what, at, hint): what weighbridge.Error is made of.
nanobind::tuple ErrorFields(const Error& error);

}  // namespace weighbridge::python
