#include "family/lint.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "base/strings.h"
#include "family/config.h"
#include "family/expression.h"
#include "family/layer_rules.h"
#include "family/lint_structure.h"
#include "mapping/ops.h"
#include "mapping/transforms/transform.h"
#include "tensor/quantized.h"

namespace weighbridge {
namespace {

class Linter {
 public:
  explicit Linter(const FamilySpec& spec) : spec_(spec) {
    for (const auto& [name, symbol] : spec.dims) symbols_.insert(name);
    for (const auto& [name, symbol] : spec.flags) symbols_.insert(name);
    for (const auto& [name, dim] : spec.layer_dims) symbols_.insert(name);
    symbols_.insert("padded_vocab");
    for (const auto& [group, rule] : spec.layer_kinds) {
      for (const std::string& kind : PossibleKinds(rule)) kinds_.insert(kind);
    }
    for (const StackRule& stack : spec.stacks) {
      for (const auto& [group, kind] : stack.kinds) kinds_.insert(kind);
    }
  }

  Status Run() {
    if (spec_.hf_architectures.empty()) return Bad("'hf_architectures' is empty", 0);
    for (const char* required : {"layers", "vocab"}) {
      if (!spec_.dims.contains(required)) return Bad(fmt::format("[dims] lacks '{}'", required), 0);
    }
    const auto schemes = QuantizationNames();
    for (const std::string& name : spec_.quantization) {
      if (std::find(schemes.begin(), schemes.end(), name) != schemes.end()) continue;
      return Bad(fmt::format("'quantization' is of {}, not '{}'", fmt::join(schemes, ", "), name),
                 0);
    }
    WB_RETURN_IF_ERROR(Symbols());
    WB_RETURN_IF_ERROR(Stacks());
    WB_RETURN_IF_ERROR(Rules());
    WB_RETURN_IF_ERROR(Config());
    for (const ParamRule& rule : spec_.params) WB_RETURN_IF_ERROR(Param(rule));
    WB_RETURN_IF_ERROR(NamesWithoutParameter());
    return LintStructure(spec_);
  }

 private:
  tl::unexpected<Error> Bad(std::string what, int line) const {
    return BadFamily(spec_, std::move(what), line);
  }

  // Every name in an expression must be a symbol. Their values are made up, so what they compute is
  // only judged where no name takes part, and where no values help: `hidden / 0`. `self` is the
  // symbol that the expression defines.
  Status Expression(const std::string& text, int line, const std::string& self = "") const {
    if (text.empty()) return {};
    std::string unknown;
    bool named = false, itself = false;
    // Equal values, rising ones and falling ones: not all of them make a divisor 0 by accident.
    const auto evaluate = [&](int64_t first, int64_t step) {
      std::map<std::string, int64_t, std::less<>> values;
      return Evaluate(text, [&](std::string_view name) -> Result<int64_t> {
        const bool known =
            symbols_.contains(std::string(name)) || name == "layer" || name == "expert";
        if (!known && unknown.empty()) unknown = name;
        named = true;
        itself |= name == self;
        const auto next = first + step * static_cast<int64_t>(values.size());
        return values.emplace(std::string(name), next).first->second;
      });
    };
    const Result<int64_t> value = evaluate(5040, 0);
    if (itself) return Bad(fmt::format("'{}' is defined by itself: '{}'", self, text), line);
    if (!unknown.empty()) {
      const std::vector<std::string> names(symbols_.begin(), symbols_.end());
      const std::string near = NearestName(unknown, names);
      return Bad(fmt::format("'{}' is no dim or flag{}", unknown,
                             near.empty() ? "" : fmt::format("; did you mean '{}'?", near)),
                 line);
    }
    const auto computes = [&](const char* what) {
      return value.error().what.find(what) != std::string::npos;
    };
    const auto never = [&](const Result<int64_t>& other) {
      return !other && other.error().what.find("division by") != std::string::npos;
    };
    if (named && never(value) && never(evaluate(3, 1009)) && never(evaluate(1000003, -1009))) {
      return Bad(fmt::format("'{}' divides by zero whatever the config says", text), line);
    }
    if (!value &&
        !(named && (computes("divisible") || computes("overflow") || computes("division")))) {
      return Bad(fmt::format("{} at {}", value.error().what, value.error().at), line);
    }
    return {};
  }

  Status Name(const std::string& text, int line) const {
    size_t at = 0;
    while ((at = text.find('{', at)) != std::string::npos) {
      const size_t close = text.find('}', at);
      if (close == std::string::npos)
        return Bad(fmt::format("'}}' is missing in '{}'", text), line);
      WB_RETURN_IF_ERROR(Expression(text.substr(at + 1, close - at - 1), line));
      at = close;
    }
    return {};
  }

  Status Symbols() const {
    for (const auto* table : {&spec_.dims, &spec_.flags}) {
      for (const auto& [name, symbol] : *table) {
        if (symbol.keys.empty() && symbol.count.empty() && !symbol.expression) {
          return Bad(fmt::format("'{}' has neither keys nor a value", name), 0);
        }
        if (symbol.agree && symbol.keys.empty()) {
          return Bad(fmt::format("'{}' has no keys that could agree", name), 0);
        }
        if (symbol.null_expression) {
          if (symbol.keys.empty()) {
            return Bad(fmt::format("'{}' has no keys that could be null", name), 0);
          }
          WB_RETURN_IF_ERROR(Expression(*symbol.null_expression, 0, name));
        }
        if (symbol.expression) WB_RETURN_IF_ERROR(Expression(*symbol.expression, 0, name));
      }
    }
    for (const auto& [name, dim] : spec_.layer_dims) {
      if (spec_.dims.contains(name) || spec_.flags.contains(name)) {
        return Bad(fmt::format("'{}' is a dim of the model and of each layer", name), 0);
      }
      if (dim.key.empty()) return Bad(fmt::format("'{}' needs a 'key'", name), 0);
      if (!dim.function.empty() && FindLayerFunction(dim.function) == nullptr) {
        return Bad(fmt::format("[layer_dims] {}: there is no function '{}'", name, dim.function),
                   0);
      }
      WB_RETURN_IF_ERROR(Expression(dim.of, 0));
      if (dim.expression) WB_RETURN_IF_ERROR(Expression(*dim.expression, 0));
    }
    for (const auto& [name, symbol] : spec_.flags) {
      if (spec_.dims.contains(name)) return Bad(fmt::format("'{}' is a dim and a flag", name), 0);
    }
    return {};
  }

  Status Stacks() const {
    for (const StackRule& stack : spec_.stacks) {
      if (stack.name.empty() || stack.count.empty())
        return Bad("a [[stack]] needs name and count", 0);
      WB_RETURN_IF_ERROR(Expression(stack.count, 0));
      WB_RETURN_IF_ERROR(Name(stack.megatron, 0));
      WB_RETURN_IF_ERROR(Name(stack.hf, 0));
      if (stack.is_tower() && stack.place != "first") {
        return Bad(fmt::format("the 'place' of stack '{}' is \"first\"", stack.name), 0);
      }
      if (stack.stacked && !stack.is_tower()) {
        return Bad(fmt::format("'stacked' of stack '{}' needs a place", stack.name), 0);
      }
      if (!stack.params_of.empty() && !HasStack(stack.params_of)) {
        return Bad(fmt::format("there is no stack '{}'", stack.params_of), 0);
      }
    }
    return {};
  }

  bool HasStack(const std::string& name) const {
    return std::any_of(spec_.stacks.begin(), spec_.stacks.end(),
                       [&](const StackRule& s) { return s.name == name; });
  }

  Status Rule(const std::string& group, const LayerRule& rule) const {
    const auto& all = AllLayerRules();
    const auto it =
        std::find_if(all.begin(), all.end(), [&](const auto& r) { return r.name == rule.rule; });
    if (it == all.end())
      return Bad(fmt::format("[layer_kinds.{}]: no rule '{}'", group, rule.rule), 0);
    for (std::string_view name : it->required) {
      if (!rule.arguments.contains(std::string(name))) {
        return Bad(fmt::format("[layer_kinds.{}]: rule {} needs '{}'", group, rule.rule, name), 0);
      }
    }
    for (const auto& [name, value] : rule.arguments) {
      const auto known = [&name = name](const std::vector<std::string_view>& list) {
        return std::find(list.begin(), list.end(), name) != list.end();
      };
      if (!known(it->required) && !known(it->optional)) {
        return Bad(fmt::format("[layer_kinds.{}]: rule {} has no '{}'", group, rule.rule, name), 0);
      }
      if (name == "n" || name == "k" || name == "phase" || name == "from" || name == "skip" ||
          name == "tail" || name == "base")
        WB_RETURN_IF_ERROR(Expression(value, 0));
    }
    for (const LayerRule& inner : rule.fallback) WB_RETURN_IF_ERROR(Rule(group, inner));
    for (const auto& [stack, inner] : rule.stacks) {
      if (!HasStack(stack)) {
        return Bad(fmt::format("[layer_kinds.{}]: there is no stack '{}'", group, stack), 0);
      }
      WB_RETURN_IF_ERROR(Rule(group, inner));
    }
    return {};
  }

  Status Rules() const {
    for (const auto& [group, rule] : spec_.layer_kinds) WB_RETURN_IF_ERROR(Rule(group, rule));
    return {};
  }

  Status ConfigEntry(const std::string& field, const ConfigRule& rule) const {
    if (!rule.function.empty() && FindConfigFunction(rule.function) == nullptr) {
      return Bad(fmt::format("[config] {}: there is no function '{}'", field, rule.function), 0);
    }
    for (const std::string* text : {&rule.dim, &rule.flag, &rule.when}) {
      WB_RETURN_IF_ERROR(Expression(*text, 0));
    }
    if (!rule.layer_kind.empty() && !spec_.layer_kinds.contains(rule.layer_kind)) {
      return Bad(fmt::format("[config] {}: no layer kinds '{}'", field, rule.layer_kind), 0);
    }
    for (const ConfigRule& inner : rule.list) WB_RETURN_IF_ERROR(ConfigEntry(field, inner));
    for (const auto& [key, inner] : rule.table) WB_RETURN_IF_ERROR(ConfigEntry(field, inner));
    return {};
  }

  Status Config() const {
    const BridgeRule& bridge = spec_.bridge;
    for (const auto* fields :
         {&spec_.config, &spec_.effects, &bridge.fields, &bridge.local_fields}) {
      for (const auto& [field, rule] : *fields) WB_RETURN_IF_ERROR(ConfigEntry(field, rule));
    }
    return {};
  }

  Status Storage(const ParamRule& rule, const HfStorage& storage) const {
    const Transform* transform = FindTransform(storage.transform);
    if (transform == nullptr) {
      std::vector<std::string> names;
      for (const Transform& t : AllTransforms()) names.emplace_back(t.name);
      const std::string near = NearestName(storage.transform, names);
      return Bad(fmt::format("there is no transform '{}'{}", storage.transform,
                             near.empty() ? "" : fmt::format("; did you mean '{}'?", near)),
                 rule.line);
    }
    if (storage.names.size() != static_cast<size_t>(transform->sources)) {
      return Bad(fmt::format("transform {} takes {} HF tensors, {} are named", transform->name,
                             transform->sources, storage.names.size()),
                 rule.line);
    }
    for (const std::string& name : storage.names) WB_RETURN_IF_ERROR(Name(name, rule.line));
    for (const auto& [option, value] : storage.options) {
      if (std::find(transform->options.begin(), transform->options.end(), option) ==
          transform->options.end()) {
        return Bad(fmt::format("transform {} has no option '{}'", transform->name, option),
                   rule.line);
      }
      WB_RETURN_IF_ERROR(Expression(value, rule.line));
    }
    return {};
  }

  Status Kinds(const std::vector<std::string>& layers, int line) const {
    for (const std::string& name : layers) {
      const std::string kind = name.starts_with("!") ? name.substr(1) : name;
      if (!kinds_.contains(kind)) return Bad(fmt::format("no layer is of kind '{}'", kind), line);
    }
    return {};
  }

  Status Param(const ParamRule& rule) const {
    if (rule.megatron.empty()) return Bad("a [[param]] needs 'megatron'", rule.line);
    if (rule.shape.empty() && !rule.scalar)
      return Bad(fmt::format("'{}' has no shape", rule.megatron), rule.line);
    for (const std::string& stack : rule.stacks) {
      if (!HasStack(stack)) return Bad(fmt::format("there is no stack '{}'", stack), rule.line);
    }
    if (rule.stacks.empty() == rule.place.empty()) {
      return Bad(fmt::format("'{}' needs a stack or a place, and not both", rule.megatron),
                 rule.line);
    }
    if (!rule.place.empty() && rule.place != "first" && rule.place != "last") {
      return Bad("'place' is \"first\" or \"last\"", rule.line);
    }
    WB_RETURN_IF_ERROR(Kinds(rule.layers, rule.line));
    if (rule.tp != "replicated" && rule.tp != "column" && rule.tp != "row") {
      return Bad(fmt::format("'tp' is replicated, column or row, not '{}'", rule.tp), rule.line);
    }
    if (!rule.components.empty() && rule.tp != "column") {
      return Bad("'components' are cut along axis 0: they need tp = \"column\"", rule.line);
    }
    if (!rule.parts.empty() && rule.parts.size() != rule.components.size()) {
      return Bad(fmt::format("'parts' names the components of '{}': {} of {}", rule.megatron,
                             rule.parts.size(), rule.components.size()),
                 rule.line);
    }
    if (!ParseOp(rule.op)) return Bad(fmt::format("there is no op '{}'", rule.op), rule.line);
    for (const auto* list : {&rule.shape, &rule.components}) {
      for (const std::string& text : *list) WB_RETURN_IF_ERROR(Expression(text, rule.line));
    }
    for (const std::string* text : {&rule.experts, &rule.when, &rule.unless}) {
      WB_RETURN_IF_ERROR(Expression(*text, rule.line));
    }
    WB_RETURN_IF_ERROR(Name(rule.megatron, rule.line));
    WB_RETURN_IF_ERROR(Name(rule.local, rule.line));
    for (const std::string& name : rule.disk) WB_RETURN_IF_ERROR(Name(name, rule.line));
    for (const HfStorage& storage : rule.storage) WB_RETURN_IF_ERROR(Storage(rule, storage));
    return {};
  }

  Status StackNames(const std::vector<std::string>& stacks) const {
    for (const std::string& stack : stacks) {
      if (!HasStack(stack)) return Bad(fmt::format("there is no stack '{}'", stack), 0);
    }
    return {};
  }

  // [tied], [[hf_copy]], [[hf_ignore]], [[megatron_ignore]], [[unsupported]].
  Status NamesWithoutParameter() const {
    if (spec_.tied) {
      const CopyRule& tied = *spec_.tied;
      if (tied.hf.empty() || tied.same_as.empty() || tied.megatron.empty()) {
        return Bad("[tied] needs 'hf', 'same_as' and 'megatron'", 0);
      }
      WB_RETURN_IF_ERROR(Expression(tied.when, 0));
    }
    for (const CopyRule& copy : spec_.copies) {
      if (copy.stacks.empty() || copy.hf.empty() || copy.same_as.empty()) {
        return Bad("a [[hf_copy]] needs 'stack', 'hf' and 'same_as'", 0);
      }
      WB_RETURN_IF_ERROR(StackNames(copy.stacks));
      WB_RETURN_IF_ERROR(Name(copy.hf, 0));
      WB_RETURN_IF_ERROR(Expression(copy.when, 0));
    }
    for (const IgnoreRule& ignore : spec_.ignores) {
      if (ignore.hf.empty()) return Bad("a [[hf_ignore]] needs 'hf'", 0);
      WB_RETURN_IF_ERROR(StackNames(ignore.stacks));
      WB_RETURN_IF_ERROR(Name(ignore.hf, 0));
    }
    for (const UnsupportedRule& rule : spec_.unsupported) {
      WB_RETURN_IF_ERROR(Kinds(rule.layers, 0));
      WB_RETURN_IF_ERROR(Expression(rule.when, 0));
    }
    for (const MegatronIgnoreRule& ignore : spec_.megatron_ignores) {
      if (ignore.megatron.empty()) return Bad("a [[megatron_ignore]] needs 'megatron'", 0);
      WB_RETURN_IF_ERROR(StackNames(ignore.stacks));
      for (const std::string* name : {&ignore.megatron, &ignore.local}) {
        WB_RETURN_IF_ERROR(Name(*name, 0));
      }
      for (const std::string& text : ignore.shape) WB_RETURN_IF_ERROR(Expression(text, 0));
      for (const std::string* text : {&ignore.when, &ignore.unless}) {
        WB_RETURN_IF_ERROR(Expression(*text, 0));
      }
    }
    return {};
  }

  const FamilySpec& spec_;
  std::set<std::string> symbols_, kinds_;
};

}  // namespace

Status LintFamily(const FamilySpec& spec) { return Linter(spec).Run(); }

}  // namespace weighbridge
