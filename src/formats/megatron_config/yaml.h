// YAML as Megatron Bridge writes and reads its configs (PyYAML's safe_dump and safe_load): text to
// JSON-like values and back. Pure functions; nothing of a file is ever executed.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace weighbridge {

inline constexpr uint64_t kMaxYamlBytes = 4u << 20;
inline constexpr int kMaxYamlDepth = 64;
// After aliases are expanded: a text of a few lines may stand for 10^9 nodes.
inline constexpr int64_t kMaxYamlNodes = 200'000;
inline constexpr uint64_t kMaxYamlTextBytes = 4 * kMaxYamlBytes;

// The first document of `text`; `name` is what messages call it. Tags are ignored (a tagged scalar
// is text), of two equal keys the last counts. Plain scalars are null, true, false (yes, no, on,
// off), integers and floats as PyYAML resolves them, and floats without a point (1e-5) as YAML 1.2
// does. Errors: kCorrupt "header-corrupt" with NAME:LINE for what is no YAML, a key that is no
// scalar, and nesting, size or expanded aliases beyond the limits above.
Result<nlohmann::json> ParseYaml(std::string_view text, const std::string& name);

// `value` in block style with sorted keys, read back as the same by YAML 1.1 and 1.2 readers.
std::string DumpYaml(const nlohmann::json& value);

}  // namespace weighbridge
