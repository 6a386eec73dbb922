// How a runtime computes what no config says: the defaults of the classes that read a config, and
// behaviours by version. Data of runtimes/*.toml, embedded as the families are; docs/runtimes.md
// describes the files.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace weighbridge {

// Gives fields other values than the config does, where it applies.
struct Behaviour {
  std::string id, why;
  // Names of the class that builds the model, or of the function that makes its layers; one has to
  // fit. Both empty: any.
  std::vector<std::string> classes, specs;
  // Fields that must have the value; of a list one of them, "given" anything but None.
  std::map<std::string, nlohmann::json> when;
  // A text "$field" is that field's value. null is None.
  std::map<std::string, nlohmann::json> set;
  std::string since, until;  // versions: from the first on, before the second; empty: no bound
  // Nothing of the config or of its class names shows it: left out by --runtime none.
  bool hidden = true;
};

// A config, as a behaviour sees it.
struct RuntimeSubject {
  std::string provider, spec;  // names alone, without their modules; empty: not known
};

struct RuntimeTable {
  std::string name, newest;
  std::vector<Behaviour> behaviours;  // in the order in which they apply
  // Class -> field -> value that counts where the config leaves the field out. null is None.
  std::map<std::string, std::map<std::string, nlohmann::json>> defaults;
};

// `version` is empty for the newest. Whether the behaviour counts for that version.
bool CountsIn(const Behaviour& behaviour, std::string_view version);
bool AppliesTo(const Behaviour& behaviour, const RuntimeSubject& subject,
               const nlohmann::json& fields);

// Reads one file of runtimes/ into `table`. Errors: kInvalid with line and column.
Status ReadRuntime(std::string_view text, const std::string& origin, RuntimeTable& table);

// All embedded ones.
Result<const RuntimeTable*> BuiltInRuntime();

// Whether an effect depends on the field: one of those whose defaults the table lists.
bool IsReadForEffects(const std::string& field);

// "none", or NAME==VERSION of a runtime that the table has. Errors: kUsage.
struct RuntimeChoice {
  bool hidden = true;
  std::string version;  // empty: the newest
};
Result<RuntimeChoice> ParseRuntime(const std::string& text);

}  // namespace weighbridge
