// The original libraries, in an isolated Python process (src/engine/children): nothing of Python is
// in this process, and no code of a checkpoint is run in that one.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"

namespace weighbridge {

// $WEIGHBRIDGE_PYTHON, else the one whose environment holds the torch that the engine was built
// with, else python3 of PATH.
std::string FindPython();

// What the script `name` of src/engine/children replies to `request`. Errors: those of
// RunSubprocess; kNotFound "package-missing" with what to install; kUnsupported
// "original-unsupported"; kInvalid "original-failed" with the library's own words; kIo
// "python-failed" when it ended without a reply or took longer than `timeout_s`.
Result<nlohmann::json> CallPython(const std::string& name, const nlohmann::json& request,
                                  double timeout_s);

// "transformers 5.17.0, torch 2.11.0, python 3.12.3" of a reply; `first` is the one named first.
std::string VersionsOf(const nlohmann::json& reply, const std::string& first);

}  // namespace weighbridge
