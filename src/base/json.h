// Small JSON files (configs): a DOM with guards. Big machine-written JSON (headers, indexes) is
// read with simdjson in formats/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace weighbridge {

inline constexpr int kMaxJsonDepth = 200;
inline constexpr uint64_t kMaxJsonFileBytes = 16u << 20;

// Parses strict JSON, plus the bare words NaN, Infinity and -Infinity that Python's json module
// writes
// ("time_step_limit": [0.0, Infinity]), and {"__float__": "Infinity"}, by which transformers spells
// such a number since 5.0. `name` is what messages call the text. Errors: kCorrupt
// header-corrupt with NAME:OFFSET; nesting deeper than kMaxJsonDepth is one of them. The last of
// two equal keys counts, as in Python.
Result<nlohmann::json> ParseJson(std::string_view text, const std::string& name);

// As ParseJson, with the keys of each object in the text's order and {"__float__": ...} as it is:
// for files that are edited.
Result<nlohmann::ordered_json> ParseOrderedJson(std::string_view text, const std::string& name);

// The text of a config file as Python's json.dumps(indent=2) writes it, NaN and Infinity included,
// with a line feed at the end.
std::string DumpConfig(const nlohmann::ordered_json& config);

// Reads and parses a file. Also kNotFound, kPermission, kIo; kUnsupported above kMaxJsonFileBytes.
Result<nlohmann::json> ReadJsonFile(const std::filesystem::path& path);

// kInvalid "config-kind": the value at `key` of a config.json is of another kind than `expected`
// ("a table"). It says nothing about the weights, so it is no judgement of them.
tl::unexpected<Error> WrongKind(const std::string& key, const nlohmann::json& value,
                                std::string_view expected);

}  // namespace weighbridge
