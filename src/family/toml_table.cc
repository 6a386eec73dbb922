#include "family/toml_table.h"

#include <fmt/format.h>

namespace weighbridge {

std::string TomlTable::Where(const std::string& origin, const toml::source_region& source) {
  return fmt::format("{}:{}:{}", origin, source.begin.line, source.begin.column);
}

void TomlTable::SetError(const toml::node* node, std::string what) {
  if (error_) return;
  error_ = Error{ErrorKind::kInvalid, "family-file", std::move(what),
                 Where(origin_, node != nullptr ? node->source() : table_.source()),
                 "docs/families.md describes every key"};
}

const toml::node* TomlTable::Node(std::string_view key) {
  read_.insert(std::string(key));
  return table_.get(key);
}

std::optional<std::string> TomlTable::TextOf(const toml::node& node) {
  if (const auto* s = node.as_string()) return s->get();
  if (const auto* i = node.as_integer()) return fmt::format("{}", i->get());
  if (const auto* b = node.as_boolean()) return b->get() ? "true" : "false";
  return std::nullopt;
}

std::string TomlTable::String(std::string_view key) {
  const toml::node* node = Node(key);
  if (node == nullptr) return "";
  if (const auto* s = node->as_string()) return s->get();
  SetError(node, fmt::format("'{}' must be a string", key));
  return "";
}

std::string TomlTable::Expression(std::string_view key) {
  const toml::node* node = Node(key);
  if (node == nullptr) return "";
  if (auto text = TextOf(*node)) return *text;
  SetError(node, fmt::format("'{}' must be an expression", key));
  return "";
}

bool TomlTable::Bool(std::string_view key, bool fallback) {
  const toml::node* node = Node(key);
  if (node == nullptr) return fallback;
  if (const auto* b = node->as_boolean()) return b->get();
  SetError(node, fmt::format("'{}' must be true or false", key));
  return fallback;
}

std::vector<std::string> TomlTable::List(std::string_view key, bool expressions) {
  const toml::node* node = Node(key);
  std::vector<std::string> out;
  if (node == nullptr) return out;
  const auto add = [&](const toml::node& item) {
    if (expressions ? !TextOf(item) : !item.is_string()) {
      SetError(&item, fmt::format("'{}' must be a string or a list of strings", key));
    } else {
      out.push_back(*TextOf(item));
    }
  };
  if (const auto* array = node->as_array()) {
    for (const toml::node& item : *array) add(item);
  } else {
    add(*node);
  }
  return out;
}

std::vector<std::string> TomlTable::Strings(std::string_view key) { return List(key, false); }
std::vector<std::string> TomlTable::Expressions(std::string_view key) { return List(key, true); }

std::map<std::string, std::string> TomlTable::TextMap(std::string_view key) {
  std::map<std::string, std::string> out;
  const toml::table* table = Table(key);
  if (table == nullptr) return out;
  for (const auto& [name, value] : *table) {
    if (auto text = TextOf(value)) {
      out.emplace(std::string(name.str()), *text);
    } else {
      SetError(&value, fmt::format("'{}.{}' must be text", key, name.str()));
    }
  }
  return out;
}

nlohmann::json TomlTable::Json(std::string_view key) {
  const toml::node* node = Node(key);
  return node == nullptr ? nlohmann::json() : ToJson(*node);
}

const toml::table* TomlTable::Table(std::string_view key) {
  const toml::node* node = Node(key);
  if (node == nullptr) return nullptr;
  if (const auto* table = node->as_table()) return table;
  SetError(node, fmt::format("'{}' must be a table", key));
  return nullptr;
}

std::vector<const toml::table*> TomlTable::Tables(std::string_view key) {
  std::vector<const toml::table*> out;
  const toml::node* node = Node(key);
  if (node == nullptr) return out;
  const toml::array* array = node->as_array();
  if (array == nullptr) {
    SetError(node, fmt::format("'{}' is written [[{}]]", key, key));
    return out;
  }
  for (const toml::node& item : *array) {
    if (const auto* table = item.as_table()) {
      out.push_back(table);
    } else {
      SetError(&item, fmt::format("'{}' is written [[{}]]", key, key));
    }
  }
  return out;
}

std::vector<std::string> TomlTable::Keys() {
  std::vector<std::string> keys;
  for (const auto& [name, value] : table_) {
    keys.emplace_back(name.str());
    read_.insert(keys.back());
  }
  return keys;
}

Status TomlTable::Finish() {
  if (error_) return Fail(*error_);
  for (const auto& [name, value] : table_) {
    if (!read_.contains(name.str())) {
      SetError(&value, fmt::format("unknown key '{}'", name.str()));
      return Fail(*error_);
    }
  }
  return {};
}

nlohmann::json ToJson(const toml::node& node) {
  if (const auto* s = node.as_string()) return s->get();
  if (const auto* i = node.as_integer()) return i->get();
  if (const auto* f = node.as_floating_point()) return f->get();
  if (const auto* b = node.as_boolean()) return b->get();
  if (const auto* array = node.as_array()) {
    nlohmann::json out = nlohmann::json::array();
    for (const toml::node& item : *array) out.push_back(ToJson(item));
    return out;
  }
  nlohmann::json out = nlohmann::json::object();
  if (const auto* table = node.as_table()) {
    for (const auto& [key, value] : *table) out[std::string(key.str())] = ToJson(value);
  }
  return out;
}

}  // namespace weighbridge
