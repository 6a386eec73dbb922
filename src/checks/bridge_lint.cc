#include "checks/bridge_lint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <set>

#include "base/strings.h"
#include "checks/bridge_findings.h"
#include "checks/effect_check.h"
#include "checks/mapping_classes.h"
#include "checks/megatron_config_check.h"
#include "checks/rule_code.h"
#include "formats/megatron_config/megatron_config.h"

namespace weighbridge {
namespace {

bool SameSet(Names a, Names b) {
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  return a == b;
}

class FamilyLint {
 public:
  FamilyLint(const Model& model, const BridgeDump& dump, Report& report)
      : model_(model), dump_(dump), check_(dump, report) {
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
    check_.Finish();
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
    const RegistryRule* rule = check_.use().Take(name);
    return {std::move(name), rule};
  }

  void Judge(const Parameter& p, const std::string& name, const RegistryRule* rule) {
    ResultRow row = RowOf(name, p.shape, p.hf);
    row.transform = p.storage->transform;
    row.op = std::string(ToString(p.op));
    std::optional<Finding> finding =
        rule == nullptr ? std::optional(Missing(p)) : Wrong(p, name, *rule, row);
    check_.Close(rule, std::move(finding), std::move(row));
  }

  Finding Missing(const Parameter& p) {
    const std::string pattern = model_.MegatronPattern(p, Dialect::kTe);
    if (const RegistryRule* meant =
            check_.use().MeantFor(p.hf, model_.MegatronName(p, Dialect::kLocal))) {
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

  // Sets the row's status where nothing can be said.
  std::optional<Finding> Wrong(const Parameter& p, const std::string& name,
                               const RegistryRule& rule, ResultRow& row) {
    if (!rule.raised.empty()) return Raised(rule);
    const RuleSources sources = *SourcesOf(rule, name);
    const Names read = NamesOf(sources);
    if (!SameSet(read, p.hf)) return WrongNames(p, name, rule, read);
    // What is wrong by its class may be mended by what it holds: nothing is said then.
    const MappingClass* changed = ClassThatItChanges(rule);
    if (changed != nullptr && !WrongAs(*changed, p, rule, sources)) return HeldFinding(rule);
    const MappingClass* known = check_.ClassOf(rule, row);
    return known == nullptr ? std::nullopt : WrongAs(*known, p, rule, sources);
  }

  std::optional<Finding> WrongAs(const MappingClass& known, const Parameter& p,
                                 const RegistryRule& rule, const RuleSources& sources) {
    if (auto wrong = WrongClass(p, rule, known)) return wrong;
    if (auto wrong = WrongRoleNames(rule, known)) return wrong;
    return WrongRoles(p, rule, known, sources);
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

  static bool Flag(const Parameter& p, const std::string& name) {
    const auto option = p.storage->options.find(name);
    return option != p.storage->options.end() && option->second == "true";
  }

  static Finding ClassFinding(const RegistryRule& rule, const std::string& what,
                              std::string evidence) {
    return {"rule-class", fmt::format("{} {}", rule.Text(), what),
            "use the mapping class that does what the evidence asks for", &rule,
            std::move(evidence)};
  }

  std::optional<Finding> WrongClass(const Parameter& p, const RegistryRule& rule,
                                    const MappingClass& known) {
    const std::string& transform = p.storage->transform;
    if (std::find(known.transforms.begin(), known.transforms.end(), transform) ==
        known.transforms.end()) {
      return ClassFinding(
          rule, fmt::format("does not do the transform '{}'", transform),
          fmt::format("{} does: {}", known.name, fmt::join(known.transforms, ", ")));
    }
    if (NeedsHook(transform) && !check_.hooks().Does(transform)) {
      return ClassFinding(rule, fmt::format("does not do the transform '{}'", transform),
                          "Megatron Bridge does it in maybe_modify_loaded_hf_weight and "
                          "maybe_modify_converted_hf_weight, which this bridge has not");
    }
    if (known.op != p.op) {
      return ClassFinding(rule,
                          known.op == Op::kNone
                              ? "does not change values, which this norm needs"
                              : "changes values, which are stored alike on both sides",
                          fmt::format("op '{}' is needed, {} does '{}'", ToString(p.op), known.name,
                                      ToString(known.op)));
    }
    if (auto order = WrongOrder(p, rule, known)) return order;
    if (auto transposed = WrongTransposition(p, rule, known)) return transposed;
    if (auto cut = WrongCut(p, rule, known)) return cut;
    return AmbiguousShape(p, rule, known);
  }

  // Axes and rows besides transposition.
  std::optional<Finding> WrongOrder(const Parameter& p, const RegistryRule& rule,
                                    const MappingClass& known) {
    if (Flag(p, "interleaved") != known.interleaved) {
      return ClassFinding(rule,
                          known.interleaved
                              ? "takes gate and up for alternating, which they are not"
                              : "takes gate and up for halves, and they alternate",
                          fmt::format("{} has both in {}", p.hf[0], known.name));
    }
    const bool stacked = p.storage->transform.starts_with("expert");
    if (rule.gathers_on_export != stacked) {
      return ClassFinding(rule,
                          stacked ? "does not gather all experts into one tensor on export"
                                  : "gathers experts into one tensor on export, and this is none",
                          fmt::format("is_grouped_export is {}", rule.gathers_on_export));
    }
    const bool squeezed = p.storage->transform == "identity" && Flag(p, "squeeze");
    if (squeezed != known.squeezes && (squeezed || p.storage->transform == "identity")) {
      return ClassFinding(rule,
                          known.squeezes ? "drops a leading axis that is not there"
                                         : "does not drop the leading axis of extent 1",
                          fmt::format("Megatron's shape is {}", ToString(p.shape)));
    }
    return std::nullopt;
  }

  std::optional<Finding> WrongTransposition(const Parameter& p, const RegistryRule& rule,
                                            const MappingClass& known) {
    const std::string shape = fmt::format("Megatron's shape is {}", ToString(p.shape));
    if (const std::string axes = OddAxes(p, rule, known); !axes.empty()) {
      return ClassFinding(rule, axes, shape);
    }
    const bool needed = p.shape.size() == 2 && Flag(p, "transposed");
    if (known.transposing == Transposing::kArgument && p.shape.size() == 2 &&
        Exchanges(rule) != needed) {
      return ClassFinding(rule,
                          needed ? "does not transpose a tensor that Megatron has transposed"
                                 : "transposes a tensor that lies alike on both sides",
                          shape);
    }
    return WrongExport(rule, known, needed, shape);
  }

  // What transpose_on_export does beside permute_dims, of classes that export all experts in one.
  static std::optional<Finding> WrongExport(const RegistryRule& rule, const MappingClass& known,
                                            bool needed, const std::string& shape) {
    const bool by_shape = known.transposing == Transposing::kByShape;
    if (by_shape && needed && !rule.transposes_on_export) {
      return ClassFinding(rule, "does not transpose on export what it transposes on import",
                          shape + "; transpose_on_export is not set");
    }
    const bool twice = !by_shape || !needed;
    if (rule.transposes_on_export && rule.gathers_on_export && twice) {
      return ClassFinding(
          rule, "transposes on export what lies alike",
          shape +
              "; transpose_on_export is set, and only where the original is at hand are "
              "shapes compared first");
    }
    return std::nullopt;
  }

  static bool Exchanges(const RegistryRule& rule) {
    return AxesOf(rule.permute_dims, 2) == std::vector<size_t>{1, 0};
  }

  // permute_dims that no tensor of this shape can have, or that its class does not look at; empty:
  // none of that.
  static std::string OddAxes(const Parameter& p, const RegistryRule& rule,
                             const MappingClass& known) {
    if (rule.permute_dims.empty()) return "";
    const std::string given =
        fmt::format("has permute_dims ({})", fmt::join(rule.permute_dims, ", "));
    if (known.transposing != Transposing::kArgument) {
      return known.transposing == Transposing::kByShape || known.transposing == Transposing::kNever
                 ? given + ", which its class does not look at"
                 : given + " besides what its class transposes by itself";
    }
    const auto axes = AxesOf(rule.permute_dims, p.shape.size());
    if (!axes) return given + ", and the tensor has other axes";
    const bool same = std::is_sorted(axes->begin(), axes->end());
    return same || axes->size() == 2 ? "" : given + ", and the tensor lies alike on both sides";
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
    if (auto told = WrongTold(p, rule, needed)) return told;
    if (known.cut != MappingCut::kAny && known.cut != needed && !row_bias) {
      return Finding{
          "rule-class",
          fmt::format("{} cuts the tensor {} over tensor-parallel ranks, the module is cut {}",
                      rule.Text(), kText[static_cast<size_t>(known.cut)],
                      kText[static_cast<size_t>(needed)]),
          "use AutoMapping, or the class of the module's cut", &rule,
          fmt::format("{} for a tensor of shape {}", known.name, ToString(p.shape))};
    }
    return WrongParts(p, rule, known);
  }

  // A class that cuts as the module is cut, and has been told how before it saw one.
  static std::optional<Finding> WrongTold(const Parameter& p, const RegistryRule& rule,
                                          MappingCut needed) {
    const bool whole = needed == MappingCut::kReplicated;
    const std::string_view right = whole                           ? "replicated"
                                   : needed == MappingCut::kColumn ? "column"
                                                                   : "row";
    for (const std::string& cut : rule.cuts) {
      if (cut == right || (cut == "row" && whole && p.shape.size() == 1)) continue;
      return ClassFinding(
          rule, fmt::format("has been told that the module is cut by '{}', which it is not", cut),
          fmt::format("'{}' is right for a tensor of shape {}", right, ToString(p.shape)));
    }
    return std::nullopt;
  }

  // Gate and up, or the parts of a mixer, are each cut over ranks.
  static std::optional<Finding> WrongParts(const Parameter& p, const RegistryRule& rule,
                                           const MappingClass& known) {
    const size_t parts = p.cut.components.size();
    if (known.packing == Packing::kEven && parts > 1) {
      return ClassFinding(
          rule, "cuts a tensor of several parts as if it were one: ranks get mixtures of them",
          fmt::format("{} is cut over tensor-parallel ranks in {} parts of {} rows", p.hf[0], parts,
                      fmt::join(p.cut.components, ", ")));
    }
    if (known.packing == Packing::kParts && parts <= 1) {
      return ClassFinding(
          rule, "cuts a tensor of one part as if it had several",
          fmt::format("{} for a tensor of shape {}", known.name, ToString(p.shape)));
    }
    return std::nullopt;
  }

  // A tensor that fits as it is and transposed.
  std::optional<Finding> AmbiguousShape(const Parameter& p, const RegistryRule& rule,
                                        const MappingClass& known) {
    const bool by_shape =
        known.transposing == Transposing::kByShape || known.transposing == Transposing::kOwn;
    if (!by_shape || p.shape.size() != 2 || !Flag(p, "transposed")) return std::nullopt;
    const auto plan = model_.Plan(p);
    if (!plan || plan->sources.empty() || plan->sources[0].shape.size() < 2) return std::nullopt;
    const Shape& hf = plan->sources[0].shape;
    if (hf[hf.size() - 1] != hf[hf.size() - 2]) return std::nullopt;
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
  RuleCheck check_;
  std::set<std::string> live_;
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

}  // namespace

Report LintBridge(const Model& model, const BridgeDump& dump, const RuntimeChoice& runtime) {
  Report report;
  DescribeBridge(dump, report);
  report.details.emplace_back("family", model.spec().name);
  FamilyLint(model, dump, report).Run();
  LintProvider(model, dump, runtime, report);
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
