// Which of a config's promises counts for a module: by its name, by an expression, by its class.
// Names in files differ from those of modules where a library renames on loading, and a file does
// not tell a module's class; what is said here is what every reading of the config agrees on.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/pattern.h"
#include "formats/quantized/config.h"

namespace weighbridge {

class ModuleRules {
 public:
  // `config` must outlive it.
  explicit ModuleRules(const QuantizationConfig& config);

  struct Choice {
    const WeightPromise* promise = nullptr;  // nullptr: nothing is said for sure
    std::string problem;  // no group has the module, or two that disagree; "" most often
  };
  // A name goes before an expression, that before a class.
  Choice PromiseFor(std::string_view module) const;

  // The entry of the list of modules left plain that names this one; "": none does.
  std::string LeftPlain(std::string_view module) const;

 private:
  enum class Fit : uint8_t { kNo, kMaybe, kClass, kExpression, kName };
  struct Targets {
    explicit Targets(const std::vector<std::string>& texts);
    Fit FitOf(std::string_view module) const;

    std::set<std::string, std::less<>> names;
    std::vector<std::pair<std::string, Pattern>> expressions;
    bool linear = false;   // the class of all modules that are quantized most often
    bool unclear = false;  // other classes, expressions that are not understood
  };

  const QuantizationConfig& config_;
  Targets left_plain_;
  std::vector<std::string> globs_;  // of left_plain_.names those with stars
  std::vector<Targets> targets_;    // as config_.promises
};

}  // namespace weighbridge
