#include "formats/quantized/modules.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/strings.h"

namespace weighbridge {
namespace {

constexpr std::string_view kExpression = "re:";

// "Qwen3MoeExperts": names of modules begin with a small letter or have dots.
bool IsClass(std::string_view target) {
  return !target.empty() && target[0] >= 'A' && target[0] <= 'Z' &&
         target.find('.') == std::string_view::npos;
}

// Of "a.b.c" a member among "a", "a.b", "a.b.c" and "b.c", "c"; "" without one.
std::string PartIn(const std::set<std::string, std::less<>>& names, std::string_view module) {
  if (names.contains(module)) return std::string(module);
  for (size_t dot = module.find('.'); dot != std::string_view::npos;
       dot = module.find('.', dot + 1)) {
    for (const std::string_view part : {module.substr(0, dot), module.substr(dot + 1)}) {
      if (names.contains(part)) return std::string(part);
    }
  }
  return "";
}

}  // namespace

ModuleRules::Targets::Targets(const std::vector<std::string>& texts) {
  for (const std::string& text : texts) {
    if (text.starts_with(kExpression)) {
      auto pattern = Pattern::Parse(std::string_view(text).substr(kExpression.size()));
      unclear = unclear || !pattern;
      if (pattern) expressions.emplace_back(text, *std::move(pattern));
    } else if (text == "Linear") {
      linear = true;
    } else if (IsClass(text)) {
      unclear = true;
    } else {
      names.insert(text);
    }
  }
}

ModuleRules::Fit ModuleRules::Targets::FitOf(std::string_view module) const {
  if (names.contains(module)) return Fit::kName;
  const bool expression =
      std::any_of(expressions.begin(), expressions.end(),
                  [&](const auto& entry) { return entry.second.MatchesStart(module); });
  if (expression) return Fit::kExpression;
  if (linear) return Fit::kClass;
  return unclear ? Fit::kMaybe : Fit::kNo;
}

ModuleRules::ModuleRules(const QuantizationConfig& config)
    : config_(config), left_plain_(config.left_plain) {
  for (const std::string& name : left_plain_.names) {
    if (name.find('*') != std::string::npos) globs_.push_back(name);
  }
  for (const WeightPromise& promise : config.promises) targets_.emplace_back(promise.targets);
}

ModuleRules::Choice ModuleRules::PromiseFor(std::string_view module) const {
  Choice choice;
  Fit best = Fit::kNo;
  const WeightPromise* other = nullptr;
  for (size_t i = 0; i < targets_.size(); ++i) {
    const WeightPromise& promise = config_.promises[i];
    const Fit fit = promise.targets.empty() ? Fit::kClass : targets_[i].FitOf(module);
    if (fit == Fit::kNo || fit < best) continue;
    if (fit > best) {
      other = nullptr;
      choice.promise = &promise;
    } else if (!choice.promise->SameWeights(promise)) {
      other = &promise;
    }
    best = fit;
  }
  if (best == Fit::kNo && !targets_.empty()) {
    choice.problem = "no group of quantization_config.config_groups has it among its targets";
  } else if (other != nullptr && best != Fit::kMaybe) {
    choice.problem = fmt::format("{} and {} both have it among their targets, and differ",
                                 choice.promise->where, other->where);
  }
  if (other != nullptr) choice.promise = nullptr;
  return choice;
}

std::string ModuleRules::LeftPlain(std::string_view module) const {
  for (const auto& [text, pattern] : left_plain_.expressions) {
    if (pattern.MatchesStart(module)) return text;
  }
  if (left_plain_.linear) return "Linear";
  if (config_.method == "compressed-tensors") {
    return left_plain_.names.contains(module) ? std::string(module) : "";
  }
  // transformers and ModelOpt take the name of a part of the model, its end, or one with stars.
  for (const std::string& glob : globs_) {
    if (GlobMatch(glob, module) || GlobMatch(glob + ".*", module)) return glob;
  }
  return PartIn(left_plain_.names, module);
}

}  // namespace weighbridge
