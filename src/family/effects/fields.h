// What both sides do to their fields.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace weighbridge {

// "none" becomes null, also within lists; frequencies of layers become lists of 0 and 1.
void NormalizeFields(nlohmann::json& fields, int64_t layers);

// A finite number above 0 under a key of a table, or the fallback.
double PositiveOr(const nlohmann::json& table, const char* key, double fallback);
// Entry `layer` of a list of 0 and 1; false where there is none.
bool ListSays(const nlohmann::json& fields, const char* field, int64_t layer);
// A number, or of a list of two (of layers with a window, of the others) the one that counts.
double NumberForLayer(const nlohmann::json& value, bool windowed, double fallback);

}  // namespace weighbridge
