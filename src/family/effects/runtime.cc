#include "family/effects/runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/toml.h"
#include "family/embedded.h"
#include "family/toml_table.h"

namespace weighbridge {
namespace {

using nlohmann::json;

// "0.19.2" -> {0, 19, 2}; nullopt for what is no version.
std::optional<std::vector<int>> Version(std::string_view text) {
  std::vector<int> parts;
  while (true) {
    int part = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), part);
    if (error != std::errc() || part < 0) return std::nullopt;
    parts.push_back(part);
    text.remove_prefix(static_cast<size_t>(end - text.data()));
    if (text.empty()) return parts;
    if (text[0] != '.') return std::nullopt;
    text.remove_prefix(1);
  }
}

// A family file has no null: the word stands for it.
json NoneIsNull(json value) {
  if (value == "none") return nullptr;
  for (json& entry : value) {
    if (entry == "none") entry = nullptr;
  }
  return value;
}

std::map<std::string, json> Values(TomlTable& owner, std::string_view key) {
  std::map<std::string, json> out;
  const toml::table* table = owner.Table(key);
  if (table == nullptr) return out;
  for (const auto& [field, value] : *table) {
    out[std::string(field.str())] = NoneIsNull(ToJson(value));
  }
  return out;
}

Result<Behaviour> ReadBehaviour(const toml::table& table, const std::string& origin) {
  TomlTable t(table, origin);
  Behaviour b;
  b.id = t.String("id");
  b.why = t.String("why");
  b.classes = t.Strings("class");
  b.specs = t.Strings("spec");
  b.when = Values(t, "when");
  b.set = Values(t, "set");
  b.since = t.String("since");
  b.until = t.String("until");
  b.hidden = t.Bool("hidden", true);
  for (const std::string* version : {&b.since, &b.until}) {
    if (!version->empty() && !Version(*version)) {
      t.SetError(&table, fmt::format("'{}' is no version", *version));
    }
  }
  if (b.id.empty() || b.why.empty() || b.set.empty()) {
    t.SetError(&table, "a behaviour needs id, why and set");
  }
  WB_RETURN_IF_ERROR(t.Finish());
  return b;
}

bool Contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool Holds(const json& wanted, const json& found) {
  if (wanted == "given") return !found.is_null();
  if (wanted.is_array()) return std::find(wanted.begin(), wanted.end(), found) != wanted.end();
  return wanted == found;
}

Result<RuntimeTable> ReadBuiltIn() {
  RuntimeTable table;
  for (const EmbeddedFile& file : EmbeddedRuntimes()) {
    WB_RETURN_IF_ERROR(ReadRuntime(file.text, fmt::format("runtimes/{}.toml", file.name), table));
  }
  return table;
}

}  // namespace

bool CountsIn(const Behaviour& behaviour, std::string_view version) {
  const auto chosen = Version(version);
  if (!chosen) return behaviour.until.empty();
  const auto since = Version(behaviour.since), until = Version(behaviour.until);
  return (!since || *since <= *chosen) && (!until || *chosen < *until);
}

bool AppliesTo(const Behaviour& b, const RuntimeSubject& subject, const json& fields) {
  const bool named = (b.classes.empty() && b.specs.empty()) ||
                     Contains(b.classes, subject.provider) || Contains(b.specs, subject.spec);
  return named && std::all_of(b.when.begin(), b.when.end(), [&](const auto& condition) {
           const auto it = fields.find(condition.first);
           return Holds(condition.second, it == fields.end() ? json() : *it);
         });
}

Status ReadRuntime(std::string_view text, const std::string& origin, RuntimeTable& table) {
  const toml::parse_result parsed = toml::parse(text, origin);
  if (!parsed) {
    return Fail(ErrorKind::kInvalid, "runtime-file", std::string(parsed.error().description()),
                TomlTable::Where(origin, parsed.error().source()));
  }
  TomlTable top(parsed.table(), origin);
  if (top.Node("schema") == nullptr) top.SetError(nullptr, "a runtime file begins with schema = 1");
  const std::string name = top.String("runtime"), newest = top.String("newest");
  if (!newest.empty()) {
    table.name = name;
    table.newest = newest;
  }
  if (const toml::table* classes = top.Table("class")) {
    TomlTable t(*classes, origin);
    for (const std::string& key : t.Keys()) table.defaults[key] = Values(t, key);
    WB_RETURN_IF_ERROR(t.Finish());
  }
  for (const toml::table* entry : top.Tables("behaviour")) {
    WB_TRY(Behaviour behaviour, ReadBehaviour(*entry, origin));
    table.behaviours.push_back(std::move(behaviour));
  }
  return top.Finish();
}

Result<const RuntimeTable*> BuiltInRuntime() {
  static const Result<RuntimeTable> kTable = ReadBuiltIn();
  if (!kTable) return Fail(kTable.error());
  return &*kTable;
}

bool IsReadForEffects(const std::string& field) {
  const auto table = BuiltInRuntime();
  return table && std::any_of((*table)->defaults.begin(), (*table)->defaults.end(),
                              [&](const auto& reader) { return reader.second.contains(field); });
}

Result<RuntimeChoice> ParseRuntime(const std::string& text) {
  if (text.empty()) return RuntimeChoice();
  if (text == "none") return RuntimeChoice{false, ""};
  WB_TRY(const RuntimeTable* table, BuiltInRuntime());
  const size_t equals = text.find("==");
  const std::string name = text.substr(0, equals);
  const std::string version = equals == std::string::npos ? "" : text.substr(equals + 2);
  if (name != table->name || (equals != std::string::npos && !Version(version))) {
    return Fail(ErrorKind::kUsage, "usage", fmt::format("'{}' is no known runtime", text),
                "--runtime",
                fmt::format("none, or {}==VERSION, for example {}=={}", table->name, table->name,
                            table->newest));
  }
  return RuntimeChoice{true, version};
}

}  // namespace weighbridge
