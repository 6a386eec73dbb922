// A family file's text -> FamilySpec. Every key is checked; what a name may be (a transform, a
// rule, a function) is checked by lint.cc, which sees the whole family.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "family/config.h"
#include "family/library.h"
#include "family/prefix.h"
#include "family/toml_table.h"

namespace weighbridge {
namespace {

constexpr size_t kMaxFamilyBytes = 1u << 20;

Result<toml::table> ParseToml(std::string_view text, const std::string& origin) {
  if (text.size() > kMaxFamilyBytes) {
    return Fail(ErrorKind::kInvalid, "family-file", "the family file is larger than 1 MiB", origin);
  }
  toml::parse_result parsed = toml::parse(text, origin);
  if (!parsed) {
    const toml::parse_error& e = parsed.error();
    return Fail(ErrorKind::kInvalid, "family-file", std::string(e.description()),
                TomlTable::Where(origin, e.source()));
  }
  return std::move(parsed).table();
}

Result<Symbol> ReadSymbol(TomlTable& owner, const std::string& name) {
  const toml::node* node = owner.Node(name);
  Symbol symbol;
  if (const auto* text = node->as_string()) {
    symbol.keys = {text->get()};
    return symbol;
  }
  const toml::table* table = node->as_table();
  if (table == nullptr) {
    owner.SetError(node, fmt::format("'{}' must be a string or a table", name));
    return symbol;
  }
  TomlTable t(*table, owner.origin());
  symbol.keys = t.Strings("keys");
  symbol.count = t.String("count");
  if (t.Has("default")) symbol.expression = t.Expression("default");
  if (t.Has("value")) symbol.expression = t.Expression("value");
  if (t.Has("null")) symbol.null_expression = t.Expression("null");
  symbol.agree = t.Has("agrees");
  if (symbol.agree) symbol.expression = t.Expression("agrees");
  WB_RETURN_IF_ERROR(t.Finish());
  return symbol;
}

Status ReadSymbols(TomlTable& top, std::string_view key, std::map<std::string, Symbol>& out) {
  const toml::table* table = top.Table(key);
  if (table == nullptr) return {};
  TomlTable t(*table, top.origin());
  for (const std::string& name : t.Keys()) {
    WB_TRY(out[name], ReadSymbol(t, name));
  }
  return t.Finish();
}

Status ReadLayerDims(TomlTable& top, std::map<std::string, LayerDim>& out) {
  const toml::table* table = top.Table("layer_dims");
  if (table == nullptr) return {};
  TomlTable t(*table, top.origin());
  for (const std::string& name : t.Keys()) {
    const toml::table* of = t.Table(name);
    if (of == nullptr) break;
    TomlTable dim(*of, top.origin());
    out[name] = {
        dim.String("key"), dim.String("entry"), dim.String("fn"), dim.Expression("of"), {}};
    if (dim.Has("default")) out[name].expression = dim.Expression("default");
    WB_RETURN_IF_ERROR(dim.Finish());
  }
  return t.Finish();
}

Result<LayerRule> ReadLayerRule(const toml::table& table, const std::string& origin, int depth) {
  TomlTable t(table, origin);
  LayerRule rule;
  rule.rule = t.String("rule");
  rule.map = t.TextMap("map");
  if (const toml::table* fallback = t.Table("fallback")) {
    if (depth > 4) t.SetError(fallback, "fallbacks are nested too deeply");
    WB_TRY(LayerRule inner, ReadLayerRule(*fallback, origin, depth + 1));
    rule.fallback.push_back(std::move(inner));
  }
  if (const toml::table* stacks = t.Table("stacks")) {
    if (depth > 0) t.SetError(stacks, "'stacks' stands in the rule of the group");
    TomlTable inner(*stacks, origin);
    for (const std::string& stack : inner.Keys()) {
      const toml::table* own = inner.Table(stack);
      if (own == nullptr) break;
      WB_TRY(rule.stacks[stack], ReadLayerRule(*own, origin, depth + 1));
    }
    WB_RETURN_IF_ERROR(inner.Finish());
  }
  for (const std::string& key : t.Keys()) {
    const bool part = key == "rule" || key == "map" || key == "fallback" || key == "stacks";
    if (!part) rule.arguments[key] = t.Expression(key);
  }
  WB_RETURN_IF_ERROR(t.Finish());
  return rule;
}

Status ReadLayerKinds(TomlTable& top, FamilySpec& spec) {
  const toml::table* table = top.Table("layer_kinds");
  if (table == nullptr) return {};
  TomlTable t(*table, top.origin());
  for (const std::string& group : t.Keys()) {
    const toml::table* rule = t.Table(group);
    if (rule == nullptr) break;
    WB_TRY(spec.layer_kinds[group], ReadLayerRule(*rule, top.origin(), 0));
  }
  return t.Finish();
}

Result<ConfigRule> ReadConfigRule(const toml::node& node, TomlTable& owner,
                                  const std::string& field, int depth);

// A table of them, `key` of its owner.
Status ReadConfigRules(TomlTable& owner, std::string_view key, int depth,
                       std::map<std::string, ConfigRule>& out) {
  const toml::table* table = owner.Table(key);
  if (table == nullptr) return {};
  TomlTable t(*table, owner.origin());
  for (const std::string& field : t.Keys()) {
    WB_TRY(out[field], ReadConfigRule(*t.Node(field), t, field, depth));
  }
  return t.Finish();
}

Result<ConfigRule> ReadConfigRule(const toml::node& node, TomlTable& owner,
                                  const std::string& field, int depth) {
  ConfigRule rule;
  if (const auto* key = node.as_string()) {
    rule.hf = {key->get()};
    return rule;
  }
  const toml::table* table = node.as_table();
  if (table == nullptr || depth > 4) {
    owner.SetError(&node, fmt::format("'{}' must be a config key or a table", field));
    return rule;
  }
  TomlTable t(*table, owner.origin());
  rule.hf = t.Strings("hf");
  rule.function = t.String("fn");
  rule.arguments = t.Json("args");
  rule.constant = t.Json("const");
  rule.fallback = t.Json("default");
  rule.unsaid = t.Json("unsaid");
  rule.null_value = t.Json("null");
  rule.dim = t.Expression("dim");
  rule.flag = t.Expression("flag");
  rule.rope = t.String("rope");
  rule.layer_kind = t.String("layer_kind");
  rule.equals = t.String("equals");
  rule.when = t.Expression("when");
  rule.none_as = t.Json("none_as");
  if (const toml::node* list = t.Node("list")) {
    const toml::array* entries = list->as_array();
    if (entries == nullptr) {
      t.SetError(list, "'list' must be a list of entries");
    } else {
      for (const toml::node& entry : *entries) {
        WB_TRY(ConfigRule inner, ReadConfigRule(entry, t, field, depth + 1));
        rule.list.push_back(std::move(inner));
      }
    }
  }
  WB_RETURN_IF_ERROR(ReadConfigRules(t, "table", depth + 1, rule.table));
  const int sources = !rule.hf.empty() + !rule.constant.is_null() + !rule.dim.empty() +
                      !rule.flag.empty() + !rule.rope.empty() + !rule.layer_kind.empty() +
                      !rule.list.empty() + !rule.table.empty();
  if (sources != 1) t.SetError(table, fmt::format("'{}' needs exactly one source", field));
  if (!rule.unsaid.is_null() && rule.rope.find('.') == std::string::npos) {
    t.SetError(table, fmt::format("'{}': 'unsaid' goes with rope = \"KIND.FIELD\"", field));
  }
  WB_RETURN_IF_ERROR(t.Finish());
  return rule;
}

Status ReadLayerSpecs(TomlTable& bridge, std::map<std::string, nlohmann::json>& out) {
  const toml::table* table = bridge.Table("layer_spec");
  if (table == nullptr) return {};
  TomlTable t(*table, bridge.origin());
  for (const char* name : {"te", "local", "te_mixed", "local_mixed"}) {
    if (!t.Has(name)) continue;
    nlohmann::json spec = t.Json(name);
    const bool function = spec.is_object() && spec.contains("function");
    if (!spec.is_string() && !function) {
      t.SetError(t.Node(name), fmt::format("'{}' is a function, or a table with `function`", name));
    }
    out[name] = std::move(spec);
  }
  return t.Finish();
}

Status ReadFaults(TomlTable& bridge, std::map<std::string, nlohmann::json>& out) {
  const toml::table* table = bridge.Table("faults");
  if (table == nullptr) return {};
  TomlTable t(*table, bridge.origin());
  for (const std::string& field : t.Keys()) {
    nlohmann::json value = t.Json(field);
    out[field] = value == "none" ? nlohmann::json() : std::move(value);
  }
  return t.Finish();
}

Status ReadBridge(TomlTable& top, BridgeRule& rule) {
  const toml::table* table = top.Table("bridge");
  if (table == nullptr) return {};
  TomlTable t(*table, top.origin());
  if (t.Has("provider")) rule.provider = t.String("provider");
  WB_RETURN_IF_ERROR(ReadLayerSpecs(t, rule.layer_specs));
  WB_RETURN_IF_ERROR(ReadConfigRules(t, "fields", 0, rule.fields));
  WB_RETURN_IF_ERROR(ReadConfigRules(t, "local_fields", 0, rule.local_fields));
  WB_RETURN_IF_ERROR(ReadFaults(t, rule.faults));
  return t.Finish();
}

Status ReadHfConfig(TomlTable& top, std::map<std::string, HfConfigRule>& out) {
  const toml::table* table = top.Table("hf_config");
  if (table == nullptr) return {};
  TomlTable t(*table, top.origin());
  for (const std::string& key : t.Keys()) {
    HfConfigRule rule;
    if (const auto* field = t.Node(key)->as_string()) {
      rule.field = field->get();
    } else if (const toml::table* entry = t.Table(key)) {
      TomlTable e(*entry, top.origin());
      rule.field = e.String("field");
      rule.expression = e.Expression("value");
      rule.constant = e.Json("const");
      rule.rope = e.String("rope");
      if (!rule.field.empty() + !rule.expression.empty() + !rule.constant.is_null() != 1) {
        e.SetError(entry, fmt::format("'{}' needs exactly one of field, value, const", key));
      }
      WB_RETURN_IF_ERROR(e.Finish());
    }
    out[key] = std::move(rule);
  }
  return t.Finish();
}

Status ReadHfDefaults(TomlTable& top, nlohmann::json& out) {
  const toml::table* table = top.Table("hf_defaults");
  if (table == nullptr) return {};
  TomlTable t(*table, top.origin());
  for (const std::string& key : t.Keys()) out[key] = t.Json(key);
  return t.Finish();
}

Status ReadToy(TomlTable& top, FamilySpec& spec) {
  const toml::table* table = top.Table("toy");
  if (table == nullptr) return {};
  TomlTable t(*table, top.origin());
  nlohmann::json toy = nlohmann::json::object();
  for (const std::string& key : t.Keys()) toy[key] = t.Json(key);
  spec.toy.update(toy, /*merge_objects=*/true);
  return t.Finish();
}

// `hf`, `transform` of a [[param]] or [[param.alternative]].
Result<HfStorage> ReadStorage(TomlTable& t) {
  HfStorage storage;
  storage.names = t.Strings("hf");
  const toml::node* node = t.Node("transform");
  if (node == nullptr) return storage;
  if (const auto* name = node->as_string()) {
    storage.transform = name->get();
    return storage;
  }
  const toml::table* table = t.Table("transform");
  if (table == nullptr) return storage;
  TomlTable options(*table, t.origin());
  storage.transform = options.String("name");
  for (const std::string& key : options.Keys()) {
    if (key != "name") storage.options[key] = options.Expression(key);
  }
  WB_RETURN_IF_ERROR(options.Finish());
  return storage;
}

Result<ParamRule> ReadParam(const toml::table& table, const std::string& origin) {
  TomlTable t(table, origin);
  ParamRule rule;
  rule.line = t.line();
  rule.stacks = t.Strings("stack");
  rule.place = t.String("place");
  rule.layers = t.Strings("layers");
  rule.experts = t.Expression("experts");
  rule.megatron = t.String("megatron");
  rule.local = t.String("local");
  WB_TRY(HfStorage primary, ReadStorage(t));
  rule.storage.push_back(std::move(primary));
  for (const toml::table* alternative : t.Tables("alternative")) {
    TomlTable a(*alternative, origin);
    WB_TRY(HfStorage storage, ReadStorage(a));
    WB_RETURN_IF_ERROR(a.Finish());
    rule.storage.push_back(std::move(storage));
  }
  rule.shape = t.Expressions("shape");
  rule.scalar = t.Has("shape") && rule.shape.empty();
  if (t.Has("op")) rule.op = t.String("op");
  if (t.Has("tp")) rule.tp = t.String("tp");
  rule.components = t.Expressions("components");
  rule.parts = t.Strings("parts");
  rule.disk = t.Strings("disk");
  if (t.Has("extra_state")) rule.extra_state = t.Bool("extra_state", false);
  if (t.Has("dtype")) {
    rule.dtype = ParseShortName(t.String("dtype"));
    if (!rule.dtype) t.SetError(t.Node("dtype"), "unknown dtype");
  }
  rule.when = t.Expression("when");
  rule.unless = t.Expression("unless");
  rule.missing = t.String("missing");
  WB_RETURN_IF_ERROR(t.Finish());
  return rule;
}

Result<StackRule> ReadStack(const toml::table& table, const std::string& origin) {
  TomlTable t(table, origin);
  StackRule stack{t.String("name"),      t.String("megatron"), t.String("hf"),
                  t.Expression("count"), t.TextMap("kinds"),   t.String("params_of"),
                  t.String("missing"),   t.String("place"),    t.Bool("stacked", false)};
  WB_RETURN_IF_ERROR(t.Finish());
  return stack;
}

Result<CopyRule> ReadCopy(const toml::table& table, const std::string& origin) {
  TomlTable t(table, origin);
  CopyRule rule{t.Strings("stack"),   t.String("hf"),  t.String("same_as"),
                t.Expression("when"), t.String("why"), t.String("megatron")};
  WB_RETURN_IF_ERROR(t.Finish());
  return rule;
}

Result<UnsupportedRule> ReadUnsupported(const toml::table& table, const std::string& origin) {
  TomlTable t(table, origin);
  UnsupportedRule rule;
  rule.keys = t.Strings("keys");
  rule.others = t.Has("except");
  rule.layers = t.Strings("layers");
  rule.when = t.Expression("when");
  rule.why = t.String("why");
  const char* list = rule.others ? "except" : "values";
  rule.values = t.Has(list) ? t.Json(list) : nlohmann::json::array({true});
  if (!rule.values.is_array()) t.SetError(t.Node(list), fmt::format("'{}' must be a list", list));
  if (rule.keys.empty() || rule.why.empty()) {
    t.SetError(&table, "an [[unsupported]] needs 'keys' and 'why'");
  }
  WB_RETURN_IF_ERROR(t.Finish());
  return rule;
}

// Replaces the parent's rule for the same parameter, else adds.
void Override(FamilySpec& spec, ParamRule rule) {
  for (ParamRule& existing : spec.params) {
    if (existing.inherited && existing.megatron == rule.megatron &&
        existing.stacks == rule.stacks) {
      existing = std::move(rule);
      return;
    }
  }
  spec.params.push_back(std::move(rule));
}

Status ReadRemove(TomlTable& top, FamilySpec& spec) {
  const toml::table* table = top.Table("remove");
  if (table == nullptr) return {};
  TomlTable t(*table, top.origin());
  const auto drop = [&](auto& list, const std::string& name, auto name_of) {
    const size_t dropped = std::erase_if(list, [&](const auto& x) { return name_of(x) == name; });
    if (dropped == 0 && !spec.abstract) {  // an abstract file is also read alone
      t.SetError(nullptr, fmt::format("[remove] names '{}', which the parent does not have", name));
    }
  };
  for (const std::string& name : t.Strings("params")) {
    drop(spec.params, name, [](const ParamRule& p) { return p.megatron; });
  }
  for (const std::string& name : t.Strings("stacks")) {
    drop(spec.stacks, name, [](const StackRule& s) { return s.name; });
  }
  for (const std::string& name : t.Strings("ignores")) {
    drop(spec.ignores, name, [](const IgnoreRule& i) { return i.hf; });
  }
  for (const std::string& name : t.Strings("copies")) {
    drop(spec.copies, name, [](const CopyRule& c) { return c.hf; });
  }
  for (const std::string& name : t.Strings("config")) {
    if (spec.config.erase(name) == 0 && !spec.abstract) {
      t.SetError(nullptr, fmt::format("[remove] names '{}', which the parent does not have", name));
    }
  }
  return t.Finish();
}

// [rename]: beginnings of the parents' HF names, as they are called here.
void ReadRename(TomlTable& top, FamilySpec& spec) {
  const std::map<std::string, std::string> table = top.TextMap("rename");
  std::set<std::string> used;
  const auto rename = [&](std::string& name) {
    const auto* entry = LongestPrefix(table, name);
    if (entry == nullptr) return;
    used.insert(entry->first);
    name = entry->second + name.substr(entry->first.size());
  };
  for (ParamRule& rule : spec.params) {
    for (HfStorage& storage : rule.storage) {
      for (std::string& name : storage.names) rename(name);
    }
  }
  for (CopyRule& rule : spec.copies) rename(rule.hf), rename(rule.same_as);
  for (IgnoreRule& rule : spec.ignores) rename(rule.hf);
  if (spec.tied) rename(spec.tied->hf), rename(spec.tied->same_as);
  for (const auto& [from, to] : table) {
    if (spec.abstract || used.contains(from)) continue;
    top.SetError(nullptr, fmt::format("[rename]: no HF name of the parents begins '{}'", from));
  }
}

// [restrict]: beginnings of the parents' Megatron names, and the kind of the layers that have them.
void ReadRestrict(TomlTable& top, FamilySpec& spec) {
  const std::map<std::string, std::string> table = top.TextMap("restrict");
  std::set<std::string> used;
  const auto restrict = [&](const std::string& name, std::vector<std::string>& layers) {
    const auto* entry = LongestPrefix(table, name);
    if (entry == nullptr) return;
    used.insert(entry->first);
    layers.push_back(entry->second);
  };
  for (ParamRule& rule : spec.params) {
    if (!rule.stacks.empty()) restrict(rule.megatron, rule.layers);
  }
  for (MegatronIgnoreRule& rule : spec.megatron_ignores) restrict(rule.megatron, rule.layers);
  for (const auto& [from, kind] : table) {
    if (spec.abstract || used.contains(from)) continue;
    top.SetError(nullptr,
                 fmt::format("[restrict]: no Megatron name of the parents begins '{}'", from));
  }
}

// The parents' toy becomes the part of the toy that describes the text model.
void NestToy(const TextModelRule& rule, nlohmann::json& toy) {
  nlohmann::json text = std::move(toy);
  toy = nlohmann::json::object();
  for (const std::string& key : rule.outer) {
    if (text.contains(key)) toy[key] = text[key];
  }
  SetDottedKey(toy, rule.config[0], std::move(text));
}

// A second table holds the first one's.
void SetTextModel(const std::vector<std::string>& config, const std::vector<std::string>& outer,
                  TextModelRule& rule) {
  if (rule.config.empty()) {
    rule = {config, outer, {}};
    return;
  }
  std::vector<std::string> tables;
  for (const std::string& table : config) {
    for (const std::string& inner : rule.config) tables.push_back(table + "." + inner);
  }
  tables.insert(tables.end(), rule.config.begin(), rule.config.end());
  rule.config = std::move(tables);
  rule.within = config;
}

// [text_model]: what the parents describe is a part of this model.
Status ReadTextModel(TomlTable& top, FamilySpec& spec) {
  const toml::table* table = top.Table("text_model");
  if (table == nullptr) return {};
  TomlTable t(*table, top.origin());
  const std::string megatron = t.String("megatron");
  const std::map<std::string, std::string> hf = t.TextMap("hf");
  const auto spell = [&](std::string& name) { name = WithPrefix(hf, name); };
  for (StackRule& stack : spec.stacks) {
    stack.megatron = megatron + stack.megatron;
    spell(stack.hf);
  }
  for (ParamRule& rule : spec.params) {
    if (!rule.stacks.empty()) continue;
    rule.megatron = megatron + rule.megatron;
    if (!rule.local.empty()) rule.local = megatron + rule.local;
    for (std::string& name : rule.disk) name = megatron + name;
    for (HfStorage& storage : rule.storage) {
      for (std::string& name : storage.names) spell(name);
    }
  }
  for (CopyRule& rule : spec.copies) spell(rule.same_as);
  for (IgnoreRule& rule : spec.ignores) {
    if (rule.stacks.empty()) spell(rule.hf);
  }
  if (spec.tied) {
    spell(spec.tied->hf);
    spell(spec.tied->same_as);
    spec.tied->megatron = megatron + spec.tied->megatron;
  }
  const std::vector<std::string> config = t.Strings("config"), outer = t.Strings("outer");
  if (!config.empty()) {
    NestToy({config, outer, {}}, spec.toy);
    SetTextModel(config, outer, spec.text_model);
  }
  return t.Finish();
}

Status ReadLists(TomlTable& top, FamilySpec& spec) {
  for (const toml::table* table : top.Tables("stack")) {
    WB_TRY(StackRule stack, ReadStack(*table, top.origin()));
    std::erase_if(spec.stacks, [&](const StackRule& s) { return s.name == stack.name; });
    spec.stacks.push_back(std::move(stack));
  }
  for (ParamRule& rule : spec.params) rule.inherited = true;
  for (const toml::table* table : top.Tables("param")) {
    WB_TRY(ParamRule rule, ReadParam(*table, top.origin()));
    Override(spec, std::move(rule));
  }
  if (const toml::table* tied = top.Table("tied")) {
    WB_TRY(spec.tied, ReadCopy(*tied, top.origin()));
  }
  for (const toml::table* table : top.Tables("hf_copy")) {
    WB_TRY(CopyRule copy, ReadCopy(*table, top.origin()));
    spec.copies.push_back(std::move(copy));
  }
  for (const toml::table* table : top.Tables("spelling")) {
    TomlTable t(*table, top.origin());
    spec.spellings.push_back(t.TextMap("hf"));
    WB_RETURN_IF_ERROR(t.Finish());
  }
  for (const toml::table* table : top.Tables("hf_ignore")) {
    TomlTable t(*table, top.origin());
    spec.ignores.push_back({t.Strings("stack"), t.String("hf"), t.String("why")});
    WB_RETURN_IF_ERROR(t.Finish());
  }
  for (const toml::table* table : top.Tables("megatron_ignore")) {
    TomlTable t(*table, top.origin());
    spec.megatron_ignores.push_back(
        {t.Strings("stack"), t.Strings("layers"), t.String("megatron"), t.String("local"),
         t.Expressions("shape"), t.Expression("when"), t.Expression("unless"), t.String("why")});
    WB_RETURN_IF_ERROR(t.Finish());
  }
  for (const toml::table* table : top.Tables("unsupported")) {
    WB_TRY(UnsupportedRule rule, ReadUnsupported(*table, top.origin()));
    spec.unsupported.push_back(std::move(rule));
  }
  return {};
}

}  // namespace

Result<FamilySpec> ParseFamily(std::string_view text, const std::string& origin,
                               const ParentReader& parents, FamilySpec base) {
  WB_TRY(const toml::table table, ParseToml(text, origin));
  TomlTable top(table, origin);
  FamilySpec spec = std::move(base);
  const std::vector<std::string> extends = top.Strings("extends");
  if (!extends.empty()) {
    WB_TRY(spec, parents(extends));
  }
  spec.extends = extends;
  spec.origin = origin;
  const toml::node* schema = top.Node("schema");
  if (schema == nullptr || schema->value_or<int64_t>(0) != 1) {
    top.SetError(schema, "a family file begins with schema = 1");
  }
  spec.name = top.String("family");
  spec.kind = top.String("kind");
  spec.variant_of = top.String("variant_of");
  spec.mapping = top.Has("mapping") ? top.String("mapping") : "bridge";
  if (spec.mapping != "bridge" && spec.mapping != "own") {
    top.SetError(top.Node("mapping"), "'mapping' is \"bridge\" or \"own\"");
  }
  spec.abstract = top.Bool("abstract", false);
  spec.hf_architectures = top.Strings("hf_architectures");
  spec.hf_model_types = top.Strings("hf_model_types");
  spec.quantization = top.Strings("quantization");
  if (top.Has("numbered_layers")) spec.numbered_layers = top.Bool("numbered_layers", false);
  if (top.Has("megatron_model")) spec.megatron_model = top.String("megatron_model");
  WB_RETURN_IF_ERROR(ReadRemove(top, spec));
  ReadRename(top, spec);
  ReadRestrict(top, spec);
  WB_RETURN_IF_ERROR(ReadTextModel(top, spec));
  WB_RETURN_IF_ERROR(ReadSymbols(top, "dims", spec.dims));
  WB_RETURN_IF_ERROR(ReadSymbols(top, "flags", spec.flags));
  WB_RETURN_IF_ERROR(ReadLayerDims(top, spec.layer_dims));
  WB_RETURN_IF_ERROR(ReadLayerKinds(top, spec));
  WB_RETURN_IF_ERROR(ReadConfigRules(top, "config", 0, spec.config));
  WB_RETURN_IF_ERROR(ReadConfigRules(top, "effects", 0, spec.effects));
  WB_RETURN_IF_ERROR(ReadBridge(top, spec.bridge));
  WB_RETURN_IF_ERROR(ReadHfConfig(top, spec.hf_config));
  WB_RETURN_IF_ERROR(ReadHfDefaults(top, spec.hf_defaults));
  WB_RETURN_IF_ERROR(ReadToy(top, spec));
  WB_RETURN_IF_ERROR(ReadLists(top, spec));
  if (spec.name.empty()) top.SetError(nullptr, "'family' is missing");
  WB_RETURN_IF_ERROR(top.Finish());
  return spec;
}

}  // namespace weighbridge
