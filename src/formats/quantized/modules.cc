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

// Whose lists transformers reads: quantizers_utils.should_convert_module.
bool IsOfTransformers(const QuantizationConfig& config) {
  return config.method == "fp8" || config.method == "fbgemm_fp8" || config.method == "mxfp4";
}

// Of "a.b.c" a member among "a", "a.b", "a.b.c" and "b.c", "c".
std::optional<std::string> PartIn(const std::set<std::string, std::less<>>& names,
                                  std::string_view module) {
  if (names.contains(module)) return std::string(module);
  for (size_t dot = module.find('.'); dot != std::string_view::npos;
       dot = module.find('.', dot + 1)) {
    for (const std::string_view part : {module.substr(0, dot), module.substr(dot + 1)}) {
      if (names.contains(part)) return std::string(part);
    }
  }
  return std::nullopt;
}

}  // namespace

ModuleRules::Targets::Targets(const std::vector<std::string>& texts) {
  for (const std::string& text : texts) {
    if (text.starts_with(kExpression)) {
      const std::string_view expression = std::string_view(text).substr(kExpression.size());
      auto pattern = Pattern::Parse(expression);
      if (broken.empty() && !pattern && Pattern::IsBroken(expression)) broken = text;
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

ModuleRules::Unconverted::Unconverted(const std::string& entry) : text(entry) {
  plain = std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
  });
  if (!plain) pattern = Pattern::Parse(text);
}

// The name ends so, or begins as the expression says: a dot is any character.
bool ModuleRules::Unconverted::Has(std::string_view module) const {
  if (module.ends_with(text)) return true;
  if (!plain) return pattern && pattern->MatchesStart(module);
  return text.size() <= module.size() &&
         std::equal(text.begin(), text.end(), module.begin(),
                    [](char wanted, char found) { return wanted == '.' || wanted == found; });
}

ModuleRules::ModuleRules(const QuantizationConfig& config)
    : config_(config), left_plain_(config.left_plain) {
  if (IsOfTransformers(config)) {
    for (const std::string& text : config.left_plain) unconverted_.emplace_back(text);
  }
  for (const std::string& name : left_plain_.names) {
    if (name.find('*') != std::string::npos) globs_.push_back(name);
  }
  for (const WeightPromise& promise : config.promises) {
    targets_.emplace_back(promise.targets.value_or(std::vector<std::string>()));
  }
  FindBroken();
}

void ModuleRules::FindBroken() {
  const auto say = [&](const std::string& entry, const std::string& where) {
    if (broken_.empty() && !entry.empty()) {
      broken_ = fmt::format("'{}' of {} is no regular expression", ToPrintable(entry), where);
    }
  };
  for (size_t i = 0; i < targets_.size(); ++i) {
    say(targets_[i].broken, config_.promises[i].where + ".targets");
  }
  const std::string list = "quantization_config." + config_.left_plain_key;
  if (!IsOfTransformers(config_)) return say(left_plain_.broken, list);
  for (const Unconverted& entry : unconverted_) {
    if (!entry.plain && Pattern::IsBroken(entry.text)) say(entry.text, list);
  }
}

ModuleRules::Choice ModuleRules::PromiseFor(std::string_view module) const {
  Choice choice;
  choice.problem = broken_;
  if (!broken_.empty()) return choice;
  Fit best = Fit::kNo;
  const WeightPromise* other = nullptr;
  for (size_t i = 0; i < targets_.size(); ++i) {
    const WeightPromise& promise = config_.promises[i];
    const Fit fit = promise.targets ? targets_[i].FitOf(module) : Fit::kClass;
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
  choice.certain = choice.promise != nullptr && best > Fit::kMaybe;
  return choice;
}

std::optional<std::string> ModuleRules::LeftPlain(std::string_view module) const {
  if (IsOfTransformers(config_)) {
    const auto found = std::find_if(unconverted_.begin(), unconverted_.end(),
                                    [&](const Unconverted& entry) { return entry.Has(module); });
    if (found == unconverted_.end()) return std::nullopt;
    return found->text;
  }
  for (const auto& [text, pattern] : left_plain_.expressions) {
    if (pattern.MatchesStart(module)) return text;
  }
  if (left_plain_.linear) return "Linear";
  if (config_.method == "compressed-tensors") {
    if (!left_plain_.names.contains(module)) return std::nullopt;
    return std::string(module);
  }
  // ModelOpt takes the name of a part of the model, its end, or one with stars.
  for (const std::string& glob : globs_) {
    if (GlobMatch(glob, module) || GlobMatch(glob + ".*", module)) return glob;
  }
  return PartIn(left_plain_.names, module);
}

bool ModuleRules::MayBeLeftPlain(std::string_view module) const {
  if (IsOfTransformers(config_)) {
    const bool unclear =
        std::any_of(unconverted_.begin(), unconverted_.end(),
                    [](const Unconverted& entry) { return !entry.plain && !entry.pattern; });
    if (unclear) return true;
  } else if (left_plain_.unclear) {
    return true;
  }
  const size_t layers = module.find("layers.");
  if (layers == std::string_view::npos) return false;
  const std::string_view tail = module.substr(layers);
  return std::any_of(config_.left_plain.begin(), config_.left_plain.end(),
                     [&](const std::string& entry) { return entry.ends_with(tail); });
}

}  // namespace weighbridge
