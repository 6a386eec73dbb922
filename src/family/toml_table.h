// Strict reading of TOML tables: every key must be asked for, else Finish() names the unknown one
// with its line and column. Collects the first error, so that callers read straight through.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/toml.h"

namespace weighbridge {

class TomlTable {
 public:
  TomlTable(const toml::table& table, std::string origin)
      : table_(table), origin_(std::move(origin)) {}

  bool Has(std::string_view key) const { return table_.contains(key); }
  // Absent keys give the empty value; a wrong type is an error.
  std::string String(std::string_view key);
  // A string, integer or boolean as text: expressions may be written plainly.
  std::string Expression(std::string_view key);
  bool Bool(std::string_view key, bool fallback);
  // One string or an array of strings.
  std::vector<std::string> Strings(std::string_view key);
  std::vector<std::string> Expressions(std::string_view key);
  // A table of text values.
  std::map<std::string, std::string> TextMap(std::string_view key);
  nlohmann::json Json(std::string_view key);
  const toml::table* Table(std::string_view key);
  // Array of tables; empty when absent.
  std::vector<const toml::table*> Tables(std::string_view key);
  const toml::node* Node(std::string_view key);
  // Marks every key as read and returns them in order.
  std::vector<std::string> Keys();

  void SetError(const toml::node* node, std::string what);
  // The first error, or the first unknown key.
  Status Finish();

  static std::string Where(const std::string& origin, const toml::source_region& source);
  const std::string& origin() const { return origin_; }
  int line() const { return static_cast<int>(table_.source().begin.line); }

 private:
  std::optional<std::string> TextOf(const toml::node& node);
  std::vector<std::string> List(std::string_view key, bool expressions);

  const toml::table& table_;
  std::string origin_;
  std::set<std::string, std::less<>> read_;
  std::optional<Error> error_;
};

// A TOML value as JSON.
nlohmann::json ToJson(const toml::node& node);

}  // namespace weighbridge
