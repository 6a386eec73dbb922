// Finding and reading family files. No I/O: callers hand in the text of user files.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "family/spec.h"

namespace weighbridge {

// Reads one family file. `origin` is shown in errors ("llama.toml:12:3"). `parent` is what the
// files that `extends` names add up to, or nullptr. Errors: kInvalid with line and column.
Result<FamilySpec> ParseFamily(std::string_view text, const std::string& origin,
                               const FamilySpec* parent);

// The `extends` of a family file, empty when there is none.
Result<std::vector<std::string>> ParentsOf(std::string_view text, const std::string& origin);

class FamilyLibrary {
 public:
  // The families that were built in.
  static Result<FamilyLibrary> BuiltIn();
  // Adds or replaces families: file name without ending -> text. `extends` may name any family. On
  // an error the library stays as it was.
  Status Add(const std::map<std::string, std::string>& texts, const std::string& origin_prefix);

  // Without the abstract ones.
  const std::map<std::string, FamilySpec>& families() const { return families_; }
  // kNotFound with near names.
  Result<const FamilySpec*> Find(std::string_view name) const;
  // By `architectures`, then `model_type` of an HF config. kUnsupported "unknown-family".
  Result<const FamilySpec*> ForConfig(const nlohmann::json& config) const;

 private:
  Status AddAll(const std::map<std::string, std::string>& texts, const std::string& origin_prefix);
  Result<FamilySpec> Read(const std::string& name) const;

  std::map<std::string, FamilySpec> families_;
  std::map<std::string, std::pair<std::string, std::string>> texts_;  // name -> {text, origin}
};

}  // namespace weighbridge
