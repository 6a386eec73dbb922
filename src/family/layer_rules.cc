#include "family/layer_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "family/config.h"

namespace weighbridge {
namespace {

tl::unexpected<Error> BadRule(const LayerRule& rule, std::string what) {
  return Fail(ErrorKind::kInvalid, "layer-kinds", fmt::format("rule {}: {}", rule.rule, what));
}

std::string Argument(const LayerRule& rule, const std::string& name) {
  const auto it = rule.arguments.find(name);
  return it == rule.arguments.end() ? "" : it->second;
}

std::string EntryText(const nlohmann::json& entry) {
  return entry.is_string() ? entry.get<std::string>() : entry.dump();
}

// The entry that EntryText gave: numbers and truth values as such.
nlohmann::json EntryOf(const std::string& text) {
  const nlohmann::json value = nlohmann::json::parse(text, nullptr, false);
  return value.is_number_integer() || value.is_boolean() ? value : nlohmann::json(text);
}

Result<std::vector<std::string>> FirstK(const LayerRule& rule, int64_t layers,
                                        const NameLookup& lookup) {
  WB_TRY(const int64_t k, Evaluate(Argument(rule, "k"), lookup));
  std::vector<std::string> kinds;
  for (int64_t i = 0; i < layers; ++i) {
    kinds.push_back(Argument(rule, i < k ? "first" : "rest"));
  }
  return kinds;
}

Result<std::vector<std::string>> EveryN(const LayerRule& rule, int64_t layers,
                                        const nlohmann::json& config, const NameLookup& lookup) {
  WB_TRY(const int64_t n, Evaluate(Argument(rule, "n"), lookup));
  if (n < 1) return BadRule(rule, fmt::format("n is {}", n));
  int64_t phase = n - 1;
  if (rule.arguments.contains("phase")) {
    WB_TRY(phase, Evaluate(Argument(rule, "phase"), lookup));
  }
  int64_t from = 0, to = layers - 1;
  if (rule.arguments.contains("from")) {
    WB_TRY(from, Evaluate(Argument(rule, "from"), lookup));
  }
  // HF counts from the end: -1 is the last layer.
  const nlohmann::json* last = FindKey(config, Argument(rule, "to"));
  if (rule.arguments.contains("to") && last != nullptr) {
    if (!last->is_number_integer()) return BadRule(rule, "the last layer is not a number");
    if (const auto layer = last->get<int64_t>(); layer >= 0) to = layer;
  }
  std::vector<std::string> kinds;
  for (int64_t i = 0; i < layers; ++i) {
    kinds.push_back(Argument(rule, i % n == phase && i >= from && i <= to ? "hit" : "miss"));
  }
  const nlohmann::json* except = FindKey(config, Argument(rule, "except"));
  if (except != nullptr && except->is_array()) {
    for (const nlohmann::json& layer : *except) {
      if (!layer.is_number_integer()) return BadRule(rule, "the exceptions are not layer numbers");
      const auto i = layer.get<int64_t>();
      if (i >= 0 && i < layers) kinds[static_cast<size_t>(i)] = Argument(rule, "miss");
    }
  }
  return kinds;
}

Result<std::vector<std::string>> FromList(const LayerRule& rule, int64_t layers,
                                          const nlohmann::json& list, const NameLookup& lookup) {
  int64_t skip = 0, tail = 0;
  if (rule.arguments.contains("skip")) {
    WB_TRY(skip, Evaluate(Argument(rule, "skip"), lookup));
  }
  if (rule.arguments.contains("tail")) {
    WB_TRY(tail, Evaluate(Argument(rule, "tail"), lookup));
  }
  if (!list.is_array()) {
    return BadRule(rule,
                   fmt::format("'{}' is not a list of {} layers", Argument(rule, "key"), layers));
  }
  const auto size = static_cast<int64_t>(list.size());
  const int64_t rest = size - layers;  // entries of other layers
  if (skip < 0 || (rest != skip && (rest < skip || rest - skip != tail))) {
    return BadRule(rule,
                   fmt::format("'{}' has {} entries for {} layers{}", Argument(rule, "key"), size,
                               layers, skip > 0 ? fmt::format(" after the first {}", skip) : ""));
  }
  std::vector<std::string> kinds;
  for (int64_t i = 0; i < layers; ++i) {
    const nlohmann::json& whole = list[static_cast<size_t>(skip + i)];
    const nlohmann::json* entry = &whole;
    if (rule.arguments.contains("entry")) entry = FindKey(whole, Argument(rule, "entry"));
    const std::string text = entry == nullptr ? "null" : EntryText(*entry);
    const auto it = rule.map.find(text);
    if (it == rule.map.end())
      return BadRule(rule, fmt::format("unknown layer kind '{}'", text.substr(0, 80)));
    kinds.push_back(it->second);
  }
  return kinds;
}

Result<std::vector<std::string>> PatternString(const LayerRule& rule, int64_t layers,
                                               const nlohmann::json& pattern) {
  if (!pattern.is_string()) return BadRule(rule, "the pattern is not a string");
  const std::string separators = Argument(rule, "separators");
  std::vector<std::string> kinds;
  const auto& text = pattern.get_ref<const std::string&>();
  for (size_t i = 0; i < text.size(); ++i) {
    if (separators.find(text[i]) != std::string::npos) continue;
    const auto it = rule.map.find(text.substr(i, 1));
    if (it == rule.map.end()) {
      return BadRule(rule, fmt::format("unknown layer kind at character {} of '{}'", i + 1,
                                       text.substr(0, 200)));
    }
    kinds.push_back(it->second);
  }
  if (Argument(rule, "repeat") == "true" && !kinds.empty()) {
    const size_t period = kinds.size();
    for (size_t i = period; i < static_cast<size_t>(layers); ++i) {
      kinds.push_back(kinds[i - period]);
    }
  }
  if (static_cast<int64_t>(kinds.size()) != layers) {
    return BadRule(
        rule, fmt::format("the pattern names {} layers, the model has {}", kinds.size(), layers));
  }
  return kinds;
}

// Layer numbers as a list, or in one text with commas between them.
Result<std::vector<std::string>> Listed(const LayerRule& rule, int64_t layers,
                                        const nlohmann::json& value, const NameLookup& lookup) {
  int64_t base = 0;
  if (rule.arguments.contains("base")) {
    WB_TRY(base, Evaluate(Argument(rule, "base"), lookup));
  }
  const auto bad = [&] {
    return BadRule(rule, fmt::format("'{}' does not list layer numbers", Argument(rule, "key")));
  };
  std::string text = value.is_string() ? "[" + value.get<std::string>() + "]" : "";
  const nlohmann::json list =
      value.is_string() ? nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false) : value;
  if (!list.is_array()) return bad();
  std::vector<std::string> kinds(static_cast<size_t>(layers), Argument(rule, "miss"));
  for (const nlohmann::json& entry : list) {
    if (!entry.is_number_integer()) return bad();
    const auto number = entry.get<int64_t>();
    if (number < base || number - base >= layers) continue;
    kinds[static_cast<size_t>(number - base)] = Argument(rule, "hit");
  }
  return kinds;
}

// The one entry of the map that is of the kind, or with `other` the one that is not.
std::string EntryOf(const LayerRule& rule, const std::string& kind, bool other) {
  std::string found;
  for (const auto& [entry, of] : rule.map) {
    if ((of == kind) == other) continue;
    if (!found.empty()) return "";
    found = entry;
  }
  return found;
}

// "" where layers of two kinds need an entry that is not there.
std::vector<std::string> EntriesOf(const LayerRule& rule, const std::string& kind,
                                   const std::vector<bool>& is) {
  const std::string yes = EntryOf(rule, kind, false), no = EntryOf(rule, kind, true);
  std::vector<std::string> entries;
  for (const bool hit : is) {
    entries.push_back(hit ? yes : no);
    if (entries.back().empty()) return {};
  }
  return entries;
}

// A list of layers, or a pattern of them, has the entry.
bool Holds(const nlohmann::json& layers, const std::string& entry) {
  if (layers.is_string())
    return layers.get_ref<const std::string&>().find(entry) != std::string::npos;
  return std::find(layers.begin(), layers.end(), nlohmann::json(entry)) != layers.end();
}

using SetKey = std::function<void(const std::string&, nlohmann::json)>;
using SetDim = std::function<void(const std::string&, int64_t)>;

bool InvertFirstK(const LayerRule& rule, std::vector<bool> first, const SetDim& set_dim) {
  const auto end = std::find(first.begin(), first.end(), false);
  if (std::find(end, first.end(), true) != first.end()) return false;
  set_dim(Argument(rule, "k"), end - first.begin());
  return true;
}

bool InvertEveryN(const LayerRule& rule, const std::vector<bool>& hits, const SetKey& set_key,
                  const SetDim& set_dim) {
  const auto layers = static_cast<int64_t>(hits.size());
  const std::string except = Argument(rule, "except");
  if (!rule.arguments.contains("phase")) {
    for (int64_t n = 1; n <= layers; ++n) {
      bool equal = true;
      for (int64_t i = 0; i < layers && equal; ++i) {
        equal = hits[static_cast<size_t>(i)] == (i % n == n - 1);
      }
      if (!equal) continue;
      set_dim(Argument(rule, "n"), n);
      return true;
    }
  }
  if (except.empty()) return false;
  nlohmann::json exceptions = nlohmann::json::array();
  for (int64_t i = 0; i < layers; ++i) {
    if (!hits[static_cast<size_t>(i)]) exceptions.push_back(i);
  }
  set_dim(Argument(rule, "n"), 1);
  set_key(except, std::move(exceptions));
  return true;
}

}  // namespace

bool InvertLayerRule(const LayerRule& rule, const std::string& kind, const std::vector<bool>& is,
                     const SetKey& set_key, const SetDim& set_dim) {
  std::vector<bool> isnt = is;
  isnt.flip();
  if (rule.rule == "first_k") {
    return InvertFirstK(rule, Argument(rule, "first") == kind ? is : isnt, set_dim);
  }
  if (rule.rule == "every_n") {
    return InvertEveryN(rule, Argument(rule, "hit") == kind ? is : isnt, set_key, set_dim);
  }
  if (rule.rule == "listed" && !rule.arguments.contains("base")) {
    const std::vector<bool>& hits = Argument(rule, "hit") == kind ? is : isnt;
    nlohmann::json numbers = nlohmann::json::array();
    for (size_t i = 0; i < hits.size(); ++i) {
      if (hits[i]) numbers.push_back(i);
    }
    set_key(Argument(rule, "key"), std::move(numbers));
    return true;
  }
  if (rule.rule == "const" || rule.rule == "listed" || rule.arguments.contains("entry"))
    return false;
  const std::vector<std::string> entries = EntriesOf(rule, kind, is);
  if (entries.size() != is.size()) return false;
  if (rule.rule == "from_list") {
    nlohmann::json list = nlohmann::json::array();
    for (const std::string& entry : entries) list.push_back(EntryOf(entry));
    set_key(Argument(rule, "key"), std::move(list));
    return true;
  }
  std::string pattern;
  for (const std::string& entry : entries) pattern += entry;
  set_key(Argument(rule, "key"), pattern);
  return true;
}

bool InvertLayerKinds(const LayerRule& rule, const std::vector<std::string>& kinds,
                      const nlohmann::json& sample, const SetKey& set_key) {
  if (rule.rule != "from_list" && rule.rule != "pattern_string") return false;
  const std::string key = Argument(rule, "key");
  std::map<std::string, std::string> entries;  // kind -> entry
  for (const auto& [entry, kind] : rule.map) entries.emplace(kind, entry);
  const nlohmann::json* known = FindKey(sample, key);
  for (const auto& [entry, kind] : rule.map) {
    if (known != nullptr && Holds(*known, entry)) entries[kind] = entry;
  }
  nlohmann::json list = nlohmann::json::array();
  std::string pattern;
  for (const std::string& kind : kinds) {
    const auto it = entries.find(kind);
    if (it == entries.end()) return false;
    list.push_back(EntryOf(it->second));
    pattern += it->second;
  }
  set_key(key, rule.rule == "from_list" ? list : nlohmann::json(pattern));
  return true;
}

const std::vector<LayerRuleInfo>& AllLayerRules() {
  static const std::vector<LayerRuleInfo> kAll = {
      {"const", {"kind"}, {}},
      {"every_n", {"n", "hit", "miss"}, {"phase", "except", "from", "to"}},
      {"first_k", {"k", "first", "rest"}, {}},
      {"from_list", {"key"}, {"skip", "tail", "entry"}},
      {"listed", {"key", "hit", "miss"}, {"base"}},
      {"pattern_string", {"key"}, {"separators", "repeat"}},
  };
  return kAll;
}

Result<std::vector<std::string>> LayerKinds(const LayerRule& rule, int64_t layers,
                                            const nlohmann::json& config,
                                            const NameLookup& lookup) {
  if (rule.rule == "const") {
    return std::vector<std::string>(static_cast<size_t>(layers), Argument(rule, "kind"));
  }
  if (rule.rule == "first_k") return FirstK(rule, layers, lookup);
  if (rule.rule == "every_n") return EveryN(rule, layers, config, lookup);
  const std::string key = Argument(rule, "key");
  const nlohmann::json* value = FindKey(config, key);
  if (value == nullptr) {
    if (!rule.fallback.empty()) return LayerKinds(rule.fallback[0], layers, config, lookup);
    return BadRule(rule, fmt::format("the config has no '{}'", key));
  }
  // A scalar speaks for every layer, when the map knows it.
  if (rule.rule == "from_list" && !value->is_array()) {
    const auto it = rule.map.find(EntryText(*value));
    if (it != rule.map.end())
      return std::vector<std::string>(static_cast<size_t>(layers), it->second);
  }
  if (rule.rule == "from_list") return FromList(rule, layers, *value, lookup);
  if (rule.rule == "listed") return Listed(rule, layers, *value, lookup);
  return PatternString(rule, layers, *value);
}

std::vector<std::string> PossibleKinds(const LayerRule& rule) {
  std::vector<std::string> kinds;
  for (const char* name : {"kind", "first", "rest", "hit", "miss"}) {
    const auto it = rule.arguments.find(name);
    if (it != rule.arguments.end()) kinds.push_back(it->second);
  }
  for (const auto& [entry, kind] : rule.map) kinds.push_back(kind);
  for (const LayerRule& inner : rule.fallback) {
    for (std::string& kind : PossibleKinds(inner)) kinds.push_back(std::move(kind));
  }
  for (const auto& [stack, inner] : rule.stacks) {
    for (std::string& kind : PossibleKinds(inner)) kinds.push_back(std::move(kind));
  }
  return kinds;
}

}  // namespace weighbridge
