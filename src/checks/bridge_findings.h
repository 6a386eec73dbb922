// What is wrong with the rules of a bridge, collected over the parameters that show it; shared by
// the check against a family (bridge_lint.cc) and the one against inventories (inventory_lint.cc).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "checks/bridge_dump.h"
#include "checks/mapping_classes.h"
#include "checks/result.h"

namespace weighbridge {

using Names = std::vector<std::string>;

Names NamesOf(const RuleSources& sources);
std::string Joined(const Names& names);

// Numbers as *: one name for all layers and experts. Those of "linear_fc1" are part of a word.
std::string Stars(const std::string& names);

// What is wrong with one rule, or with none.
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
  void Add(Finding finding);
  // One cause per rule: each is a mistake of its own.
  void AddTo(Report& report) const;

 private:
  std::vector<Finding> found_;
  std::map<std::tuple<std::string, size_t, std::string>, size_t> index_;
};

// Which rules were the first to match some tensor, and which could have been.
class RuleUse {
 public:
  explicit RuleUse(const BridgeDump& dump) : dump_(dump), used_(dump.rules.size()) {}

  const RegistryRule* Take(const std::string& name);
  bool used(const RegistryRule& rule) const { return used_[rule.number]; }

  // A rule that matches nothing of the model although it reads `hf`, or would but for a number in
  // its pattern: meant for them. Rules for `other_spec`, the parameter's name under another module
  // spec, have their reason to match nothing.
  const RegistryRule* MeantFor(const Names& hf, const std::string& other_spec) const;

  // How many take nothing, and the first of them, as a note.
  void NoteUnused(Report& report) const;

 private:
  const BridgeDump& dump_;
  std::vector<bool> used_;
};

// The code of a bridge that stands between files and rules.
class HookUse {
 public:
  explicit HookUse(const BridgeDump& dump) : dump_(dump) {}

  // The row of a parameter that `rule` takes, and what the rule alone is found to do wrong: a hook
  // that changes the tensors of a right rule makes it wrong; of a wrong one it may be what mends
  // it, so that nothing is said of the row.
  std::optional<Finding> Judge(const RegistryRule& rule, std::optional<Finding> of_rule,
                               ResultRow& row) const;

  // Whether one of the known hooks does `transform`, in both directions.
  bool Does(std::string_view transform) const;

  void Describe(Report& report) const;

 private:
  const BridgeDump& dump_;
};

// What every check of a bridge's rules has: who takes what, the rows of the parameters, what was
// found, and what was not judged.
class RuleCheck {
 public:
  RuleCheck(const BridgeDump& dump, Report& report)
      : dump_(dump), report_(report), use_(dump), hooks_(dump) {}

  RuleUse& use() { return use_; }
  const HookUse& hooks() const { return hooks_; }
  void Add(Finding finding) { findings_.Add(std::move(finding)); }

  // The class that `rule` converts as; nullptr where its code is not known: then nothing is said of
  // `row`.
  const MappingClass* ClassOf(const RegistryRule& rule, ResultRow& row);

  // Ends the row of a parameter that `rule` (nullptr: none) takes, with what is wrong with that.
  void Close(const RegistryRule* rule, std::optional<Finding> finding, ResultRow row);

  // After the last row: everything besides the rows is put into the report.
  void Finish();

 private:
  // A rule that was judged by arguments that its mappings of parameters have not.
  void JudgeResolved(const RegistryRule& rule, ResultRow& row);

  const BridgeDump& dump_;
  Report& report_;
  RuleUse use_;
  HookUse hooks_;
  Findings findings_;
  std::set<std::string> unproven_;
};

// permute_dims as axes of a tensor that has `count`, counted from 0; nullopt: no tensor with so
// many can be permuted so.
std::optional<std::vector<size_t>> AxesOf(const std::vector<int64_t>& permute_dims, size_t count);

ResultRow RowOf(const std::string& name, const Shape& shape, const Names& hf);

// What is said of every bridge, whatever it is judged against.
void DescribeBridge(const BridgeDump& dump, Report& report);

// Of a rule that raised while it was inspected: what is wrong with its roles, or only that.
Finding Raised(const RegistryRule& rule);

// A rule whose class is right, and which was seen to do something else by way of what it holds.
Finding HeldFinding(const RegistryRule& rule);

// Roles that the class has not, that are not given, or that read one tensor twice.
std::optional<Finding> WrongRoleNames(const RegistryRule& rule, const MappingClass& known);

}  // namespace weighbridge
