#include "checks/bridge_dump.h"

#include <fmt/format.h>

#include <algorithm>

namespace weighbridge {
namespace {

using nlohmann::json;

constexpr size_t kMaxWildcards = 8;  // more would make matching slow, and no registry has them

tl::unexpected<Error> Wrong(const std::string& where, const std::string& what) {
  return Fail(ErrorKind::kInvalid, "bridge-dump", what, where,
              "the file has to be one that weighbridge.inspect_bridge wrote");
}

Result<std::string> TextOf(const json& table, const char* key, const std::string& where) {
  if (!table.contains(key) || !table[key].is_string()) {
    return Wrong(where, fmt::format("'{}' is to be a text", key));
  }
  return table[key].get<std::string>();
}

bool TooManyWildcards(const std::string& pattern) {
  return std::count(pattern.begin(), pattern.end(), '*') > static_cast<int>(kMaxWildcards);
}

Result<RuleSources> ParseSources(const json& hf, const std::string& where) {
  RuleSources out;
  if (hf.is_string()) {
    out.emplace_back("", hf.get<std::string>());
  } else if (hf.is_object()) {
    for (const auto& [role, pattern] : hf.items()) {
      if (!pattern.is_string()) return Wrong(where, "HF names are to be texts");
      out.emplace_back(role, pattern.get<std::string>());
    }
  }
  if (out.empty()) return Wrong(where, "a rule is to have HF names");
  for (const auto& [role, pattern] : out) {
    if (TooManyWildcards(pattern)) return Wrong(where, "too many wildcards in " + pattern);
  }
  return out;
}

Result<RegistryRule> ParseRule(const json& entry, size_t number) {
  const std::string where = fmt::format("mappings[{}]", number);
  if (!entry.is_object()) return Wrong(where, "a rule is to be a table");
  RegistryRule rule;
  rule.number = number;
  WB_TRY(rule.megatron, TextOf(entry, "megatron", where));
  if (TooManyWildcards(rule.megatron)) return Wrong(where, "too many wildcards");
  WB_TRY(rule.hf, ParseSources(entry.value("hf", json()), where));
  WB_TRY(rule.mapping_class, TextOf(entry, "class", where));
  WB_TRY(rule.importer, TextOf(entry, "importer", where));
  WB_TRY(rule.exporter, TextOf(entry, "exporter", where));
  const json permuted = entry.contains("args") && entry["args"].is_object()
                            ? entry["args"].value("permute_dims", json())
                            : json();
  rule.transposes = permuted == json::array({1, 0});
  if (!permuted.is_null() && !rule.transposes) {
    return Wrong(where, "permute_dims other than (1, 0) are not known");
  }
  const json resolved = entry.value("resolved", json::object());
  if (!resolved.is_object()) return Wrong(where, "what a rule resolves to is to be a table");
  for (const auto& [name, hf] : resolved.items()) {
    WB_TRY(rule.resolved[name], ParseSources(hf, where));
  }
  return rule;
}

Result<std::vector<DumpedTensor>> ParseInventory(const json& rows, const std::string& where) {
  if (!rows.is_array()) return Wrong(where, "an inventory is to be a list");
  std::vector<DumpedTensor> out;
  for (const json& row : rows) {
    if (!row.is_array() || row.size() < 2 || !row[0].is_string() || !row[1].is_array() ||
        !std::all_of(row[1].begin(), row[1].end(),
                     [](const json& n) { return n.is_number_unsigned(); })) {
      return Wrong(where, "a tensor is to be [name, shape]");
    }
    out.push_back({row[0].get<std::string>(), row[1].get<Shape>()});
  }
  return out;
}

// Both at the beginning of what is left.
bool Match(std::string_view pattern, std::string_view name, std::vector<std::string>& captures) {
  const size_t star = pattern.find('*');
  if (star == std::string_view::npos) return pattern == name;
  if (!name.starts_with(pattern.substr(0, star))) return false;
  name.remove_prefix(star);
  pattern.remove_prefix(star);
  const bool any = pattern.starts_with("**");
  const size_t longest =
      any ? name.size() : std::min(name.find_first_not_of("0123456789"), name.size());
  for (size_t length = longest + 1; length-- > (any ? 0 : 1);) {
    captures.emplace_back(name.substr(0, length));
    if (Match(pattern.substr(any ? 2 : 1), name.substr(length), captures)) return true;
    captures.pop_back();
  }
  return false;
}

}  // namespace

std::string RegistryRule::Text() const {
  return fmt::format("rule {} ({} {})", number, mapping_class, megatron);
}

Result<BridgeDump> ParseBridgeDump(const json& document) {
  if (!document.is_object() || document.value("schema", json()) != kBridgeDumpSchema) {
    return Wrong("schema", fmt::format("this is no document of {}", kBridgeDumpSchema));
  }
  BridgeDump dump;
  WB_TRY(dump.bridge, TextOf(document, "bridge", "the document"));
  const json rules = document.value("mappings", json());
  if (!rules.is_array()) return Wrong("mappings", "the rules are to be a list");
  for (size_t i = 0; i < rules.size(); ++i) {
    WB_TRY(RegistryRule rule, ParseRule(rules[i], i));
    dump.rules.push_back(std::move(rule));
  }
  dump.config = document.value("config", json());
  if (!dump.config.is_object()) return Wrong("config", "the config is to be a table");
  dump.provider = document.value("provider", json());
  if (!dump.provider.is_object() && !dump.provider.is_null()) {
    return Wrong("provider", "the provider is to be a table of fields");
  }
  if (document.contains("hf")) {
    WB_TRY(dump.hf, ParseInventory(document["hf"], "hf"));
  }
  if (document.contains("megatron")) {
    WB_TRY(dump.megatron, ParseInventory(document["megatron"], "megatron"));
  }
  for (const json& note : document.value("notes", json::array())) {
    if (note.is_string()) dump.notes.push_back(note.get<std::string>());
  }
  return dump;
}

std::optional<std::vector<std::string>> MatchRule(std::string_view pattern, std::string_view name) {
  std::vector<std::string> captures;
  if (!Match(pattern, name, captures)) return std::nullopt;
  return captures;
}

std::string FillRule(std::string pattern, const std::vector<std::string>& captures) {
  size_t next = 0;
  for (const std::string_view wildcard : {"**", "*"}) {
    size_t at = pattern.find(wildcard);
    while (at != std::string::npos && next < captures.size()) {
      pattern.replace(at, wildcard.size(), captures[next++]);
      at = pattern.find(wildcard);
    }
  }
  return pattern;
}

std::optional<RuleSources> SourcesOf(const RegistryRule& rule, const std::string& name) {
  const auto captures = MatchRule(rule.megatron, name);
  if (!captures) return std::nullopt;
  if (const auto own = rule.resolved.find(name); own != rule.resolved.end()) return own->second;
  RuleSources out = rule.hf;
  for (auto& [role, pattern] : out) pattern = FillRule(std::move(pattern), *captures);
  return out;
}

const RegistryRule* FirstRule(const BridgeDump& dump, const std::string& name, size_t begin) {
  for (size_t i = begin; i < dump.rules.size(); ++i) {
    if (MatchRule(dump.rules[i].megatron, name)) return &dump.rules[i];
  }
  return nullptr;
}

}  // namespace weighbridge
