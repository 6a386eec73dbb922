// Names whose beginnings are exchanged by a table: the longest entry that fits counts.
#pragma once

#include <map>
#include <string>
#include <utility>

namespace weighbridge {

// The entry with the longest beginning of `name`; nullptr when none fits.
inline const std::pair<const std::string, std::string>* LongestPrefix(
    const std::map<std::string, std::string>& table, const std::string& name) {
  const std::pair<const std::string, std::string>* longest = nullptr;
  for (const auto& entry : table) {
    if (!name.starts_with(entry.first)) continue;
    if (longest == nullptr || entry.first.size() > longest->first.size()) longest = &entry;
  }
  return longest;
}

// `name` with its beginning exchanged, or as it is.
inline std::string WithPrefix(const std::map<std::string, std::string>& table,
                              const std::string& name) {
  const auto* entry = LongestPrefix(table, name);
  return entry == nullptr ? name : entry->second + name.substr(entry->first.size());
}

}  // namespace weighbridge
