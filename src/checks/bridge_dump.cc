#include "checks/bridge_dump.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/checked.h"
#include "base/strings.h"

namespace weighbridge {
namespace {

using nlohmann::json;

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
  return out;
}

Result<std::vector<std::string>> ParseTexts(const json& list, const std::string& where) {
  if (!list.is_array() ||
      !std::all_of(list.begin(), list.end(), [](const json& text) { return text.is_string(); })) {
    return Wrong(where, "a list of texts was expected");
  }
  return list.get<std::vector<std::string>>();
}

Result<std::map<std::string, std::string>> ParseTextTable(const json& table,
                                                          const std::string& where) {
  if (!table.is_object() ||
      !std::all_of(table.begin(), table.end(), [](const json& text) { return text.is_string(); })) {
    return Wrong(where, "a table of texts was expected");
  }
  return table.get<std::map<std::string, std::string>>();
}

Status ParseArgs(const json& args, const std::string& where, RegistryRule& rule) {
  if (!args.is_object()) return Wrong(where, "the arguments of a rule are to be a table");
  const json permuted = args.value("permute_dims", json::array());
  if (!permuted.is_array() || !std::all_of(permuted.begin(), permuted.end(), [](const json& axis) {
        return axis.is_number_integer() && axis <= 64 && axis >= -64;
      })) {
    return Wrong(where, "permute_dims are to be numbers of axes");
  }
  rule.permute_dims = permuted.get<std::vector<int64_t>>();
  rule.gathers_on_export = args.value("is_grouped_export", json(false)) == true;
  rule.transposes_on_export = args.value("transpose_on_export", json(false)) == true;
  return {};
}

// Texts of a dump need not be UTF-8.
std::string Text(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

// Keys that dumps of before have not.
Status ParseHeld(const json& entry, const std::string& where, RegistryRule& rule) {
  WB_TRY(rule.held, ParseTextTable(entry.value("held", json::object()), where));
  WB_TRY(rule.cuts, ParseTexts(entry.value("cuts", json::array()), where));
  const json resolved_args = entry.value("resolved_args", json());
  if (!resolved_args.is_null() && !resolved_args.is_object()) {
    return Wrong(where, "the arguments that a rule resolves to are to be a table");
  }
  if (resolved_args.is_object()) rule.resolved_args = Text(resolved_args);
  WB_TRY(const auto trial, ParseTextTable(entry.value("trial", json::object()), where));
  for (const auto& [key, text] : trial) {
    if (key == "like") rule.trial.like = text;
    if (key == "changed") rule.trial.changed = text;
    if (key == "untried") rule.trial.untried = text;
  }
  return {};
}

Result<RegistryRule> ParseRule(const json& entry, size_t number) {
  const std::string where = fmt::format("mappings[{}]", number);
  if (!entry.is_object()) return Wrong(where, "a rule is to be a table");
  RegistryRule rule;
  rule.number = number;
  WB_TRY(rule.mapping_class, TextOf(entry, "class", where));
  WB_TRY(rule.classes, ParseTexts(entry.value("classes", json()), where));
  WB_TRY(rule.own, ParseTextTable(entry.value("own", json::object()), where));
  WB_RETURN_IF_ERROR(ParseHeld(entry, where, rule));
  if (entry.contains("raised")) {
    WB_TRY(rule.raised, TextOf(entry, "raised", where));
  }
  // What raised may have raised before its names were known.
  if (rule.raised.empty() || entry.contains("megatron")) {
    WB_TRY(rule.megatron, TextOf(entry, "megatron", where));
  }
  if (rule.raised.empty() || entry.contains("hf")) {
    WB_TRY(rule.hf, ParseSources(entry.value("hf", json()), where));
  }
  WB_RETURN_IF_ERROR(ParseArgs(entry.value("args", json::object()), where, rule));
  const json resolved = entry.value("resolved", json::object());
  if (!resolved.is_object()) return Wrong(where, "what a rule resolves to is to be a table");
  for (const auto& [name, hf] : resolved.items()) {
    WB_TRY(rule.resolved[name], ParseSources(hf, where));
  }
  return rule;
}

Result<std::map<size_t, std::string>> ParseByRule(const json& table, const std::string& where) {
  WB_TRY(const auto texts, ParseTextTable(table, where));
  std::map<size_t, std::string> out;
  for (const auto& [number, text] : texts) {
    if (number.empty() || number.size() > 9 ||
        number.find_first_not_of("0123456789") != std::string::npos) {
      return Wrong(where, fmt::format("'{}' is no number of a rule", number));
    }
    out.emplace(std::stoul(number), text);
  }
  return out;
}

Result<BridgeHook> ParseHook(const json& entry, size_t number) {
  const std::string where = fmt::format("hooks[{}]", number);
  if (!entry.is_object()) return Wrong(where, "a hook is to be a table");
  BridgeHook hook;
  WB_TRY(hook.method, TextOf(entry, "method", where));
  WB_TRY(hook.code, TextOf(entry, "code", where));
  WB_TRY(hook.changed, ParseByRule(entry.value("changed", json::object()), where));
  WB_TRY(hook.untried, ParseByRule(entry.value("untried", json::object()), where));
  return hook;
}

// Sums of a few thousand extents stay within 64 bits.
constexpr uint64_t kMostExtent = uint64_t{1} << 48;

Result<std::vector<DumpedTensor>> ParseInventory(const json& rows, const std::string& where) {
  if (!rows.is_array()) return Wrong(where, "an inventory is to be a list");
  std::vector<DumpedTensor> out;
  for (const json& row : rows) {
    if (!row.is_array() || row.size() < 2 || !row[0].is_string() || !row[1].is_array() ||
        !std::all_of(row[1].begin(), row[1].end(),
                     [](const json& n) { return n.is_number_unsigned(); })) {
      return Wrong(where, "a tensor is to be [name, shape]");
    }
    for (const json& extent : row[1]) {
      if (extent.get<uint64_t>() > kMostExtent) return Wrong(where, "an extent beyond 2^48");
    }
    out.push_back({row[0].get<std::string>(), row[1].get<Shape>()});
    if (!CheckedNumel(out.back().shape)) return Wrong(where, "more elements than there can be");
  }
  return out;
}

// The pattern in pieces: a letter that stands for itself, a run of digits, any text.
struct Piece {
  enum Kind { kLetter, kDigits, kAny } kind;
  char letter;
};

std::vector<Piece> PiecesOf(std::string_view pattern) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '*') {
      pieces.push_back({Piece::kLetter, pattern[i]});
    } else if (i + 1 < pattern.size() && pattern[i + 1] == '*') {
      pieces.push_back({Piece::kAny, '*'});
      ++i;
    } else {
      pieces.push_back({Piece::kDigits, '*'});
    }
  }
  return pieces;
}

// For each piece and each place in `name`: whether what is left of the pattern, from that piece on,
// matches what is left of the name. Filled from the back, each field from its neighbours.
class MatchTable {
 public:
  MatchTable(const std::vector<Piece>& pieces, std::string_view name)
      : width_(name.size() + 1), fits_((pieces.size() + 1) * width_) {
    fits_[pieces.size() * width_ + name.size()] = true;
    for (size_t p = pieces.size(); p-- > 0;) {
      for (size_t n = name.size() + 1; n-- > 0;)
        fits_[p * width_ + n] = Fits(pieces[p], p, n, name);
    }
  }
  bool at(size_t piece, size_t place) const { return fits_[piece * width_ + place]; }

 private:
  bool Fits(const Piece& piece, size_t p, size_t n, std::string_view name) const {
    const bool more = n < name.size();
    switch (piece.kind) {
      case Piece::kLetter:
        return more && name[n] == piece.letter && at(p + 1, n + 1);
      case Piece::kDigits:
        return more && IsDigit(name[n]) && (at(p + 1, n + 1) || at(p, n + 1));
      case Piece::kAny:
        return at(p + 1, n) || (more && at(p, n + 1));
    }
    return false;
  }

  size_t width_;
  std::vector<bool> fits_;
};

// The end of what the wildcard `p` takes from `begin` on: as much as the rest allows.
size_t LongestEnd(const MatchTable& table, const Piece& piece, size_t p, size_t begin,
                  std::string_view name) {
  size_t limit = name.size();
  if (piece.kind == Piece::kDigits) {
    limit = begin;
    while (limit < name.size() && IsDigit(name[limit])) ++limit;
  }
  while (!table.at(p + 1, limit)) --limit;  // ends at the latest where the table says that it fits
  return limit;
}

// Whether every wildcard is a run of digits that ends where the digits do: nothing to choose.
bool IsPlain(const std::vector<Piece>& pieces) {
  for (size_t p = 0; p < pieces.size(); ++p) {
    if (pieces[p].kind == Piece::kAny) return false;
    const bool last = p + 1 == pieces.size();
    if (pieces[p].kind == Piece::kDigits && !last &&
        (pieces[p + 1].kind != Piece::kLetter || IsDigit(pieces[p + 1].letter))) {
      return false;
    }
  }
  return true;
}

std::optional<std::vector<std::string>> MatchPlain(const std::vector<Piece>& pieces,
                                                   std::string_view name) {
  std::vector<std::string> captures;
  size_t place = 0;
  for (const Piece& piece : pieces) {
    size_t end = place;
    if (piece.kind == Piece::kLetter) {
      if (place == name.size() || name[place] != piece.letter) return std::nullopt;
      ++end;
    } else {
      while (end < name.size() && IsDigit(name[end])) ++end;
      if (end == place) return std::nullopt;
      captures.emplace_back(name.substr(place, end - place));
    }
    place = end;
  }
  if (place != name.size()) return std::nullopt;
  return captures;
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
  WB_TRY(dump.left_out, ParseTextTable(document.value("left_out", json::object()), "left_out"));
  const json hooks = document.value("hooks", json::array());
  if (!hooks.is_array()) return Wrong("hooks", "the hooks are to be a list");
  for (size_t i = 0; i < hooks.size(); ++i) {
    WB_TRY(BridgeHook hook, ParseHook(hooks[i], i));
    dump.hooks.push_back(std::move(hook));
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

// No parameter's name is as long; the table of a match has as many fields as both have letters.
constexpr size_t kMostLetters = 4096;

std::optional<std::vector<std::string>> MatchRule(std::string_view pattern, std::string_view name) {
  // Most rules differ from most names in what comes before the first wildcard.
  const size_t star = pattern.find('*');
  if (star == std::string_view::npos) {
    return pattern == name ? std::optional(std::vector<std::string>()) : std::nullopt;
  }
  if (!name.starts_with(pattern.substr(0, star))) return std::nullopt;
  if (pattern.size() > kMostLetters || name.size() > kMostLetters) return std::nullopt;
  const std::vector<Piece> pieces = PiecesOf(pattern.substr(star));
  name.remove_prefix(star);
  if (IsPlain(pieces)) return MatchPlain(pieces, name);
  const MatchTable table(pieces, name);
  if (!table.at(0, 0)) return std::nullopt;
  std::vector<std::string> captures;
  size_t place = 0;
  for (size_t p = 0; p < pieces.size(); ++p) {
    const size_t end =
        pieces[p].kind == Piece::kLetter ? place + 1 : LongestEnd(table, pieces[p], p, place, name);
    if (pieces[p].kind != Piece::kLetter) captures.emplace_back(name.substr(place, end - place));
    place = end;
  }
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
