#include "checks/bridge_findings.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/strings.h"
#include "checks/rule_code.h"

namespace weighbridge {
namespace {

// The two methods that Megatron Bridge made for this, and inspect_bridge tries.
bool IsTried(const BridgeHook& hook) { return hook.method.starts_with("maybe_modify_"); }

std::string TrialText(const RegistryRule& rule) {
  const RuleTrial& trial = rule.trial;
  if (!trial.untried.empty()) return fmt::format("not tried on made-up tensors: {}", trial.untried);
  if (trial.like.empty()) return "not tried on made-up tensors";
  return trial.changed.empty()
             ? fmt::format("to made-up tensors of one rank it does what {} does", trial.like)
             : fmt::format("{} does otherwise with made-up tensors: it {}", trial.like,
                           trial.changed);
}

std::string HeldAndTried(const RegistryRule& rule) {
  return fmt::format("holds mappings that its class does not build, which were not judged: {}; {}",
                     HeldText(rule), TrialText(rule));
}

}  // namespace

Names NamesOf(const RuleSources& sources) {
  Names names;
  for (const auto& [role, name] : sources) names.push_back(name);
  return names;
}

std::string Joined(const Names& names) { return fmt::format("{}", fmt::join(names, ", ")); }

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

void Findings::Add(Finding finding) {
  const auto [at, is_new] = index_.emplace(finding.Key(), found_.size());
  if (is_new) {
    found_.push_back(std::move(finding));
  } else {
    Names& there = found_[at->second].parameters;
    there.insert(there.end(), finding.parameters.begin(), finding.parameters.end());
  }
}

void Findings::AddTo(Report& report) const {
  for (const Finding& f : found_) {
    Names where;
    if (f.rule != nullptr) where.push_back(f.rule->Text());
    where.insert(where.end(), f.parameters.begin(), f.parameters.end());
    report.causes.push_back({f.id, Proof::kStructural, Origin::kConfig, std::move(where), f.message,
                             f.evidence, f.hint});
  }
}

const RegistryRule* RuleUse::Take(const std::string& name) {
  const RegistryRule* rule = FirstRule(dump_, name);
  if (rule != nullptr) used_[rule->number] = true;
  return rule;
}

const RegistryRule* RuleUse::MeantFor(const Names& hf, const std::string& other_spec) const {
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

void RuleUse::NoteUnused(Report& report) const {
  const auto unused = std::count(used_.begin(), used_.end(), false);
  if (unused == 0) return;
  Names names;
  for (const RegistryRule& rule : dump_.rules) {
    if (!used_[rule.number] && names.size() < 5) names.push_back(rule.Text());
  }
  report.notes.push_back(
      {"rules-unused", fmt::format("{} of {} rules take no tensor of this model: {}{}", unused,
                                   dump_.rules.size(), Joined(names), unused > 5 ? ", ..." : "")});
}

std::optional<Finding> HookUse::Judge(const RegistryRule& rule, std::optional<Finding> of_rule,
                                      ResultRow& row) const {
  for (const BridgeHook& hook : dump_.hooks) {
    if (FindKnownHook(hook.code) != nullptr || !IsTried(hook)) continue;
    const auto changed = hook.changed.find(rule.number);
    if (row.status == RowStatus::kSkipped) return of_rule;
    if (changed != hook.changed.end() && of_rule) {
      row.status = RowStatus::kSkipped;
      row.why =
          fmt::format("{} changes it, which may make up for this: {}", hook.code, of_rule->message);
      return std::nullopt;
    }
    if (changed != hook.changed.end()) {
      return Finding{"rule-hook",
                     fmt::format("{} changes the weights of {}", hook.code, rule.Text()),
                     "leave the weights of the rule alone, or let a mapping class do it in both "
                     "directions",
                     &rule, fmt::format("of made-up tensors it {}", changed->second)};
    }
    const auto untried = hook.untried.find(rule.number);
    if (untried != hook.untried.end() && !of_rule) {
      row.status = RowStatus::kSkipped;
      row.why = fmt::format("{} was not judged: {}", hook.code, untried->second);
    }
  }
  return of_rule;
}

bool HookUse::Does(std::string_view transform) const {
  const auto there =
      std::count_if(dump_.hooks.begin(), dump_.hooks.end(), [&](const BridgeHook& hook) {
        const KnownHook* known = FindKnownHook(hook.code);
        return known != nullptr && known->transform == transform;
      });
  return there == 2;
}

void HookUse::Describe(Report& report) const {
  for (const BridgeHook& hook : dump_.hooks) {
    if (const KnownHook* known = FindKnownHook(hook.code)) {
      report.notes.push_back({"bridge-hook", fmt::format("{} {}", hook.code, known->meaning)});
      continue;
    }
    report.unproven.push_back(
        IsTried(hook)
            ? fmt::format("{} stands between files and rules: it was tried on made-up tensors "
                          "alone, {} of {} rules without an answer",
                          hook.code, hook.untried.size(), dump_.rules.size())
            : fmt::format("{} takes the place of Megatron Bridge's own code, and was not judged",
                          hook.code));
  }
}

const MappingClass* RuleCheck::ClassOf(const RegistryRule& rule, ResultRow& row) {
  const MappingClass* known = KnownClassOf(rule);
  if (known != nullptr) return known;
  const Names own = OwnCodeOf(rule);
  row.status = RowStatus::kSkipped;
  if (rule.held.empty()) {
    row.why =
        fmt::format("{} runs code of its own, which was not judged: {}", rule.Text(), Joined(own));
  } else {
    row.why = fmt::format("{} {}", rule.Text(), HeldAndTried(rule));
    unproven_.insert(fmt::format("{} {}", rule.mapping_class, HeldAndTried(rule)));
  }
  for (const std::string& code : own) {
    unproven_.insert(fmt::format("{} is code of the bridge's own, which was not judged", code));
  }
  return nullptr;
}

void RuleCheck::JudgeResolved(const RegistryRule& rule, ResultRow& row) {
  if (row.status != RowStatus::kMatch || rule.resolved_args.empty()) return;
  row.status = RowStatus::kSkipped;
  row.why = fmt::format(
      "{} was judged by its own arguments, and makes a mapping with others for a parameter: {}",
      rule.Text(), rule.resolved_args);
  unproven_.insert(row.why);
}

void RuleCheck::Close(const RegistryRule* rule, std::optional<Finding> finding, ResultRow row) {
  if (rule != nullptr && rule->raised.empty()) {
    finding = hooks_.Judge(*rule, std::move(finding), row);
    if (!finding) JudgeResolved(*rule, row);
  }
  if (finding) {
    row.status = rule == nullptr ? RowStatus::kMissing : RowStatus::kMismatch;
    row.why = finding->message;
    finding->parameters = {row.megatron.name};
    findings_.Add(*std::move(finding));
  }
  report_.results.push_back(std::move(row));
}

void RuleCheck::Finish() {
  for (const RegistryRule& rule : dump_.rules) {
    if (!rule.raised.empty()) findings_.Add(Raised(rule));
  }
  findings_.AddTo(report_);
  for (const std::string& text : unproven_) report_.unproven.push_back(text);
  use_.NoteUnused(report_);
}

std::optional<std::vector<size_t>> AxesOf(const std::vector<int64_t>& permute_dims, size_t count) {
  if (permute_dims.size() != count) return std::nullopt;
  std::vector<size_t> axes;
  for (const int64_t dim : permute_dims) {
    const int64_t axis = dim + (dim < 0 ? static_cast<int64_t>(count) : 0);
    const bool there = axis >= 0 && axis < static_cast<int64_t>(count);
    if (!there || std::find(axes.begin(), axes.end(), axis) != axes.end()) return std::nullopt;
    axes.push_back(static_cast<size_t>(axis));
  }
  return axes;
}

ResultRow RowOf(const std::string& name, const Shape& shape, const Names& hf) {
  ResultRow row;
  row.megatron = {name, shape, std::nullopt};
  for (const std::string& tensor : hf) row.hf.push_back({tensor, {}, std::nullopt});
  row.metrics = NotCompared();
  return row;
}

void DescribeBridge(const BridgeDump& dump, Report& report) {
  report.command = "families lint";
  report.level = "L0";
  report.details.emplace_back("bridge", dump.bridge);
  report.details.emplace_back("rules", fmt::format("{}", dump.rules.size()));
  for (const std::string& note : dump.notes) report.unproven.push_back(note);
  if (!dump.left_out.empty()) {
    Names fields;
    for (const auto& [field, type] : dump.left_out) {
      fields.push_back(fmt::format("{} ({})", field, type));
    }
    report.unproven.push_back(fmt::format(
        "fields of the provider that are no plain values were not compared: {}", Joined(fields)));
  }
  report.unproven.emplace_back(
      "rules and classes were judged by their names: no weight was moved. "
      "weighbridge.weights_verification_table judges what a live model holds");
  HookUse(dump).Describe(report);
}

Finding Raised(const RegistryRule& rule) {
  const MappingClass* known = ClassByCode(rule);
  if (known != nullptr && !rule.hf.empty()) {
    if (auto roles = WrongRoleNames(rule, *known)) {
      roles->evidence += "; it raises " + rule.raised;
      return *roles;
    }
  }
  return {"rule-raises",
          fmt::format("{} raises when it is looked at", rule.Text()),
          "mend its names, its arguments or its resolve()",
          &rule,
          rule.raised,
          {}};
}

Finding HeldFinding(const RegistryRule& rule) {
  return {"rule-class",
          fmt::format("{} leaves the conversion to a mapping that its class does not build: {}",
                      rule.Text(), HeldText(rule)),
          "use the mapping class that does what is needed, without another one in it",
          &rule,
          fmt::format("{} is right here; beside it the rule {}, tried on made-up tensors",
                      rule.trial.like, rule.trial.changed),
          {}};
}

std::optional<Finding> WrongRoleNames(const RegistryRule& rule, const MappingClass& known) {
  if (known.roles.empty()) return std::nullopt;
  const auto wrong = [&](const std::string& role, std::string_view what) {
    return Finding{"rule-roles",
                   role.empty() ? fmt::format("{} reads one tensor, without a role", rule.Text())
                                : fmt::format("{} {} a Hugging Face tensor in the role '{}'",
                                              rule.Text(), what, role),
                   fmt::format("the roles of {} are {}", known.name, fmt::join(known.roles, ", ")),
                   &rule, fmt::format("it reads {}", Joined(NamesOf(rule.hf)))};
  };
  for (const auto& [role, pattern] : rule.hf) {
    if (std::find(known.roles.begin(), known.roles.end(), role) == known.roles.end()) {
      return wrong(role, "has");
    }
  }
  for (const std::string_view role : known.roles) {
    if (std::none_of(rule.hf.begin(), rule.hf.end(),
                     [&](const auto& source) { return source.first == role; })) {
      return wrong(std::string(role), "lacks");
    }
  }
  return std::nullopt;
}

}  // namespace weighbridge
