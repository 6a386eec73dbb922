// Which of a config's promises counts for a module: by its name, by an expression, by its class.
// Names in files differ from those of modules where a library renames on loading, and a file does
// not tell a module's class; what is said here is what every reading of the config agrees on.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
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
    // No group has the module, two that disagree, or an expression that is none; "" most often.
    std::string problem;
    bool certain = false;  // not by a class that a file does not tell
  };
  // A name goes before an expression, that before a class.
  Choice PromiseFor(std::string_view module) const;

  // The entry of the list of modules left plain that names this one.
  std::optional<std::string> LeftPlain(std::string_view module) const;
  // Whether an entry of that list may name it all the same: a class, an expression that is not
  // understood, its name with another beginning.
  bool MayBeLeftPlain(std::string_view module) const;

 private:
  enum class Fit : uint8_t { kNo, kMaybe, kClass, kExpression, kName };
  struct Targets {
    explicit Targets(const std::vector<std::string>& texts);
    Fit FitOf(std::string_view module) const;

    std::set<std::string, std::less<>> names;
    std::vector<std::pair<std::string, Pattern>> expressions;
    bool linear = false;   // the class of all modules that are quantized most often
    bool unclear = false;  // other classes, expressions that are not understood
    std::string broken;    // an expression that is none
  };

  // An entry of modules_to_not_convert.
  struct Unconverted {
    explicit Unconverted(const std::string& entry);
    bool Has(std::string_view module) const;

    std::string text;
    std::optional<Pattern> pattern;  // nullopt: not understood, or has no sign but dots
    bool plain = false;              // has no sign but dots
  };

  void FindBroken();

  const QuantizationConfig& config_;
  Targets left_plain_;
  std::vector<Unconverted> unconverted_;  // the same list, for the methods of transformers
  std::vector<std::string> globs_;        // of left_plain_.names those with stars
  std::vector<Targets> targets_;          // as config_.promises
  std::string broken_;                    // what to say of an expression that is none
};

}  // namespace weighbridge
