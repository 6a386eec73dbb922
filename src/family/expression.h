// The small language of family files: integers, names, + - * / % ( ), comparisons, and or not,
// true false. Everything is int64; a truth value is 0 or 1. Division must be exact.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>

#include "base/result.h"

namespace weighbridge {

// The value of a name, or kInvalid when there is none.
using NameLookup = std::function<Result<int64_t>(std::string_view)>;

// Errors: kInvalid with the column; overflow, division by zero and inexact division included.
Result<int64_t> Evaluate(std::string_view expression, const NameLookup& lookup);

// The names that an expression (or any text like one) uses.
std::set<std::string> NamesIn(std::string_view expression);

// Replaces each {expression} in `text` by its value: "model.layers.{layers + layer}.".
Result<std::string> Substitute(std::string_view text, const NameLookup& lookup);

}  // namespace weighbridge
