// Finding and reading family files. No I/O: callers hand in the text of user files.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "family/spec.h"

namespace weighbridge {

// What the files that `extends` names add up to. Called once, when a file extends any.
using ParentReader = std::function<Result<FamilySpec>(const std::vector<std::string>& extends)>;

// Reads one family file on top of `base`, or where it extends others, of what `parents` gives.
// `origin` is shown in errors ("llama.toml:12:3"). Errors: kInvalid with line and column; those of
// `parents`.
Result<FamilySpec> ParseFamily(std::string_view text, const std::string& origin,
                               const ParentReader& parents, FamilySpec base = {});

// Families are read when they are asked for first: a command needs one of them. Safe to be read by
// several threads at once; Add is not.
class FamilyLibrary {
 public:
  // The families that were built in.
  static FamilyLibrary BuiltIn();
  // Adds or replaces families: file name without ending -> text. `extends` may name any family. On
  // an error the library stays as it was.
  Status Add(const std::map<std::string, std::string>& texts, const std::string& origin_prefix);

  // Every family by name, without the abstract ones. The map lives as long as nothing is added.
  Result<const std::map<std::string, FamilySpec>*> All() const;
  // kNotFound with near names. The pointer is good until something is added.
  Result<const FamilySpec*> Find(std::string_view name) const;
  // By `architectures`, then `model_type` of an HF config. kUnsupported "unknown-family".
  Result<const FamilySpec*> ForConfig(const nlohmann::json& config) const;
  // kCorrupt "config-contradiction" where `family`, which ForConfig found, is not that of the
  // config's `model_type`: transformers' AutoModel would build the other. Types that no family has
  // say nothing, nor does a config that brings its own code (auto_map).
  Status CheckModelType(const FamilySpec& family, const nlohmann::json& config) const;

 private:
  struct Text {
    std::string text, origin;
  };
  // What was read so far; map nodes do not move, so pointers stay good.
  struct Cache {
    std::recursive_mutex mutex;  // All() and ForConfig() read through Get()
    std::map<std::string, FamilySpec> by_stem;
    std::map<std::string, FamilySpec> by_name;  // filled by All()
    bool all = false;
  };

  Status ReadAdded(const std::map<std::string, std::string>& texts, bool replaces);
  Result<const FamilySpec*> Get(const std::string& stem) const;
  Result<FamilySpec> Read(const std::string& stem) const;
  Result<FamilySpec> ReadParents(const std::vector<std::string>& extends,
                                 const std::string& origin) const;
  // The first concrete family that `accepts`, added ones before built-in ones; of those only the
  // ones with `word` in their text are read. nullptr when there is none.
  Result<const FamilySpec*> FirstWith(const std::string& word,
                                      const std::function<bool(const FamilySpec&)>& accepts) const;

  std::map<std::string, Text> texts_;         // by stem: the file's name without its ending
  std::map<std::string, std::string> added_;  // families that Add brought: name -> stem
  std::unique_ptr<Cache> cache_ = std::make_unique<Cache>();
};

}  // namespace weighbridge
