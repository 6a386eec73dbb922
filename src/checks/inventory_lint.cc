#include "checks/inventory_lint.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "checks/bridge_findings.h"

namespace weighbridge {
namespace {

using ShapeOf = std::map<std::string, Shape>;

bool IsOuter(const std::string& name) {
  return name.ends_with("output_layer.weight") || name.ends_with("word_embeddings.weight");
}

// Only the vocabulary is padded.
bool Padded(const Shape& hf, const Shape& megatron) {
  return hf.size() == megatron.size() && !hf.empty() && hf[0] <= megatron[0] &&
         std::equal(hf.begin() + 1, hf.end(), megatron.begin() + 1);
}

// What joins rows of several tensors has as many rows as they have together, and their columns.
bool JoinsRows(const std::vector<Shape>& parts, const Shape& whole) {
  int64_t rows = 0;
  for (const Shape& part : parts) {
    if (part.size() != whole.size() || part.empty()) return false;
    if (!std::equal(part.begin() + 1, part.end(), whole.begin() + 1)) return false;
    rows += part[0];
  }
  return rows == whole[0];
}

// nullopt: no tensor of this shape can be permuted so.
std::optional<Shape> Permuted(const Shape& shape, const std::vector<int64_t>& permute_dims) {
  if (permute_dims.empty()) return shape;
  const auto axes = AxesOf(permute_dims, shape.size());
  if (!axes) return std::nullopt;
  Shape out;
  for (const size_t axis : *axes) out.push_back(shape[axis]);
  return out;
}

// Its layer, where names count layers first.
std::string_view FirstNumber(std::string_view name) {
  const size_t begin = name.find_first_of("0123456789");
  if (begin == std::string_view::npos) return "";
  const size_t end = name.find_first_not_of("0123456789", begin);
  return name.substr(begin, end == std::string_view::npos ? end : end - begin);
}

class InventoryLint {
 public:
  InventoryLint(const BridgeDump& dump, Report& report)
      : dump_(dump), check_(dump, report), report_(report) {
    for (const DumpedTensor& tensor : *dump.hf) {
      if (!hf_.emplace(tensor.name, tensor.shape).second) Twice(tensor.name, "Hugging Face");
    }
    std::set<std::string> megatron;
    for (const DumpedTensor& tensor : *dump.megatron) {
      if (megatron.insert(tensor.name).second) {
        megatron_.push_back(&tensor);
      } else {
        Twice(tensor.name, "Megatron");
      }
    }
  }

  void Run() {
    std::vector<const RegistryRule*> taken;
    for (const DumpedTensor* tensor : megatron_) taken.push_back(check_.use().Take(tensor->name));
    for (size_t i = 0; i < taken.size(); ++i) Judge(*megatron_[i], taken[i]);
    JudgeUnread();
    JudgeUnreached();
    check_.Finish();
  }

 private:
  void Twice(const std::string& name, std::string_view side) {
    report_.unproven.push_back(
        fmt::format("the inventory of the {} side lists {} twice; the first counts", side, name));
  }

  void Judge(const DumpedTensor& tensor, const RegistryRule* rule) {
    const Names read =
        rule == nullptr || rule->hf.empty() ? Names() : NamesOf(*SourcesOf(*rule, tensor.name));
    ResultRow row = RowOf(tensor.name, tensor.shape, read);
    std::optional<Finding> finding =
        rule == nullptr ? std::optional(Missing(tensor)) : Wrong(tensor, *rule, read, row);
    check_.Close(rule, std::move(finding), std::move(row));
  }

  Finding Missing(const DumpedTensor& tensor) {
    return {"rule-missing", fmt::format("no rule takes {}", Stars(tensor.name)),
            "add a rule for it, or mend the pattern of one that takes nothing", nullptr, ""};
  }

  // Sets the row's status where nothing can be said.
  std::optional<Finding> Wrong(const DumpedTensor& tensor, const RegistryRule& rule,
                               const Names& read, ResultRow& row) {
    if (!rule.raised.empty()) {
      for (const std::string& name : read) readers_.emplace(name, tensor.name);
      return Raised(rule);
    }
    for (const std::string& name : read) {
      if (hf_.contains(name)) continue;
      return Finding{
          "rule-hf-name",
          fmt::format("{} reads a Hugging Face tensor that the model has not", rule.Text()),
          "mend its Hugging Face pattern", &rule, fmt::format("{} reads {}", tensor.name, name)};
    }
    if (auto wrong = Double(tensor, rule, read)) return wrong;
    const MappingClass* known = check_.ClassOf(rule, row);
    if (known == nullptr) return std::nullopt;
    if (auto wrong = WrongRoleNames(rule, *known)) return wrong;
    return WrongShape(tensor, rule, *known, read);
  }

  // Stacked experts share a tensor, and tied layers; others never do.
  std::optional<Finding> Double(const DumpedTensor& tensor, const RegistryRule& rule,
                                const Names& read) {
    std::set<std::string> by_this_rule;
    for (const std::string& name : read) {
      const auto [first, is_new] = readers_.emplace(name, tensor.name);
      const bool role_again = !by_this_rule.insert(name).second;
      const bool stacked = Stars(first->second) == Stars(tensor.name) && hf_.at(name).size() > 1 &&
                           FirstNumber(first->second) == FirstNumber(tensor.name) &&
                           ++stacked_[name] <= hf_.at(name)[0] &&
                           Stars(tensor.name).find("expert") != std::string::npos;
      const bool tied = IsOuter(tensor.name) && IsOuter(first->second);
      if (!role_again && (is_new || stacked || tied)) continue;
      return Finding{
          "rule-double",
          role_again ? fmt::format("{} reads one Hugging Face tensor in two roles", rule.Text())
                     : fmt::format("{} reads a Hugging Face tensor that another parameter reads",
                                   rule.Text()),
          "one of the two names the wrong tensor", &rule,
          role_again
              ? fmt::format("{} is read twice for {}", name, tensor.name)
              : fmt::format("{} is read for {} and for {}", name, first->second, tensor.name)};
    }
    return std::nullopt;
  }

  std::optional<Finding> WrongShape(const DumpedTensor& tensor, const RegistryRule& rule,
                                    const MappingClass& known, const Names& read) {
    std::vector<Shape> shapes;
    std::string text;
    for (const std::string& name : read) {
      shapes.push_back(hf_.at(name));
      text += (text.empty() ? "" : ", ") + ToString(shapes.back());
    }
    if (Fits(tensor, rule, known, shapes)) return std::nullopt;
    return Finding{"rule-class",
                   fmt::format("{} cannot make the Megatron tensor of what it reads", rule.Text()),
                   "use a mapping class that makes this shape of all tensors of the parameter",
                   &rule,
                   fmt::format("{} is {}, read is {}", tensor.name, ToString(tensor.shape), text)};
  }

  // By what each class does to shapes; of classes that reshape, by the number of elements.
  static bool Fits(const DumpedTensor& tensor, const RegistryRule& rule, const MappingClass& known,
                   const std::vector<Shape>& shapes) {
    if (known.transforms[0] == "expert" || known.transforms[0] == "expert_gated_mlp" ||
        known.transforms[0] == "expert_gate_up") {
      return FitsExpert(tensor.shape, shapes);
    }
    if (!known.roles.empty() && known.transforms[0] != "gdn_in_proj") {
      const bool halves =
          known.roles[0] != "gate" || (shapes.size() == 2 && shapes[0] == shapes[1]);
      return halves && (tensor.shape.size() > 2 || JoinsRows(shapes, tensor.shape));
    }
    if (shapes.size() != 1) {
      int64_t elements = 0;
      for (const Shape& shape : shapes) elements += Numel(shape);
      return elements == Numel(tensor.shape);
    }
    const std::optional<Shape> permuted = Permuted(shapes[0], rule.permute_dims);
    if (!permuted) return false;
    const Shape& shape = *permuted;
    if (shape == tensor.shape || (IsOuter(tensor.name) && Padded(shape, tensor.shape))) return true;
    // A leading axis of extent 1, an axis that a convolution has: dropped or added by the modules.
    const auto more_than_one = [](const Shape& s) {
      Shape out;
      std::copy_if(s.begin(), s.end(), std::back_inserter(out), [](int64_t n) { return n != 1; });
      return out;
    };
    return more_than_one(shape) == more_than_one(tensor.shape);
  }

  // [E, ...] for all experts, either way round.
  static bool FitsExpert(const Shape& one, const std::vector<Shape>& stacked) {
    int64_t elements = 0;
    for (const Shape& shape : stacked) {
      if (shape.size() != one.size() + 1 || shape[0] == 0) return false;
      elements += Numel(shape) / shape[0];
    }
    return elements == Numel(one);
  }

  // Hugging Face tensors that no Megatron tensor needs are lost by a round trip.
  void JudgeUnread() {
    std::map<std::string, std::string> unread;  // by pattern, the first of them
    for (const auto& [name, shape] : hf_) {
      if (!readers_.contains(name)) unread.emplace(Stars(name), name);
    }
    for (const auto& [pattern, first] : unread) {
      const RegistryRule* meant = check_.use().MeantFor({first}, "");
      check_.Add({meant == nullptr ? "rule-missing" : "rule-dead",
                  meant == nullptr ? fmt::format("no rule reads {}", pattern)
                                   : fmt::format("{} would read {}, but matches no Megatron tensor",
                                                 meant->Text(), pattern),
                  meant == nullptr ? "add a rule for it" : "mend its Megatron pattern",
                  meant,
                  "",
                  {first}});
    }
  }

  // A rule that earlier ones keep from every tensor that it matches, and that reads others.
  void JudgeUnreached() {
    for (const RegistryRule& rule : dump_.rules) {
      if (check_.use().used(rule) || rule.hf.empty() || !rule.raised.empty()) continue;
      for (const DumpedTensor& tensor : *dump_.megatron) {
        const auto sources = SourcesOf(rule, tensor.name);
        if (!sources) continue;
        const RegistryRule& first = *FirstRule(dump_, tensor.name);
        if (first.hf.empty() || *SourcesOf(first, tensor.name) == *sources) break;
        check_.Add({"rule-shadowed",
                    fmt::format("{} is never reached: {} comes before it and matches as well",
                                rule.Text(), first.Text()),
                    "make the earlier pattern narrower, or move the later rule before it",
                    &rule,
                    fmt::format("{}: it would read {}", tensor.name, Joined(NamesOf(*sources))),
                    {tensor.name}});
        break;
      }
    }
  }

  const BridgeDump& dump_;
  RuleCheck check_;
  Report& report_;
  ShapeOf hf_;
  std::vector<const DumpedTensor*> megatron_;   // each name once
  std::map<std::string, std::string> readers_;  // HF name -> the first that reads it
  std::map<std::string, int64_t> stacked_;      // HF name -> how many read it as experts
};

}  // namespace

Result<Report> LintInventories(const BridgeDump& dump) {
  if (!dump.hf || !dump.megatron) {
    return Fail(ErrorKind::kUsage, "inventory-missing",
                fmt::format("no family describes the model, and the dump lacks the names of the {} "
                            "side",
                            !dump.hf ? "Hugging Face" : "Megatron"),
                "", "give hf= and model= to inspect_bridge");
  }
  Report report;
  DescribeBridge(dump, report);
  report.unproven.emplace_back(
      "no family describes the model: the order of rows within a tensor, tensors of one shape that "
      "are exchanged, how modules are cut, and the provider's fields, were not judged");
  InventoryLint(dump, report).Run();
  return report;
}

}  // namespace weighbridge
