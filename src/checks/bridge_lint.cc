#include "checks/bridge_lint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>

#include "base/strings.h"
#include "checks/effect_check.h"
#include "checks/mapping_classes.h"
#include "checks/megatron_config_check.h"
#include "formats/megatron_config/megatron_config.h"

namespace weighbridge {
namespace {

using Names = std::vector<std::string>;

Names NamesOf(const RuleSources& sources) {
  Names names;
  for (const auto& [role, name] : sources) names.push_back(name);
  return names;
}

bool SameSet(Names a, Names b) {
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  return a == b;
}

std::string Joined(const Names& names) { return fmt::format("{}", fmt::join(names, ", ")); }

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Numbers as *: one name for all layers and experts. Those of "linear_fc1" are part of a word.
std::string Stars(const std::string& names) {
  std::string out;
  for (size_t i = 0; i < names.size(); ++i) {
    const bool begins = IsDigit(names[i]) && (i == 0 || names[i - 1] == '.' ||
                                              out.ends_with("weight") || out.ends_with("bias"));
    size_t end = i;
    while (begins && end < names.size() && IsDigit(names[end])) ++end;
    const bool whole = begins && (end == names.size() || names[end] == '.' || names[end] == ',');
    out += whole ? '*' : names[i];
    if (whole) i = end - 1;
  }
  return out;
}

// What is wrong with one rule, or with none: collected over the parameters that show it.
struct Finding {
  std::string id, message, hint;
  const RegistryRule* rule = nullptr;
  std::string evidence;  // of the first parameter
  Names parameters;      // Megatron names
  // A mistake of one rule is one finding, however many parameters show it.
  auto Key() const {
    return rule == nullptr ? std::tuple(id, SIZE_MAX, message)
                           : std::tuple(id, rule->number, std::string());
  }
};

class Findings {
 public:
  void Add(Finding finding) {
    const auto [at, is_new] = index_.emplace(finding.Key(), found_.size());
    if (is_new) {
      found_.push_back(std::move(finding));
    } else {
      Names& there = found_[at->second].parameters;
      there.insert(there.end(), finding.parameters.begin(), finding.parameters.end());
    }
  }

  // One cause per rule: each is a mistake of its own.
  void AddTo(Report& report) const {
    for (const Finding& f : found_) {
      Names where;
      if (f.rule != nullptr) where.push_back(f.rule->Text());
      where.insert(where.end(), f.parameters.begin(), f.parameters.end());
      report.causes.push_back({f.id, Proof::kStructural, Origin::kConfig, std::move(where),
                               f.message, f.evidence, f.hint});
    }
  }

 private:
  std::vector<Finding> found_;
  std::map<std::tuple<std::string, size_t, std::string>, size_t> index_;
};

// Which rules were the first to match some tensor, and which could have been.
class RuleUse {
 public:
  explicit RuleUse(const BridgeDump& dump) : dump_(dump), used_(dump.rules.size()) {}

  const RegistryRule* Take(const std::string& name) {
    const RegistryRule* rule = FirstRule(dump_, name);
    if (rule != nullptr) used_[rule->number] = true;
    return rule;
  }

  bool used(const RegistryRule& rule) const { return used_[rule.number]; }

  // A rule that matches nothing of the model although it reads `hf`, or would but for a number in
  // its pattern: meant for them. Rules for `other_spec`, the parameter's name under another module
  // spec, have their reason to match nothing.
  const RegistryRule* MeantFor(const Names& hf, const std::string& other_spec) const {
    for (const RegistryRule& rule : dump_.rules) {
      if (used_[rule.number] || MatchRule(rule.megatron, other_spec)) continue;
      for (const auto& [role, pattern] : rule.hf) {
        if (std::any_of(hf.begin(), hf.end(), [&p = pattern](const std::string& name) {
              return MatchRule(p, name).has_value() || Stars(p) == Stars(name);
            })) {
          return &rule;
        }
      }
    }
    return nullptr;
  }

  int64_t unused() const { return std::count(used_.begin(), used_.end(), false); }

 private:
  const BridgeDump& dump_;
  std::vector<bool> used_;
};

ResultRow RowOf(const std::string& name, const Shape& shape, const Names& hf) {
  ResultRow row;
  row.megatron = {name, shape, std::nullopt};
  for (const std::string& tensor : hf) row.hf.push_back({tensor, {}, std::nullopt});
  row.metrics = NotCompared();
  return row;
}

void Describe(const BridgeDump& dump, Report& report) {
  report.command = "families lint";
  report.level = "L0";
  report.details.emplace_back("bridge", dump.bridge);
  report.details.emplace_back("rules", fmt::format("{}", dump.rules.size()));
  for (const std::string& note : dump.notes) report.unproven.push_back(note);
  report.unproven.emplace_back(
      "rules and classes were judged by their names: no weight was moved. "
      "weighbridge.weights_verification_table judges what a live model holds");
}

void NoteUnused(const RuleUse& use, const BridgeDump& dump, Report& report) {
  if (use.unused() == 0) return;
  Names names;
  for (const RegistryRule& rule : dump.rules) {
    if (!use.used(rule) && names.size() < 5) names.push_back(rule.Text());
  }
  report.notes.push_back(
      {"rules-unused",
       fmt::format("{} of {} rules take no tensor of this model: {}{}", use.unused(),
                   dump.rules.size(), Joined(names), use.unused() > 5 ? ", ..." : "")});
}

// -- against a family --

class FamilyLint {
 public:
  FamilyLint(const Model& model, const BridgeDump& dump, Report& report)
      : model_(model), dump_(dump), use_(dump), report_(report) {
    if (!dump.megatron) return;
    for (const DumpedTensor& tensor : *dump.megatron) live_.insert(tensor.name);
  }

  void Run() {
    // First who takes what, so that a rule without a tensor is known when one is missing.
    std::vector<std::pair<std::string, const RegistryRule*>> taken;
    for (const Parameter& p : model_.parameters()) taken.push_back(Take(p));
    for (size_t i = 0; i < taken.size(); ++i) {
      Judge(model_.parameters()[i], taken[i].first, taken[i].second);
    }
    findings_.AddTo(report_);
    for (const std::string& text : unproven_) report_.unproven.push_back(text);
    NoteUnused(use_, dump_, report_);
  }

 private:
  // Under the name that the live model has, where one was inspected; else that of Megatron's own
  // default spec.
  std::pair<std::string, const RegistryRule*> Take(const Parameter& p) {
    std::string name = model_.MegatronName(p, Dialect::kTe);
    if (dump_.megatron && !live_.contains(name)) {
      std::string local = model_.MegatronName(p, Dialect::kLocal);
      if (live_.contains(local)) name = std::move(local);
    }
    const RegistryRule* rule = use_.Take(name);
    return {std::move(name), rule};
  }

  void Judge(const Parameter& p, const std::string& name, const RegistryRule* rule) {
    ResultRow row = RowOf(name, p.shape, p.hf);
    row.transform = p.storage->transform;
    row.op = std::string(ToString(p.op));
    const std::optional<Finding> finding =
        rule == nullptr ? std::optional(Missing(p)) : Wrong(p, name, *rule);
    if (finding) {
      row.status = rule == nullptr ? RowStatus::kMissing : RowStatus::kMismatch;
      row.why = finding->message;
      Finding found = *finding;
      found.parameters = {name};
      findings_.Add(std::move(found));
    }
    report_.results.push_back(std::move(row));
  }

  Finding Missing(const Parameter& p) {
    const std::string pattern = model_.MegatronPattern(p, Dialect::kTe);
    if (const RegistryRule* meant = use_.MeantFor(p.hf, model_.MegatronName(p, Dialect::kLocal))) {
      return {"rule-dead",
              fmt::format("{} matches no parameter of the model, and {} has no rule", meant->Text(),
                          pattern),
              fmt::format("its Megatron pattern should match {}", pattern), meant,
              fmt::format("it reads {}", Joined(NamesOf(meant->hf)))};
    }
    return {"rule-missing",
            fmt::format("no rule takes {}: it is never loaded, and {} {} lost on export", pattern,
                        Stars(Joined(p.hf)), p.hf.size() == 1 ? "is" : "are"),
            "add a rule for it", nullptr, ""};
  }

  std::optional<Finding> Wrong(const Parameter& p, const std::string& name,
                               const RegistryRule& rule) {
    const RuleSources sources = *SourcesOf(rule, name);
    const Names read = NamesOf(sources);
    if (!SameSet(read, p.hf)) return WrongNames(p, name, rule, read);
    for (const std::string& code : {rule.importer, rule.exporter}) {
      const MappingClass* known = FindMappingClass(code);
      if (known == nullptr) {
        unproven_.insert(fmt::format("{} converts by code of its own, which was not judged", code));
        continue;
      }
      if (auto wrong = WrongClass(p, rule, *known)) return wrong;
      if (auto wrong = WrongRoles(p, rule, *known, sources)) return wrong;
    }
    return std::nullopt;
  }

  Finding WrongNames(const Parameter& p, const std::string& name, const RegistryRule& rule,
                     const Names& read) {
    const std::string evidence =
        fmt::format("{}: it reads {}, the model has {}", name, Joined(read), Joined(p.hf));
    for (const RegistryRule* later = FirstRule(dump_, name, rule.number + 1); later != nullptr;
         later = FirstRule(dump_, name, later->number + 1)) {
      if (!SameSet(NamesOf(*SourcesOf(*later, name)), p.hf)) continue;
      return {"rule-shadowed",
              fmt::format("{} is never reached: {} comes before it and matches as well",
                          later->Text(), rule.Text()),
              "make the earlier pattern narrower, or move the later rule before it", &rule,
              evidence};
    }
    return {"rule-hf-name",
            fmt::format("{} reads other Hugging Face tensors than those of {}", rule.Text(),
                        model_.MegatronPattern(p, Dialect::kTe)),
            fmt::format("its Hugging Face names should match {}", Joined(p.hf)), &rule, evidence};
  }

  bool Transposed(const Parameter& p) const {
    const auto option = p.storage->options.find("transposed");
    return option != p.storage->options.end() && option->second == "true";
  }

  std::optional<Finding> WrongClass(const Parameter& p, const RegistryRule& rule,
                                    const MappingClass& known) {
    const auto wrong = [&](const std::string& what, const std::string& evidence) {
      return Finding{"rule-class", fmt::format("{} {}", rule.Text(), what),
                     "use the mapping class that does what the evidence asks for", &rule, evidence};
    };
    const std::string& transform = p.storage->transform;
    if (std::find(known.transforms.begin(), known.transforms.end(), transform) ==
        known.transforms.end()) {
      return wrong(fmt::format("does not do the transform '{}'", transform),
                   fmt::format("{} does: {}", known.name, fmt::join(known.transforms, ", ")));
    }
    if (known.op != p.op) {
      return wrong(known.op == Op::kNone ? "does not change values, which this norm needs"
                                         : "changes values, which are stored alike on both sides",
                   fmt::format("op '{}' is needed, {} does '{}'", ToString(p.op), known.name,
                               ToString(known.op)));
    }
    if (transform == "identity" && p.shape.size() == 2 && rule.transposes != Transposed(p)) {
      return wrong(rule.transposes ? "transposes a tensor that lies alike on both sides"
                                   : "does not transpose a tensor that Megatron has transposed",
                   fmt::format("Megatron's shape is {}", ToString(p.shape)));
    }
    if (auto cut = WrongCut(p, rule, known)) return cut;
    return AmbiguousShape(p, rule, known);
  }

  std::optional<Finding> WrongCut(const Parameter& p, const RegistryRule& rule,
                                  const MappingClass& known) {
    static constexpr std::string_view kText[] = {"any way", "along its rows", "along its columns",
                                                 "not at all"};
    const MappingCut needed = p.cut.replicated() ? MappingCut::kReplicated
                              : p.cut.axis == 0  ? MappingCut::kColumn
                                                 : MappingCut::kRow;
    // Row-parallel layers keep their biases whole.
    const bool row_bias =
        known.cut == MappingCut::kRow && p.shape.size() == 1 && needed == MappingCut::kReplicated;
    if (known.cut == MappingCut::kAny || known.cut == needed || row_bias) return std::nullopt;
    return Finding{
        "rule-class",
        fmt::format("{} cuts the tensor {} over tensor-parallel ranks, the module is cut {}",
                    rule.Text(), kText[static_cast<size_t>(known.cut)],
                    kText[static_cast<size_t>(needed)]),
        "use AutoMapping, or the class of the module's cut", &rule,
        fmt::format("{} for a tensor of shape {}", known.name, ToString(p.shape))};
  }

  // A tensor that fits as it is and transposed.
  std::optional<Finding> AmbiguousShape(const Parameter& p, const RegistryRule& rule,
                                        const MappingClass& known) {
    if (!known.guesses_transpose || p.shape.size() != 2) return std::nullopt;
    const auto plan = model_.Plan(p);
    if (!plan || plan->sources.empty() || plan->sources[0].shape.size() < 2) return std::nullopt;
    const Shape& hf = plan->sources[0].shape;
    const auto option = p.storage->options.find("transposed");
    const bool transposed = option != p.storage->options.end();
    if (hf[hf.size() - 1] != hf[hf.size() - 2] || !transposed) return std::nullopt;
    return Finding{
        "rule-by-shape",
        fmt::format("{} tells by the shape whether to transpose, and this tensor is square: it is "
                    "taken as it is",
                    rule.Text()),
        "transpose by the family's convention, not by shape", &rule,
        fmt::format("{} has the shape {}", p.hf[0], ToString(hf))};
  }

  std::optional<Finding> WrongRoles(const Parameter& p, const RegistryRule& rule,
                                    const MappingClass& known, const RuleSources& sources) {
    if (known.roles.size() != p.hf.size()) return std::nullopt;
    for (size_t i = 0; i < known.roles.size(); ++i) {
      const auto there = std::find_if(sources.begin(), sources.end(), [&](const auto& source) {
        return source.first == known.roles[i];
      });
      if (there == sources.end() || there->second == p.hf[i]) continue;
      return Finding{
          "rule-roles",
          fmt::format("{} reads its Hugging Face tensors in exchanged roles", rule.Text()),
          fmt::format("'{}' should be {}", known.roles[i], p.hf[i]), &rule,
          fmt::format("'{}' is {}", known.roles[i], there->second)};
    }
    return std::nullopt;
  }

  const Model& model_;
  const BridgeDump& dump_;
  RuleUse use_;
  std::set<std::string> live_;
  Findings findings_;
  std::set<std::string> unproven_;
  Report& report_;
};

void LintProvider(const Model& model, const BridgeDump& dump, const RuntimeChoice& runtime,
                  Report& report) {
  if (dump.provider.is_null()) {
    report.unproven.emplace_back(
        "the provider's fields are not in the dump: configs were not "
        "compared");
    return;
  }
  const auto run_config = RunConfigOf({{"model", dump.provider}}, "the provider");
  if (!run_config) return;  // it is a table: ParseBridgeDump
  MegatronConfig config = ConfigOfRunConfig(*run_config);
  config.origin = "the provider";
  const bool by_effect = CompareEffects(model, config, runtime, /*without_mtp=*/false, report);
  CheckMegatronConfig(model, config, by_effect, report);
}

// -- against inventories alone --

class InventoryLint {
 public:
  InventoryLint(const BridgeDump& dump, Report& report) : dump_(dump), use_(dump), report_(report) {
    for (const DumpedTensor& tensor : *dump.hf) hf_.emplace(tensor.name, tensor.shape);
  }

  void Run() {
    std::vector<const RegistryRule*> taken;
    for (const DumpedTensor& tensor : *dump_.megatron) taken.push_back(use_.Take(tensor.name));
    for (size_t i = 0; i < taken.size(); ++i) Judge((*dump_.megatron)[i], taken[i]);
    JudgeUnread();
    findings_.AddTo(report_);
    NoteUnused(use_, dump_, report_);
  }

 private:
  void Judge(const DumpedTensor& tensor, const RegistryRule* rule) {
    const Names read = rule == nullptr ? Names() : NamesOf(*SourcesOf(*rule, tensor.name));
    ResultRow row = RowOf(tensor.name, tensor.shape, read);
    std::optional<Finding> finding =
        rule == nullptr ? std::optional(Missing(tensor)) : Wrong(tensor, *rule, read);
    if (finding) {
      row.status = rule == nullptr ? RowStatus::kMissing : RowStatus::kMismatch;
      row.why = finding->message;
      finding->parameters = {tensor.name};
      findings_.Add(*std::move(finding));
    }
    report_.results.push_back(std::move(row));
  }

  Finding Missing(const DumpedTensor& tensor) {
    return {"rule-missing", fmt::format("no rule takes {}", Stars(tensor.name)),
            "add a rule for it, or mend the pattern of one that takes nothing", nullptr, ""};
  }

  std::optional<Finding> Wrong(const DumpedTensor& tensor, const RegistryRule& rule,
                               const Names& read) {
    for (const std::string& name : read) {
      if (hf_.contains(name)) continue;
      return Finding{
          "rule-hf-name",
          fmt::format("{} reads a Hugging Face tensor that the model has not", rule.Text()),
          "mend its Hugging Face pattern", &rule, fmt::format("{} reads {}", tensor.name, name)};
    }
    for (const std::string& name : read) {
      const auto [first, is_new] = readers_.emplace(name, tensor.name);
      if (is_new || Stars(first->second) == Stars(tensor.name) || IsTie(tensor, first->second)) {
        // Stacked experts share a tensor; layers never do.
        if (is_new || hf_.at(name).size() > 2 || IsTie(tensor, first->second)) continue;
      }
      return Finding{
          "rule-double",
          fmt::format("{} reads a Hugging Face tensor that another parameter reads", rule.Text()),
          "one of the two names the wrong tensor", &rule,
          fmt::format("{} is read for {} and for {}", name, first->second, tensor.name)};
    }
    return WrongSize(tensor, rule, read);
  }

  static bool IsTie(const DumpedTensor& tensor, const std::string& other) {
    const auto outer = [](const std::string& name) {
      return name.ends_with("output_layer.weight") || name.ends_with("word_embeddings.weight");
    };
    return outer(tensor.name) && outer(other);
  }

  // A class that takes one tensor cannot make a larger one of it, nor one of several a smaller one.
  std::optional<Finding> WrongSize(const DumpedTensor& tensor, const RegistryRule& rule,
                                   const Names& read) {
    const bool padded = tensor.name.ends_with("output_layer.weight") ||
                        tensor.name.ends_with("word_embeddings.weight");
    int64_t elements = 0;
    std::string shapes;
    for (const std::string& name : read) {
      const Shape& shape = hf_.at(name);
      if (shape.size() > 2) return std::nullopt;  // of experts, one each
      elements += Numel(shape);
      shapes += (shapes.empty() ? "" : ", ") + ToString(shape);
    }
    if (padded || elements == Numel(tensor.shape)) return std::nullopt;
    return Finding{
        "rule-class",
        fmt::format("{} cannot make the Megatron tensor of what it reads", rule.Text()),
        "use a mapping class that joins all tensors of the parameter", &rule,
        fmt::format("{} is {}, read is {}", tensor.name, ToString(tensor.shape), shapes)};
  }

  // Hugging Face tensors that no Megatron tensor needs are lost by a round trip.
  void JudgeUnread() {
    std::map<std::string, std::string> unread;  // by pattern, the first of them
    for (const auto& [name, shape] : hf_) {
      if (!readers_.contains(name)) unread.emplace(Stars(name), name);
    }
    for (const auto& [pattern, first] : unread) {
      const RegistryRule* meant = use_.MeantFor({first}, "");
      findings_.Add({meant == nullptr ? "rule-missing" : "rule-dead",
                     meant == nullptr
                         ? fmt::format("no rule reads {}", pattern)
                         : fmt::format("{} would read {}, but matches no Megatron tensor",
                                       meant->Text(), pattern),
                     meant == nullptr ? "add a rule for it" : "mend its Megatron pattern",
                     meant,
                     "",
                     {first}});
    }
  }

  const BridgeDump& dump_;
  RuleUse use_;
  Report& report_;
  Findings findings_;
  std::map<std::string, Shape> hf_;
  std::map<std::string, std::string> readers_;  // HF name -> the first that reads it
};

}  // namespace

Report LintBridge(const Model& model, const BridgeDump& dump, const RuntimeChoice& runtime) {
  Report report;
  Describe(dump, report);
  report.details.emplace_back("family", model.spec().name);
  FamilyLint(model, dump, report).Run();
  LintProvider(model, dump, runtime, report);
  return report;
}

Result<Report> LintInventories(const BridgeDump& dump) {
  if (!dump.hf || !dump.megatron) {
    return Fail(ErrorKind::kUsage, "inventory-missing",
                fmt::format("no family describes the model, and the dump lacks the names of the {} "
                            "side",
                            !dump.hf ? "Hugging Face" : "Megatron"),
                "", "give hf= and model= to inspect_bridge");
  }
  Report report;
  Describe(dump, report);
  report.unproven.emplace_back(
      "no family describes the model: the order of rows within a tensor, "
      "and the provider's fields, were not judged");
  InventoryLint(dump, report).Run();
  return report;
}

bool HasRuleFor(const BridgeDump& dump, const std::string& hf_name) {
  return std::any_of(dump.rules.begin(), dump.rules.end(), [&](const RegistryRule& rule) {
    return std::any_of(rule.hf.begin(), rule.hf.end(), [&](const auto& source) {
      return MatchRule(source.second, hf_name).has_value();
    });
  });
}

}  // namespace weighbridge
