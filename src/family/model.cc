#include "family/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "family/config.h"
#include "family/expression.h"
#include "family/layer_rules.h"
#include "family/prefix.h"

namespace weighbridge {
namespace {

constexpr int64_t kMaxLayers = 100000;
constexpr int64_t kMaxExperts = 1000000;
constexpr int64_t kMaxParameters = 1000000;
constexpr int64_t kMaxPaddedVocab = int64_t{1} << 24;
constexpr int64_t kMaxExtent = int64_t{1} << 40;
// Elements of a tensor that holds all experts: its bytes fit into an int64.
constexpr int64_t kMaxElements = int64_t{1} << 59;

// A dim that cannot be: which kind of fault it is.
const char* FaultOf(std::string_view dim) {
  const bool heads = dim == "heads" || dim == "groups" || dim == "head_dim";
  return heads ? "head-geometry" : "config-value";
}

// "model.layers.{layer}.norm" -> "model.layers.*.norm".
std::string WithoutBraces(std::string name) {
  for (size_t open; (open = name.find('{')) != std::string::npos;) {
    name.replace(open, name.find('}', open) - open + 1, "*");
  }
  return name;
}

bool IsFault(const Error& error) {
  return error.id == "config-value" || error.id == "head-geometry";
}

Result<int64_t> ToInteger(const nlohmann::json& value, const std::string& key) {
  if (value.is_boolean()) return value.get<bool>() ? 1 : 0;
  if (value.is_number_integer()) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() <= INT64_MAX)
      return value.get<int64_t>();
  }
  return Fail(
      ErrorKind::kInvalid, "config-value",
      fmt::format("'{}' is {}, an integer or truth value is expected", key, Describe(value)),
      "config.json");
}

}  // namespace

// Fills a Model. Symbols are resolved on demand, so that one without a value in this config is an
// error only for what uses it.
class Model::Builder {
 public:
  Builder(Model& model, const nlohmann::json& config, const ExpandOptions& options)
      : m_(model), config_(config), options_(options) {}

  Status Run() {
    if (const nlohmann::json* table = FindKey(config_, "quantization_config")) {
      const nlohmann::json* method = FindKey(config_, "quantization_config.quant_method");
      m_.quantization_ =
          method != nullptr && method->is_string() && !method->get<std::string>().empty()
              ? method->get<std::string>()
              : "unnamed";
      if (table->is_null()) m_.quantization_.clear();
    }
    WB_RETURN_IF_ERROR(ResolveSymbols());
    WB_TRY(m_.vocab_, Symbol("vocab", 0));
    if (m_.vocab_ > kMaxExtent) {
      return Fail(ErrorKind::kInvalid, "config-value",
                  fmt::format("a vocabulary of {} rows", m_.vocab_), "config.json");
    }
    WB_RETURN_IF_ERROR(CheckPadVocab());
    m_.padded_vocab_ = std::max(PaddedVocab(m_.vocab_, options_.tp), options_.pad_vocab);
    m_.dims_["padded_vocab"] = m_.padded_vocab_;
    WB_RETURN_IF_ERROR(Count());
    WB_RETURN_IF_ERROR(LayerDims());
    WB_RETURN_IF_ERROR(Kinds());
    WB_RETURN_IF_ERROR(Unsupported());
    WB_RETURN_IF_ERROR(ChooseSpelling());
    WB_RETURN_IF_ERROR(Parameters());
    WB_RETURN_IF_ERROR(Copies());
    WB_RETURN_IF_ERROR(Ignores());
    return Config();
  }

 private:
  const FamilySpec& spec() const { return *m_.spec_; }

  // Padding is written and read like any other row: a slip of the finger must not cost days.
  Status CheckPadVocab() const {
    const int64_t asked = options_.pad_vocab;
    if (asked <= 0) return {};
    const int64_t most = std::max(kMaxPaddedVocab, 2 * m_.vocab_);
    if (asked >= m_.vocab_ && asked <= most) return {};
    return Fail(
        ErrorKind::kUsage, "usage",
        asked < m_.vocab_
            ? fmt::format("the vocabulary has {} rows, it cannot be padded to {}", m_.vocab_, asked)
            : fmt::format("a vocabulary of {} rows is padded to {} at most, not to {}", m_.vocab_,
                          most, asked),
        "--pad-vocab");
  }

  Result<int64_t> Symbol(std::string_view name, int depth) {
    const std::string key(name);
    if (const auto known = m_.dims_.find(key); known != m_.dims_.end()) return known->second;
    const auto dim = spec().dims.find(key);
    const auto flag = spec().flags.find(key);
    if (dim == spec().dims.end() && flag == spec().flags.end()) {
      return Fail(ErrorKind::kInvalid, "family-file", fmt::format("'{}' is no dim or flag", name),
                  spec().origin);
    }
    const auto& symbol = dim != spec().dims.end() ? dim->second : flag->second;
    if (depth > 32) {
      return Fail(ErrorKind::kInvalid, "family-file",
                  fmt::format("'{}' is defined by itself", name), spec().origin);
    }
    WB_TRY(const int64_t value, SymbolValue(key, symbol, depth));
    // No heads are no model; other dims may be absent as 0.
    const bool heads = std::string_view(FaultOf(name)) == "head-geometry";
    if (dim != spec().dims.end() && (value < 0 || (heads && value == 0))) {
      return Fail(ErrorKind::kInvalid, FaultOf(name),
                  fmt::format("'{}' is {}: {}", name, value < 0 ? "negative" : "zero", value),
                  "config.json");
    }
    m_.dims_[key] = value;
    return value;
  }

  Result<int64_t> SymbolValue(const std::string& name, const weighbridge::Symbol& symbol,
                              int depth) {
    if (symbol.agree) return AgreedValue(name, symbol, depth);
    for (const std::string& key : symbol.keys) {
      if (const nlohmann::json* value = FindKey(config_, key)) {
        Result<int64_t> integer = ToInteger(*value, key);
        if (integer) return integer;
        Error error = integer.error();
        error.id = FaultOf(name);
        return Fail(std::move(error));
      }
    }
    if (const nlohmann::json* list = FindKey(config_, symbol.count);
        !symbol.count.empty() && list != nullptr) {
      if (list->is_structured()) return static_cast<int64_t>(list->size());
      if (list->is_string())
        return static_cast<int64_t>(list->get_ref<const std::string&>().size());
    }
    if (symbol.null_expression && HasNullKey(config_, symbol.keys)) {
      return Evaluate(*symbol.null_expression,
                      [&](std::string_view n) { return Symbol(n, depth + 1); });
    }
    if (symbol.expression) return ExpressionValue(name, symbol, depth);
    return Fail(ErrorKind::kInvalid, "config-key-missing",
                fmt::format("the config lacks '{}' (dim '{}' of family {})",
                            symbol.keys.empty() ? name : symbol.keys[0], name, spec().name),
                "config.json");
  }

  Result<int64_t> ExpressionValue(const std::string& name, const weighbridge::Symbol& symbol,
                                  int depth) {
    Result<int64_t> value =
        Evaluate(*symbol.expression, [&](std::string_view n) { return Symbol(n, depth + 1); });
    // The family was checked when it was read: what is wrong are the numbers of this config.
    if (!value && value.error().id == "expression") {
      return Fail(ErrorKind::kInvalid, FaultOf(name),
                  fmt::format("'{}' is '{}': {}", name, *symbol.expression, value.error().what),
                  "config.json");
    }
    return value;
  }

  // What the expression says. A key that says it too must say the same; "auto" says nothing.
  Result<int64_t> AgreedValue(const std::string& name, const weighbridge::Symbol& symbol,
                              int depth) {
    WB_TRY(const int64_t value, ExpressionValue(name, symbol, depth));
    for (const std::string& key : symbol.keys) {
      const nlohmann::json* said = FindKey(config_, key);
      if (said == nullptr || *said == "auto" || *said == value) continue;
      return Fail(ErrorKind::kInvalid, "config-value",
                  fmt::format("'{}' is {}, the rest of the config makes it {} ({})", key,
                              Describe(*said), value, *symbol.expression),
                  "config.json");
    }
    return value;
  }

  Status ResolveSymbols() {
    for (const auto* table : {&spec().dims, &spec().flags}) {
      for (const auto& [name, symbol] : *table) {
        // An absent key is reported by what needs it; a value that is there must fit.
        const Result<int64_t> value = Symbol(name, 0);
        if (!value && IsFault(value.error())) return Fail(value.error());
      }
    }
    return {};
  }

  Result<int64_t> Value(const std::string& expression, int64_t layer = 0, int64_t expert = 0) {
    return Evaluate(expression, [&](std::string_view name) -> Result<int64_t> {
      if (name == "layer") return layer;
      if (name == "expert") return expert;
      if (const auto value = m_.OfLayer(name, layer)) return *value;
      return Symbol(name, 0);
    });
  }

  Result<bool> Holds(const std::string& when, const std::string& unless) {
    if (!when.empty()) {
      WB_TRY(const int64_t value, Value(when));
      if (value == 0) return false;
    }
    if (!unless.empty()) {
      WB_TRY(const int64_t value, Value(unless));
      if (value != 0) return false;
    }
    return true;
  }

  bool IsMtp(const StackRule& stack) const { return stack.missing == "mtp-missing"; }

  Status Count() {
    for (const StackRule& stack : spec().stacks) {
      WB_TRY(int64_t count, Value(stack.count));
      if (IsMtp(stack) && options_.without_mtp) count = 0;
      if (count > kMaxLayers) {
        return Fail(ErrorKind::kInvalid, "config-value",
                    fmt::format("{} layers in stack '{}'", count, stack.name), "config.json");
      }
      m_.counts_[stack.name] = count;
      if (IsMtp(stack)) m_.mtp_layers_ = std::max(m_.mtp_layers_, count);
    }
    WB_TRY(m_.layers_, Symbol("layers", 0));
    for (const StackRule& stack : spec().stacks) {
      if (!IsMtp(stack) && !stack.is_tower() && m_.counts_[stack.name] > m_.layers_) {
        return Fail(ErrorKind::kInvalid, "family-file",
                    fmt::format("stack '{}' has {} layers, the model {}", stack.name,
                                m_.counts_[stack.name], m_.layers_),
                    spec().origin);
      }
    }
    if (m_.layers_ > kMaxLayers) {
      return Fail(ErrorKind::kInvalid, "config-value", fmt::format("{} layers", m_.layers_),
                  "config.json");
    }
    return {};
  }

  Status LayerDims() {
    for (const auto& [name, dim] : spec().layer_dims) {
      const nlohmann::json* list = FindKey(config_, dim.key);
      const auto fail = [&, &n = name](int64_t layer) {
        return Fail(ErrorKind::kInvalid, "config-value",
                    fmt::format("'{}' says nothing of '{}' for layer {}", dim.key, n, layer),
                    "config.json");
      };
      if (list != nullptr && list->is_array() && static_cast<int64_t>(list->size()) != m_.layers_) {
        return Fail(ErrorKind::kInvalid, "config-value",
                    fmt::format("'{}' has {} entries, the model {} layers", dim.key, list->size(),
                                m_.layers_),
                    "config.json");
      }
      std::vector<int64_t>& values = m_.layer_dims_[name];
      for (int64_t layer = 0; layer < m_.layers_; ++layer) {
        const bool there =
            list != nullptr && list->is_array() && layer < static_cast<int64_t>(list->size());
        const nlohmann::json* entry =
            there ? FindKey((*list)[static_cast<size_t>(layer)], dim.entry) : nullptr;
        if (entry == nullptr && !dim.expression) return fail(layer);
        WB_TRY(const int64_t value,
               entry == nullptr ? Value(*dim.expression) : LayerDim(dim, *entry));
        if (value < 0) return fail(layer);
        values.push_back(value);
      }
    }
    return {};
  }

  Result<int64_t> LayerDim(const weighbridge::LayerDim& dim, const nlohmann::json& entry) {
    if (dim.function.empty()) return ToInteger(entry, dim.key);
    WB_TRY(const int64_t of, Value(dim.of.empty() ? "0" : dim.of));
    return FindLayerFunction(dim.function)(entry, of);
  }

  Status Kinds() {
    for (const auto& [group, rule] : spec().layer_kinds) {
      WB_TRY(m_.layer_kinds_[group], LayerKinds(rule, m_.layers_, config_,
                                                [&](std::string_view n) { return Symbol(n, 0); }));
      for (const auto& [stack, own] : rule.stacks) {
        auto& kinds = stack_kinds_[std::pair(group, stack)];
        if (m_.counts_[stack] == 0) continue;  // left out: a list may name its layers all the same
        WB_TRY(kinds, LayerKinds(own, m_.counts_[stack], config_,
                                 [&](std::string_view n) { return Symbol(n, 0); }));
      }
    }
    return {};
  }

  bool HasKind(const StackRule& stack, int64_t layer, const std::string& kind) const {
    for (const auto& [group, all] : m_.layer_kinds_) {
      const auto own = stack_kinds_.find({group, stack.name});
      const std::vector<std::string>& kinds = own == stack_kinds_.end() ? all : own->second;
      const auto fixed = stack.kinds.find(group);
      if (fixed != stack.kinds.end()) {
        if (fixed->second == kind) return true;
      } else if ((own != stack_kinds_.end() || !stack.is_tower()) &&
                 layer < static_cast<int64_t>(kinds.size()) &&
                 kinds[static_cast<size_t>(layer)] == kind) {
        return true;
      }
    }
    return false;
  }

  bool LayerFits(const std::vector<std::string>& kinds, const StackRule& stack,
                 int64_t layer) const {
    return std::all_of(kinds.begin(), kinds.end(), [&](const std::string& kind) {
      return kind.starts_with("!") ? !HasKind(stack, layer, kind.substr(1))
                                   : HasKind(stack, layer, kind);
    });
  }

  bool SomeLayerFits(const std::vector<std::string>& kinds) {
    for (const StackRule& stack : spec().stacks) {
      if (stack.is_tower()) continue;
      for (int64_t layer = 0; layer < m_.counts_[stack.name]; ++layer) {
        if (LayerFits(kinds, stack, layer)) return true;
      }
    }
    return false;
  }

  // A truth value may be written as a number, as for a flag.
  static bool Means(const nlohmann::json& value, const nlohmann::json& listed) {
    if (!listed.is_boolean() || !value.is_number_integer()) return value == listed;
    return (value != 0) == listed.get<bool>();
  }

  // Values of keys with which the family cannot describe the model.
  Status Unsupported() {
    for (const UnsupportedRule& rule : spec().unsupported) {
      const auto key = std::find_if(rule.keys.begin(), rule.keys.end(), [&](const std::string& k) {
        return FindKey(config_, k) != nullptr;
      });
      if (key == rule.keys.end()) continue;
      const nlohmann::json& value = *FindKey(config_, *key);
      const bool listed = std::any_of(rule.values.begin(), rule.values.end(),
                                      [&](const nlohmann::json& v) { return Means(value, v); });
      if (listed == rule.others || !SomeLayerFits(rule.layers)) continue;
      WB_TRY(const bool holds, Holds(rule.when, ""));
      if (!holds) continue;
      return Fail(ErrorKind::kUnsupported, "config-unsupported",
                  fmt::format("family {} does not know '{}' = {}: {}", spec().name, *key,
                              Describe(value), rule.why),
                  "config.json");
    }
    return {};
  }

  // The stacks of a rule, those that borrow its parameters included.
  std::vector<const StackRule*> StacksOf(const std::vector<std::string>& names) const {
    std::vector<const StackRule*> stacks;
    for (const StackRule& stack : spec().stacks) {
      const auto named = [&](const std::string& n) {
        return !n.empty() && std::find(names.begin(), names.end(), n) != names.end();
      };
      if (named(stack.name) || named(stack.params_of)) stacks.push_back(&stack);
    }
    return stacks;
  }

  // How many parameters the config asks for, before any is made.
  Result<int64_t> CountParameters() {
    int64_t total = 0;
    for (const ParamRule& rule : spec().params) {
      WB_TRY(const bool holds, Holds(rule.when, rule.unless));
      if (!holds) continue;
      int64_t layers = rule.stacks.empty() ? 1 : 0, each = 1;
      for (const StackRule* stack : StacksOf(rule.stacks)) {
        for (int64_t layer = 0; layer < m_.counts_[stack->name]; ++layer) {
          layers += LayerFits(rule.layers, *stack, layer) ? 1 : 0;
        }
      }
      if (layers > 0 && !rule.experts.empty()) {
        WB_TRY(each, Value(rule.experts));
      }
      if (each > kMaxExperts || (total += layers * std::max<int64_t>(each, 0)) > kMaxParameters) {
        return Fail(ErrorKind::kInvalid, "config-value",
                    fmt::format("the config asks for more than {} parameters", kMaxParameters),
                    "config.json");
      }
    }
    return total;
  }

  // No Megatron tensor is described twice.
  Status CheckUnique() {
    std::map<std::pair<const StackRule*, std::string>, std::vector<const ParamRule*>> by_name;
    for (const ParamRule& rule : spec().params) {
      WB_TRY(const bool holds, Holds(rule.when, rule.unless));
      if (!holds) continue;
      if (rule.stacks.empty()) by_name[{nullptr, rule.megatron}].push_back(&rule);
      for (const StackRule* stack : StacksOf(rule.stacks))
        by_name[{stack, rule.megatron}].push_back(&rule);
    }
    for (const auto& [key, rules] : by_name) {
      const StackRule* stack = key.first;
      for (int64_t layer = 0; rules.size() > 1 && layer < (stack ? m_.counts_[stack->name] : 1);
           ++layer) {
        const auto fits = [&](const ParamRule* rule) {
          return !stack || LayerFits(rule->layers, *stack, layer);
        };
        if (std::count_if(rules.begin(), rules.end(), fits) < 2) continue;
        return Fail(ErrorKind::kInvalid, "family-file",
                    fmt::format("two rules describe '{}' of layer {}", key.second, layer),
                    fmt::format("{}:{}", spec().origin, rules.back()->line));
      }
    }
    return {};
  }

  // The spelling in which the most tensors outside of layers are there.
  Status ChooseSpelling() {
    if (!options_.has || spec().spellings.empty()) return {};
    WB_TRY(size_t most, CountPresent());
    const std::map<std::string, std::string>* best = nullptr;
    for (const auto& spelling : spec().spellings) {
      m_.spelling_ = &spelling;
      WB_TRY(const size_t present, CountPresent());
      if (present > most) std::tie(most, best) = std::pair(present, &spelling);
    }
    m_.spelling_ = best;
    return {};
  }

  Result<size_t> CountPresent() {
    size_t present = 0;
    for (const ParamRule& rule : spec().params) {
      WB_TRY(const bool holds, Holds(rule.when, rule.unless));
      if (!holds || !rule.stacks.empty()) continue;
      Parameter p;
      WB_TRY(const std::vector<std::string> names, Names(p, rule.storage[0]));
      present += static_cast<size_t>(std::count_if(names.begin(), names.end(), options_.has));
    }
    return present;
  }

  Status Parameters() {
    WB_TRY(const int64_t count, CountParameters());
    m_.parameters_.reserve(static_cast<size_t>(count));
    WB_RETURN_IF_ERROR(CheckUnique());
    for (const ParamRule& rule : spec().params) {
      WB_TRY(const bool holds, Holds(rule.when, rule.unless));
      if (!holds) continue;
      if (rule.stacks.empty()) {
        WB_RETURN_IF_ERROR(AddParameters(rule, nullptr, 0));
        continue;
      }
      for (const StackRule* stack : StacksOf(rule.stacks)) {
        for (int64_t layer = 0; layer < m_.counts_[stack->name]; ++layer) {
          if (LayerFits(rule.layers, *stack, layer))
            WB_RETURN_IF_ERROR(AddParameters(rule, stack, layer));
        }
      }
    }
    // Layer by layer, as the files hold them and as people read them.
    std::stable_sort(m_.parameters_.begin(), m_.parameters_.end(),
                     [](const Parameter& a, const Parameter& b) {
                       return std::tie(a.place, a.layer) < std::tie(b.place, b.layer);
                     });
    return {};
  }

  Status AddParameters(const ParamRule& rule, const StackRule* stack, int64_t layer) {
    int64_t experts = 0;
    if (!rule.experts.empty()) {
      WB_TRY(experts, Value(rule.experts, layer));
      if (experts > kMaxExperts) {
        return Fail(ErrorKind::kInvalid, "config-value", fmt::format("{} experts", experts),
                    "config.json");
      }
    }
    Parameter p;
    p.rule = &rule;
    p.stack = stack;
    p.layer = layer;
    p.experts = experts;
    p.op = *ParseOp(rule.op);
    p.place = PlaceOf(rule, stack);
    WB_RETURN_IF_ERROR(Geometry(p));
    for (int64_t expert = 0; expert < std::max<int64_t>(experts, rule.experts.empty() ? 1 : 0);
         ++expert) {
      p.expert = expert;
      WB_RETURN_IF_ERROR(ChooseStorage(p));
      m_.parameters_.push_back(p);
      if (static_cast<int64_t>(m_.parameters_.size()) > kMaxParameters) {
        return Fail(ErrorKind::kInvalid, "config-value", "the config asks for too many parameters",
                    "config.json");
      }
    }
    return {};
  }

  Place PlaceOf(const ParamRule& rule, const StackRule* stack) const {
    if (stack != nullptr && !stack->is_tower()) {
      return IsMtp(*stack) ? Place::kMtp : Place::kDecoder;
    }
    if (stack != nullptr || rule.place == "first") return Place::kFirst;
    const bool norm = rule.megatron.find("decoder.final") != std::string::npos;
    return norm ? Place::kFinalNorm : Place::kOutput;
  }

  Status Geometry(Parameter& p) {
    int64_t elements = std::max<int64_t>(p.experts, 1);
    for (const std::string& extent : p.rule->shape) {
      WB_TRY(const int64_t value, Value(extent, p.layer));
      if (value <= 0 || value > kMaxExtent) {
        return Fail(ErrorKind::kInvalid, "config-value",
                    fmt::format("'{}' of {} is {}", extent, p.rule->megatron, value),
                    "config.json");
      }
      p.shape.push_back(value);
      if (__builtin_mul_overflow(elements, value, &elements) || elements > kMaxElements) {
        return Fail(ErrorKind::kInvalid, "config-value",
                    fmt::format("{} has too many elements", p.rule->megatron), "config.json");
      }
    }
    p.cut.axis = p.rule->tp == "column" ? 0 : p.rule->tp == "row" ? 1 : -1;
    for (const std::string& component : p.rule->components) {
      WB_TRY(const int64_t value, Value(component, p.layer));
      if (value < 0) {
        return Fail(ErrorKind::kInvalid, "config-value",
                    fmt::format("'{}' of {} is {}", component, p.rule->megatron, value),
                    "config.json");
      }
      p.cut.components.push_back(value);
    }
    return {};
  }

  Result<std::vector<std::string>> Names(const Parameter& p, const HfStorage& storage) {
    std::vector<std::string> names;
    for (const std::string& name : storage.names) {
      const std::string text = p.stack != nullptr ? p.stack->hf + name : name;
      WB_TRY(const std::string full,
             Substitute(text, [&](std::string_view n) { return m_.Lookup(n, p.layer, p.expert); }));
      names.push_back(m_.Spell(full));
    }
    return names;
  }

  // The storage whose names are all there, and whose shapes where these alone decide; the primary
  // when none is complete.
  Status ChooseStorage(Parameter& p) {
    bool complete = false;
    for (const HfStorage& storage : p.rule->storage) {
      const bool primary = &storage == &p.rule->storage[0];
      WB_TRY(std::vector<std::string> names, Names(p, storage));
      const bool there = !options_.has || std::all_of(names.begin(), names.end(), options_.has);
      if (primary || (there && !complete)) {
        p.storage = &storage;
        p.hf = names;
      }
      complete |= there;
      if (!there || (options_.shape && !HasShapes(p, storage, names))) continue;
      p.storage = &storage;
      p.hf = std::move(names);
      break;
    }
    return {};
  }

  // True where no other storage has the same names: its shapes are judged later.
  bool HasShapes(Parameter p, const HfStorage& storage, const std::vector<std::string>& names) {
    const auto alike = [&](const HfStorage& s) { return s.names == storage.names; };
    const auto& all = p.rule->storage;
    if (std::count_if(all.begin(), all.end(), alike) < 2) return true;
    p.storage = &storage;
    const Result<TransformPlan> plan = m_.Plan(p);
    if (!plan) return false;
    for (size_t i = 0; i < names.size(); ++i) {
      const Shape* shape = options_.shape(names[i]);
      if (shape == nullptr || *shape != plan->sources[i].shape) return false;
    }
    return true;
  }

  Result<std::string> StackName(const StackRule* stack, const std::string& name, int64_t layer) {
    const std::string text = stack != nullptr ? stack->hf + name : name;
    WB_TRY(const std::string full,
           Substitute(text, [&](std::string_view n) { return m_.Lookup(n, layer, 0); }));
    return m_.Spell(full);
  }

  Status Copies() {
    if (spec().tied) {
      WB_TRY(m_.tied_, Holds(spec().tied->when, ""));
      if (m_.tied_) {
        m_.copies_.push_back({m_.Spell(spec().tied->hf), m_.Spell(spec().tied->same_as),
                              "the output layer is tied to the embedding", true});
      }
    }
    for (const CopyRule& rule : spec().copies) {
      WB_TRY(const bool holds, Holds(rule.when, ""));
      if (!holds) continue;
      for (const StackRule* stack : StacksOf(rule.stacks)) {
        for (int64_t layer = 0; layer < m_.counts_[stack->name]; ++layer) {
          WB_TRY(std::string name, StackName(stack, rule.hf, layer));
          const bool head = m_.tied_ && rule.same_as == spec().tied->hf;
          const std::string of = m_.Spell(head ? spec().tied->same_as : rule.same_as);
          // Files leave out what shares the embedding.
          m_.copies_.push_back({std::move(name), of,
                                rule.why.empty() ? "a copy of " + of : rule.why, false, stack,
                                layer, head});
        }
      }
    }
    return {};
  }

  Status Ignores() {
    for (const IgnoreRule& rule : spec().ignores) {
      if (rule.stacks.empty()) {
        const std::string name = m_.Spell(rule.hf);
        if (name.ends_with(".")) {
          m_.ignored_prefixes_[name] = NotNeededAs(name + "*", rule.why);
        } else {
          m_.ignored_[name] = NotNeededAs(name, rule.why);
        }
      }
      for (const StackRule* stack : StacksOf(rule.stacks)) {
        const std::string pattern = WithoutBraces(m_.Spell(stack->hf + rule.hf));
        for (int64_t layer = 0; layer < m_.counts_[stack->name]; ++layer) {
          WB_TRY(std::string name, StackName(stack, rule.hf, layer));
          m_.ignored_[std::move(name)] = NotNeededAs(pattern, rule.why);
        }
      }
    }
    // The output layer of a model that is not tied is a parameter; MTP left out by request is not
    // needed.
    return options_.without_mtp ? IgnoreMtp() : Status{};
  }

  // Index into not_needed_.
  size_t NotNeededAs(const std::string& pattern, const std::string& why) {
    const NotNeeded rule{pattern, why};
    auto& all = m_.not_needed_;
    const auto known = std::find(all.begin(), all.end(), rule);
    const auto index = static_cast<size_t>(known - all.begin());
    if (known == all.end()) all.push_back(rule);
    return index;
  }

  Status IgnoreMtp() {
    for (const StackRule& stack : spec().stacks) {
      if (!IsMtp(stack)) continue;
      WB_TRY(const int64_t count, Value(stack.count));
      for (int64_t layer = 0; layer < std::min(count, kMaxLayers); ++layer) {
        WB_TRY(std::string prefix, StackName(&stack, "", layer));
        m_.ignored_prefixes_[prefix] = NotNeededAs(prefix + "*", std::string(kWithoutMtp));
      }
    }
    return {};
  }

  // -- Megatron's config fields --

  Result<nlohmann::json> FieldValue(const std::string& field, const ConfigRule& rule) {
    if (!rule.when.empty()) {
      WB_TRY(const int64_t when, Value(rule.when));
      if (when == 0) return nlohmann::json("none");
    }
    WB_TRY(const nlohmann::json raw, RawValue(field, rule));
    if (raw.is_null()) {
      if (!rule.null_value.is_null() && HasNullKey(config_, rule.hf)) return rule.null_value;
      if (!rule.fallback.is_null()) return rule.fallback;
      return Fail(ErrorKind::kInvalid, "config-key-missing",
                  fmt::format("the config lacks '{}' (field {} of family {})",
                              rule.hf.empty() ? rule.rope : rule.hf[0], field, spec().name),
                  "config.json");
    }
    if (rule.function.empty()) return raw;
    return FindConfigFunction(rule.function)->apply(raw, rule.arguments);
  }

  // null: the source has no value.
  Result<nlohmann::json> RawValue(const std::string& field, const ConfigRule& rule) {
    if (!rule.constant.is_null()) return rule.constant;
    if (!rule.dim.empty()) {
      WB_TRY(const int64_t value, Value(rule.dim));
      return nlohmann::json(value);
    }
    if (!rule.flag.empty()) {
      WB_TRY(const int64_t value, Value(rule.flag));
      return nlohmann::json(value != 0);
    }
    if (!rule.rope.empty()) return RopeValue(rule.rope, rule.unsaid);
    if (!rule.layer_kind.empty()) {
      nlohmann::json list = nlohmann::json::array();
      for (const std::string& kind : m_.layer_kinds_[rule.layer_kind]) {
        if (rule.equals.empty()) {
          list.push_back(kind);
        } else {
          list.push_back(kind == rule.equals ? 1 : 0);
        }
      }
      return list;
    }
    if (!rule.list.empty()) {
      nlohmann::json list = nlohmann::json::array();
      for (const ConfigRule& entry : rule.list) {
        WB_TRY(nlohmann::json value, FieldValue(field, entry));
        list.push_back(std::move(value));
      }
      return list;
    }
    if (!rule.table.empty()) {
      nlohmann::json table = nlohmann::json::object();
      for (const auto& [key, entry] : rule.table) {
        WB_TRY(table[key], FieldValue(field, entry));
      }
      return table;
    }
    const nlohmann::json* value = FirstKey(config_, rule.hf);
    return value == nullptr ? nlohmann::json() : *value;
  }

  // "KIND": whether the RoPE table is of that kind; "KIND.FIELD": its field, when it is, or
  // `unsaid`.
  nlohmann::json RopeValue(const std::string& text, const nlohmann::json& unsaid) const {
    const nlohmann::json* table =
        FirstKey(config_, {"rope_scaling", "rope_parameters.full_attention", "rope_parameters"});
    const nlohmann::json empty = nlohmann::json::object();
    if (table == nullptr || !table->is_object()) table = &empty;
    const nlohmann::json* type = FirstKey(*table, {"rope_type", "type"});
    const std::string kind =
        type != nullptr && type->is_string() ? type->get<std::string>() : "default";
    const size_t dot = text.find('.');
    if (dot == std::string::npos) return kind == text;
    if (kind != text.substr(0, dot)) return nullptr;
    const nlohmann::json* value = FindKey(*table, text.substr(dot + 1));
    return value == nullptr || value->is_null() ? unsaid : *value;
  }

  Status Config() {
    for (const auto& [field, rule] : spec().config) {
      WB_TRY(nlohmann::json value, FieldValue(field, rule));
      m_.config_.push_back({field, std::move(value)});
    }
    std::map<std::string, ConfigRule> fields = spec().bridge.fields;
    WB_TRY(m_.effects_, FieldsOf(spec().effects));
    WB_TRY(m_.bridge_fields_, FieldsOf(fields));
    for (const auto& [field, rule] : spec().bridge.local_fields) fields[field] = rule;
    WB_TRY(m_.local_bridge_fields_, FieldsOf(fields));
    return {};
  }

  Result<std::vector<Field>> FieldsOf(const std::map<std::string, ConfigRule>& rules) {
    std::vector<Field> fields;
    for (const auto& [field, rule] : rules) {
      WB_TRY(nlohmann::json value, FieldValue(field, rule));
      // The bridge has a setting that is called "none": a constant means the word.
      if (value == "none" && rule.constant.is_null()) value = nullptr;
      fields.push_back({field, std::move(value)});
    }
    return fields;
  }

  Model& m_;
  const nlohmann::json& config_;
  const ExpandOptions& options_;
  // Of stacks with a rule of their own: [group, stack] -> kinds.
  std::map<std::pair<std::string, std::string>, std::vector<std::string>> stack_kinds_;
};

namespace {

void AddHfDefaults(const FamilySpec& spec, nlohmann::json& config) {
  const nlohmann::json* type = FindKey(config, "model_type");
  if (type == nullptr || !type->is_string()) return;
  const auto defaults = spec.hf_defaults.find(type->get<std::string>());
  if (defaults == spec.hf_defaults.end() || !defaults->is_object()) return;
  for (const auto& [key, value] : defaults->items()) {
    const bool table = key == "rope_parameters" && FindKey(config, "rope_scaling") != nullptr;
    if (!table && FindKey(config, key) == nullptr) config[key] = value;
  }
}

}  // namespace

Result<Model> Model::Expand(const FamilySpec& spec, const nlohmann::json& config,
                            const ExpandOptions& options) {
  if (!config.is_object()) {
    return Fail(ErrorKind::kInvalid, "config-value", "the config is not a JSON object",
                "config.json");
  }
  Model model;
  model.spec_ = &spec;
  model.hf_config_ = spec.text_model.config.empty()
                         ? config
                         : LayTextConfigOver(LayTextConfigOver(config, spec.text_model.within, {}),
                                             spec.text_model.config, spec.text_model.outer);
  AddHfDefaults(spec, model.hf_config_);
  WB_RETURN_IF_ERROR(Builder(model, model.hf_config_, options).Run());
  return model;
}

std::optional<int64_t> Model::OfLayer(std::string_view name, int64_t layer) const {
  const auto it = layer_dims_.find(std::string(name));
  if (it == layer_dims_.end() || layer >= static_cast<int64_t>(it->second.size())) return {};
  return it->second[static_cast<size_t>(layer)];
}

std::string Model::Spell(const std::string& hf_name) const {
  return spelling_ == nullptr ? hf_name : WithPrefix(*spelling_, hf_name);
}

Result<std::string> Model::HfPrefix(const StackRule& stack, int64_t layer) const {
  WB_TRY(const std::string prefix,
         Substitute(stack.hf, [&](std::string_view n) { return Lookup(n, layer, 0); }));
  return Spell(prefix);
}

std::string Model::HfPrefix(const StackRule& stack) const {
  return Spell(stack.hf.substr(0, stack.hf.find('{')));
}

Result<int64_t> Model::Lookup(std::string_view name, int64_t layer, int64_t expert) const {
  if (name == "layer") return layer;
  if (name == "expert") return expert;
  if (const auto value = OfLayer(name, layer)) return *value;
  const auto it = dims_.find(std::string(name));
  if (it != dims_.end()) return it->second;
  return Fail(ErrorKind::kInvalid, "config-key-missing",
              fmt::format("dim '{}' of family {} has no value in this config", name, spec_->name),
              "config.json");
}

std::string Model::MegatronName(const Parameter& p, Dialect dialect) const {
  return MegatronName(p, dialect, p.layer, p.expert);
}

std::string Model::MegatronName(const Parameter& p, Dialect dialect, int64_t layer,
                                int64_t expert) const {
  const bool local = dialect == Dialect::kLocal && !p.rule->local.empty();
  const std::string text =
      (p.stack != nullptr ? p.stack->megatron : "") + (local ? p.rule->local : p.rule->megatron);
  return Fill(text, layer, expert);
}

std::string Model::Fill(const std::string& name, int64_t layer, int64_t expert) const {
  // Names were checked when the family was read; dims that they use were resolved for the HF names.
  return Substitute(name, [&](std::string_view n) { return Lookup(n, layer, expert); })
      .value_or(name);
}

std::string Model::MegatronPattern(const Parameter& p, Dialect dialect) const {
  const bool local = dialect == Dialect::kLocal && !p.rule->local.empty();
  return WithoutBraces((p.stack != nullptr ? p.stack->megatron : "") +
                       (local ? p.rule->local : p.rule->megatron));
}

Result<int64_t> Model::Dim(const Parameter& p, std::string_view name) const {
  const auto option = p.storage->options.find(std::string(name));
  const std::string expression =
      option == p.storage->options.end() ? std::string(name) : option->second;
  return Evaluate(expression, [&](std::string_view n) { return Lookup(n, p.layer, p.expert); });
}

Result<TransformPlan> Model::Plan(const Parameter& p) const {
  const HfStorage& storage = *p.storage;
  TransformRequest request;
  request.megatron_shape = p.shape;
  request.expert = p.expert;
  request.experts = std::max<int64_t>(p.experts, 1);
  request.vocab = vocab_;
  request.dim = [&](std::string_view name) { return Dim(p, name); };
  request.flag = [&](std::string_view name) {
    const auto option = storage.options.find(std::string(name));
    return option != storage.options.end() && option->second == "true";
  };
  return FindTransform(storage.transform)->plan(request);
}

const NotNeeded* Model::Ignored(const std::string& hf_name) const {
  if (const auto it = ignored_.find(hf_name); it != ignored_.end()) return &not_needed_[it->second];
  for (const auto& [prefix, index] : ignored_prefixes_) {
    if (hf_name.starts_with(prefix)) return &not_needed_[index];
  }
  return nullptr;
}

Result<std::map<std::string, Shape>> Model::HfTensors() const {
  std::map<std::string, Shape> tensors;
  for (const Parameter& p : parameters_) {
    WB_TRY(const TransformPlan plan, Plan(p));
    for (size_t i = 0; i < p.hf.size(); ++i) {
      const auto [it, added] = tensors.emplace(p.hf[i], plan.sources[i].shape);
      if (!added && it->second != plan.sources[i].shape) {
        return Fail(ErrorKind::kInvalid, "family-file",
                    fmt::format("two parameters want '{}' as {} and as {}", p.hf[i],
                                weighbridge::ToString(it->second),
                                weighbridge::ToString(plan.sources[i].shape)),
                    spec_->origin);
      }
    }
  }
  return tensors;
}

bool Parameter::is_indexer() const {
  return rule->megatron.find(".indexer.") != std::string::npos ||
         (stack != nullptr && stack->megatron.find("indexers.") != std::string::npos);
}

bool HasIndexers(const Model& model) {
  return std::any_of(model.parameters().begin(), model.parameters().end(),
                     [](const Parameter& p) { return p.is_indexer(); });
}

}  // namespace weighbridge
