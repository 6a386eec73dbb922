// What of a pickle is plain data, as JSON-like values: configs and counters that were saved as
// Python objects.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>

#include "formats/pickle/value.h"

namespace weighbridge::pickle {

// None, truth values, numbers, texts, lists, tuples (as lists) and dicts with text keys; an
// argparse.Namespace as the dict of its attributes; the name of a class or dtype as text
// ("torch.bfloat16"). Whatever else an entry of a dict holds, the entry is left out; nullopt where
// `value` itself is something else, or where nesting or size go beyond what a config has.
std::optional<nlohmann::json> ToPlainJson(const Value& value);

}  // namespace weighbridge::pickle
