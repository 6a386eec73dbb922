#include "family/lint_structure.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <vector>

#include "family/expression.h"
#include "family/layer_rules.h"

namespace weighbridge {
namespace {

constexpr int kMaxDepth = 32;

bool Contains(const std::vector<std::string>& list, const std::string& name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

// Whether the braces of a name hold the loop variable `layer`.
bool HasLayer(const std::string& name) {
  for (size_t open = 0; (open = name.find('{', open)) != std::string::npos; ++open) {
    const size_t close = name.find('}', open);
    if (NamesIn(std::string_view(name).substr(open, close - open)).contains("layer")) return true;
  }
  return false;
}

// Whether an expression is below 1 whatever the config says. Names whose value the family fixes
// have it; for the others values are tried, powers of two so that quotients are exact.
class Signs {
 public:
  explicit Signs(const FamilySpec& spec) : spec_(spec) {}

  bool NeverPositive(const std::string& expression) const {
    constexpr int kSamples = 48, kEnough = 8;
    int computed = 0;
    for (int sample = 0; sample < kSamples; ++sample) {
      Sample tried{0x9E3779B97F4A7C15u * static_cast<uint64_t>(sample + 1)};
      const Result<int64_t> value = Value(expression, tried, 0);
      if (value && *value > 0) return false;
      computed += value ? 1 : 0;
      if (!tried.any_free) break;
    }
    return computed >= kEnough || (computed == 1 && NamesIn(expression).empty()) ||
           Fixed(expression);
  }

 private:
  // One value for each name: of those that the config gives a random one.
  struct Sample {
    uint64_t random;
    std::map<std::string, int64_t, std::less<>> values;
    bool any_free = false;
  };

  // The expression of a symbol that no key of the config gives; nullptr for all others.
  const std::string* Definition(const std::string& name) const {
    for (const auto* table : {&spec_.dims, &spec_.flags}) {
      const auto it = table->find(name);
      if (it == table->end()) continue;
      const Symbol& symbol = it->second;
      if (symbol.keys.empty() && symbol.count.empty() && symbol.expression) {
        return &*symbol.expression;
      }
    }
    return nullptr;
  }

  // No key of a config has a part in it.
  bool Fixed(const std::string& expression) const {
    std::set<std::string> seen;
    return Fixed(expression, seen);
  }
  bool Fixed(const std::string& expression, std::set<std::string>& seen) const {
    const auto names = NamesIn(expression);
    return std::all_of(names.begin(), names.end(), [&](const std::string& name) {
      const std::string* definition = Definition(name);
      return definition != nullptr && (!seen.insert(name).second || Fixed(*definition, seen));
    });
  }

  Result<int64_t> Value(const std::string& expression, Sample& sample, int depth) const {
    return Evaluate(expression, [&](std::string_view name) -> Result<int64_t> {
      const std::string key(name);
      if (const auto known = sample.values.find(key); known != sample.values.end()) {
        return known->second;
      }
      const std::string* definition = depth < kMaxDepth ? Definition(key) : nullptr;
      if (definition != nullptr) {
        WB_TRY(sample.values[key], Value(*definition, sample, depth + 1));
      } else {
        sample.any_free = true;
        sample.random = sample.random * 6364136223846793005u + 1442695040888963407u;
        sample.values[key] = int64_t{1} << ((sample.random >> 33) % 16);
      }
      return sample.values[key];
    });
  }

  const FamilySpec& spec_;
};

class StructureLinter {
 public:
  explicit StructureLinter(const FamilySpec& spec) : spec_(spec), signs_(spec) {}

  Status Run() const {
    WB_RETURN_IF_ERROR(DimCycles());
    WB_RETURN_IF_ERROR(StackCycles());
    for (const StackRule& stack : spec_.stacks) WB_RETURN_IF_ERROR(Layers(stack));
    for (const auto& [group, rule] : spec_.layer_kinds) WB_RETURN_IF_ERROR(Rule(group, rule));
    WB_RETURN_IF_ERROR(Ignores());
    for (const ParamRule& rule : spec_.params) {
      WB_RETURN_IF_ERROR(ShapeOf(rule));
      WB_RETURN_IF_ERROR(Reachable(rule));
    }
    return {};
  }

 private:
  // -- circles --

  std::set<std::string> UsesOf(const std::string& name) const {
    for (const auto* table : {&spec_.dims, &spec_.flags}) {
      const auto it = table->find(name);
      if (it != table->end() && it->second.expression) return NamesIn(*it->second.expression);
    }
    return {};
  }

  // The circle that `path` closes, the first name at its end again; empty without one.
  std::vector<std::string> Circle(std::vector<std::string>& path,
                                  std::set<std::string>& done) const {
    const std::string name = path.back();
    const auto first = std::find(path.begin(), path.end() - 1, name);
    if (first != path.end() - 1) return {first, path.end()};
    if (done.contains(name)) return {};
    for (const std::string& used : UsesOf(name)) {
      path.push_back(used);
      std::vector<std::string> circle = Circle(path, done);
      path.pop_back();
      if (!circle.empty()) return circle;
    }
    done.insert(name);
    return {};
  }

  Status DimCycles() const {
    std::set<std::string> done;
    for (const auto* table : {&spec_.dims, &spec_.flags}) {
      for (const auto& [name, symbol] : *table) {
        std::vector<std::string> path = {name};
        const std::vector<std::string> circle = Circle(path, done);
        if (circle.empty()) continue;
        return BadFamily(spec_, fmt::format("[{}] '{}' is defined by itself: {}",
                                            table == &spec_.dims ? "dims" : "flags", circle[0],
                                            fmt::join(circle, " -> ")));
      }
    }
    return {};
  }

  const StackRule* StackOf(const std::string& name) const {
    const auto it = std::find_if(spec_.stacks.begin(), spec_.stacks.end(),
                                 [&](const StackRule& s) { return s.name == name; });
    return it == spec_.stacks.end() ? nullptr : &*it;
  }

  Status StackCycles() const {
    for (const StackRule& stack : spec_.stacks) {
      std::vector<std::string> path = {stack.name};
      for (const StackRule* next = StackOf(stack.params_of); next != nullptr;
           next = StackOf(next->params_of)) {
        path.push_back(next->name);
        if (next != &stack && path.size() <= spec_.stacks.size()) continue;
        return BadFamily(spec_, fmt::format("[[stack]] '{}' has its own parameters by 'params_of': "
                                            "{}",
                                            stack.name, fmt::join(path, " -> ")));
      }
    }
    return {};
  }

  // -- names --

  bool IsOf(const std::vector<std::string>& stacks, const StackRule& stack) const {
    return Contains(stacks, stack.name) ||
           (!stack.params_of.empty() && Contains(stacks, stack.params_of));
  }

  // Each layer has names of its own, by the stack's prefix or by those of its rules.
  Status Layers(const StackRule& stack) const {
    const auto one = Evaluate(stack.count, [](std::string_view) -> Result<int64_t> { return 2; });
    if (one && *one == 1) return {};
    // Qwen's MTP is one block of Hugging Face around all of its layers.
    const bool shared = stack.missing == "mtp-missing";
    bool any = false;
    for (const ParamRule& rule : spec_.params) {
      if (!IsOf(rule.stacks, stack)) continue;
      any = true;
      WB_RETURN_IF_ERROR(HoldsLayer(stack, "megatron", stack.megatron, rule.megatron, rule.line));
      if (shared || !rule.layers.empty()) continue;  // a kind may be of one layer only
      for (const HfStorage& storage : rule.storage) {
        for (const std::string& name : storage.names) {
          WB_RETURN_IF_ERROR(HoldsLayer(stack, "hf", stack.hf, name, rule.line));
        }
      }
    }
    if (any) return {};
    WB_RETURN_IF_ERROR(HoldsLayer(stack, "megatron", stack.megatron, "", 0));
    return shared ? Status{} : HoldsLayer(stack, "hf", stack.hf, "", 0);
  }

  Status HoldsLayer(const StackRule& stack, const char* side, const std::string& prefix,
                    const std::string& name, int line) const {
    if (HasLayer(prefix) || HasLayer(name)) return {};
    return BadFamily(spec_,
                     fmt::format("[[stack]] '{}': '{}' is the same name in every layer, '{}' lacks "
                                 "{{layer}}",
                                 stack.name, prefix + name, side),
                     line);
  }

  // What a rule always reads is never passed over: the ignore says more than it means.
  Status Ignores() const {
    for (const IgnoreRule& ignore : spec_.ignores) {
      for (const ParamRule& rule : spec_.params) {
        const bool part = ignore.stacks.empty() && ignore.hf.ends_with('.');
        const bool always =
            rule.when.empty() && rule.unless.empty() && (part || rule.layers.empty());
        const std::string name = always ? ReadBy(rule, ignore) : "";
        if (name.empty()) continue;
        return BadFamily(spec_,
                         fmt::format("[[hf_ignore]] '{}' passes over '{}', which the rule of '{}' "
                                     "reads",
                                     ignore.hf, name, rule.megatron),
                         rule.line);
      }
    }
    return {};
  }

  // An HF name of the rule that the ignore covers; "" without one.
  std::string ReadBy(const ParamRule& rule, const IgnoreRule& ignore) const {
    std::vector<std::string> prefixes;
    if (rule.stacks.empty()) prefixes.emplace_back();
    for (const StackRule& stack : spec_.stacks) {
      if (!IsOf(rule.stacks, stack)) continue;
      if (ignore.stacks.empty() || IsOf(ignore.stacks, stack)) prefixes.push_back(stack.hf);
    }
    for (const std::string& prefix : prefixes) {
      const std::string ignored = ignore.stacks.empty() ? ignore.hf : prefix + ignore.hf;
      const bool beginning = ignore.stacks.empty() && ignore.hf.ends_with('.');
      for (const HfStorage& storage : rule.storage) {
        for (const std::string& name : storage.names) {
          const std::string full = prefix + name;
          if (beginning ? full.starts_with(ignored) : full == ignored) return full;
        }
      }
    }
    return "";
  }

  // -- values --

  Status ShapeOf(const ParamRule& rule) const {
    if (!rule.when.empty() && signs_.NeverPositive(rule.when)) return {};  // not in this family
    for (const std::string& extent : rule.shape) {
      if (!signs_.NeverPositive(extent)) continue;
      return BadFamily(spec_,
                       fmt::format("[[param]] '{}': the extent '{}' of its shape is never positive",
                                   rule.megatron, extent),
                       rule.line);
    }
    return {};
  }

  Status Rule(const std::string& group, const LayerRule& rule) const {
    const auto n = rule.arguments.find("n");
    if (rule.rule == "every_n" && n != rule.arguments.end() && signs_.NeverPositive(n->second)) {
      return BadFamily(spec_,
                       fmt::format("[layer_kinds.{}]: rule every_n has n = {}, which is never "
                                   "positive",
                                   group, n->second));
    }
    for (const LayerRule& inner : rule.fallback) WB_RETURN_IF_ERROR(Rule(group, inner));
    for (const auto& [name, inner] : rule.stacks) {
      const StackRule* stack = StackOf(name);
      if (stack != nullptr && stack->kinds.contains(group)) {
        return BadFamily(spec_,
                         fmt::format("[layer_kinds.{}.stacks.{}] is never used: [[stack]] '{}' "
                                     "fixes that kind as '{}'",
                                     group, name, name, stack->kinds.at(group)));
      }
      WB_RETURN_IF_ERROR(Rule(group + ".stacks." + name, inner));
    }
    return {};
  }

  // -- kinds --

  // Whether layers of the stack can be of the kind, and whether all of them are, by its `kinds`.
  bool CanBe(const StackRule& stack, const std::string& kind) const {
    for (const auto& [group, rule] : spec_.layer_kinds) {
      if (const auto fixed = stack.kinds.find(group); fixed != stack.kinds.end()) {
        if (fixed->second == kind) return true;
        continue;
      }
      const auto own = rule.stacks.find(stack.name);
      if (own == rule.stacks.end() && stack.is_tower()) continue;
      LayerRule used = own == rule.stacks.end() ? rule : own->second;
      used.stacks.clear();
      if (Contains(PossibleKinds(used), kind)) return true;
    }
    return false;
  }

  bool AlwaysIs(const StackRule& stack, const std::string& kind) const {
    return std::any_of(spec_.layer_kinds.begin(), spec_.layer_kinds.end(), [&](const auto& entry) {
      const auto fixed = stack.kinds.find(entry.first);
      return fixed != stack.kinds.end() && fixed->second == kind;
    });
  }

  Status Reachable(const ParamRule& rule) const {
    if (rule.layers.empty()) return {};
    std::vector<std::string> stacks;
    for (const StackRule& stack : spec_.stacks) {
      if (!IsOf(rule.stacks, stack)) continue;
      const bool fits = std::all_of(rule.layers.begin(), rule.layers.end(), [&](const auto& kind) {
        return kind.starts_with("!") ? !AlwaysIs(stack, kind.substr(1)) : CanBe(stack, kind);
      });
      if (fits) return {};
      stacks.push_back(stack.name);
    }
    return BadFamily(
        spec_,
        fmt::format("[[param]] '{}' is of no layer: by the kinds of [[stack]] '{}' none "
                    "is {}",
                    rule.megatron, fmt::join(stacks, "', '"), fmt::join(rule.layers, " and ")),
        rule.line);
  }

  const FamilySpec& spec_;
  const Signs signs_;
};

}  // namespace

tl::unexpected<Error> BadFamily(const FamilySpec& spec, std::string what, int line) {
  return Fail(ErrorKind::kInvalid, "family-file", std::move(what),
              line > 0 ? fmt::format("{}:{}", spec.origin, line) : spec.origin,
              "docs/families.md describes every key");
}

Status LintStructure(const FamilySpec& spec) { return StructureLinter(spec).Run(); }

}  // namespace weighbridge
