// What both sides do to their fields.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "family/effects/rope.h"

namespace weighbridge {

// "none" becomes null, also within lists; frequencies of layers become lists of 0 and 1.
void NormalizeFields(nlohmann::json& fields, int64_t layers);

// A finite number above 0 under a key of a table, or the fallback.
double PositiveOr(const nlohmann::json& table, const char* key, double fallback);
// Entry `layer` of a list of 0 and 1; false where there is none.
bool ListSays(const nlohmann::json& fields, const char* field, int64_t layer);
// A number, or of a list of two (of layers with a window, of the others) the one that counts.
double NumberForLayer(const nlohmann::json& value, bool windowed, double fallback);

// What a scaled table is made from, under the names that Rope::recipe has for it.
void AddRecipe(const Llama3Scaling& scaling, nlohmann::json& recipe);
void AddRecipe(const YarnScaling& scaling, nlohmann::json& recipe);

}  // namespace weighbridge
