#include "family/library.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "base/strings.h"
#include "family/embedded.h"
#include "family/lint.h"

namespace weighbridge {

FamilyLibrary FamilyLibrary::BuiltIn() {
  FamilyLibrary library;
  for (const EmbeddedFile& file : EmbeddedFamilies()) {
    std::string stem(file.name.substr(0, file.name.rfind(".toml")));
    std::string origin = fmt::format("families/{}.toml", stem);
    library.texts_.emplace(std::move(stem), Text{std::string(file.text), std::move(origin)});
  }
  return library;
}

namespace {

bool Contains(const std::vector<std::string>& list, const std::string& name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

std::string ModelTypeOf(const nlohmann::json& config) {
  const auto type = config.is_object() ? config.find("model_type") : config.end();
  return type != config.end() && type->is_string() ? type->get<std::string>() : "";
}

// The `family` of a file; "" when it cannot be read, which its reader will say.
std::string NameIn(const std::string& text) {
  const auto spec = ParseFamily(
      text, "", [](const std::vector<std::string>&) { return Result<FamilySpec>(FamilySpec()); });
  return spec ? spec->name : "";
}

}  // namespace

Status FamilyLibrary::Add(const std::map<std::string, std::string>& texts,
                          const std::string& origin_prefix) {
  const auto texts_before = texts_;
  const auto added_before = added_;
  std::map<std::string, std::string> by_stem;
  bool replaces = false;
  for (const auto& [name, text] : texts) {
    const std::string file = name.ends_with(".toml") ? name.substr(0, name.size() - 5) : name;
    const std::string origin = fmt::format("{}{}.toml", origin_prefix, file);
    // A file replaces one of its name when it describes the same family; a user's llama.toml that
    // describes another one stands beside the built-in llama.
    std::string stem = file;
    if (const auto old = texts_.find(file); old != texts_.end()) {
      const std::string before = NameIn(old->second.text), now = NameIn(text);
      if (!before.empty() && !now.empty() && before != now) stem = origin;
    }
    by_stem[stem] = text;
    replaces |= texts_.contains(stem);
    texts_[stem] = {text, origin};
  }
  cache_ = std::make_unique<Cache>();
  Status read = ReadAdded(by_stem, replaces);
  if (!read) {
    texts_ = texts_before;
    added_ = added_before;
    cache_ = std::make_unique<Cache>();
  }
  return read;
}

// A user's file is judged at once. Where it replaces one, its children change with it, so all are.
Status FamilyLibrary::ReadAdded(const std::map<std::string, std::string>& texts, bool replaces) {
  for (const auto& [stem, text] : texts) {
    WB_TRY(const FamilySpec* spec, Get(stem));
    if (!spec->abstract) added_[spec->name] = stem;
  }
  if (!replaces) return {};
  for (const auto& [stem, text] : texts_) {
    const auto read = Get(stem);
    if (read) continue;
    if (texts.contains(stem)) return Fail(read.error());
    // The child is as it was: what it extends is what does not fit.
    constexpr size_t kNamed = 3;
    std::vector<std::string> origins;
    for (const auto& [added, added_text] : texts) origins.push_back(texts_.at(added).origin);
    if (origins.size() > kNamed) {
      const size_t more = origins.size() - kNamed;
      origins.resize(kNamed);
      origins.push_back(fmt::format("and {} more", more));
    }
    Error error = read.error();
    error.what =
        fmt::format("{}, which extends a file of that name, can no longer be read: {} ({})",
                    text.origin, error.what, error.at);
    error.at = fmt::format("{}", fmt::join(origins, ", "));
    return Fail(std::move(error));
  }
  return {};
}

Result<const FamilySpec*> FamilyLibrary::Get(const std::string& stem) const {
  const std::lock_guard lock(cache_->mutex);
  if (const auto it = cache_->by_stem.find(stem); it != cache_->by_stem.end()) return &it->second;
  WB_TRY(FamilySpec spec, Read(stem));
  if (!spec.abstract) WB_RETURN_IF_ERROR(LintFamily(spec));
  return &cache_->by_stem.emplace(stem, std::move(spec)).first->second;
}

Result<FamilySpec> FamilyLibrary::Read(const std::string& stem) const {
  const Text& text = texts_.at(stem);
  return ParseFamily(text.text, text.origin, [&](const std::vector<std::string>& extends) {
    return ReadParents(extends, text.origin);
  });
}

// In order, each on top of what the ones before it add up to.
Result<FamilySpec> FamilyLibrary::ReadParents(const std::vector<std::string>& extends,
                                              const std::string& origin) const {
  FamilySpec sum;
  for (const std::string& parent : extends) {
    const auto it = texts_.find(parent);
    if (it == texts_.end()) {
      return Fail(ErrorKind::kInvalid, "family-file",
                  fmt::format("extends '{}', which is not a family", parent), origin);
    }
    const auto refuse = [&](const std::vector<std::string>& more) -> Result<FamilySpec> {
      return Fail(
          ErrorKind::kInvalid, "family-file",
          fmt::format("extends '{}', which itself extends '{}': one level only", parent, more[0]),
          origin);
    };
    WB_TRY(sum, ParseFamily(it->second.text, it->second.origin, refuse, std::move(sum)));
  }
  return sum;
}

Result<const std::map<std::string, FamilySpec>*> FamilyLibrary::All() const {
  const std::lock_guard lock(cache_->mutex);
  if (cache_->all) return &cache_->by_name;
  for (const auto& [stem, text] : texts_) {
    WB_TRY(const FamilySpec* spec, Get(stem));
    const auto added = added_.find(spec->name);
    const bool hidden = added != added_.end() && added->second != stem;
    if (!spec->abstract && !hidden) cache_->by_name[spec->name] = *spec;
  }
  cache_->all = true;
  return &cache_->by_name;
}

Result<const FamilySpec*> FamilyLibrary::FirstWith(
    const std::string& word, const std::function<bool(const FamilySpec&)>& accepts) const {
  for (const auto& [name, stem] : added_) {
    WB_TRY(const FamilySpec* spec, Get(stem));
    if (accepts(*spec)) return spec;
  }
  for (const auto& [stem, text] : texts_) {
    if (text.text.find(word) == std::string::npos) continue;
    WB_TRY(const FamilySpec* spec, Get(stem));
    if (!spec->abstract && !added_.contains(spec->name) && accepts(*spec)) return spec;
  }
  return nullptr;
}

Result<const FamilySpec*> FamilyLibrary::Find(std::string_view name) const {
  const auto added = added_.find(std::string(name));
  const std::string stem = added == added_.end() ? std::string(name) : added->second;
  if (texts_.contains(stem)) {
    WB_TRY(const FamilySpec* spec, Get(stem));
    if (!spec->abstract && spec->name == name) return spec;
  }
  WB_TRY(const auto* all, All());
  std::vector<std::string> names;
  for (const auto& [known, spec] : *all) names.push_back(known);
  const std::string near = NearestName(name, names);
  return Fail(ErrorKind::kNotFound, "unknown-family", fmt::format("there is no family '{}'", name),
              "",
              near.empty() ? "`weighbridge families list` shows all of them"
                           : fmt::format("did you mean '{}'?", near));
}

Result<const FamilySpec*> FamilyLibrary::ForConfig(const nlohmann::json& config) const {
  std::set<std::string> architectures;
  if (config.is_object() && config.contains("architectures") &&
      config["architectures"].is_array()) {
    for (const auto& a : config["architectures"]) {
      if (a.is_string()) architectures.insert(a.get<std::string>());
    }
  }
  // What diffusers writes.
  if (config.is_object() && config.contains("_class_name") && config["_class_name"].is_string()) {
    architectures.insert(config["_class_name"].get<std::string>());
  }
  for (const std::string& a : architectures) {
    WB_TRY(const FamilySpec* found, FirstWith(a, [&](const FamilySpec& spec) {
             return Contains(spec.hf_architectures, a);
           }));
    if (found != nullptr) return found;
  }
  const std::string model_type = ModelTypeOf(config);
  // The architecture decides; the model type only where none is named.
  if (architectures.empty() && !model_type.empty()) {
    WB_TRY(const FamilySpec* found, FirstWith(model_type, [&](const FamilySpec& spec) {
             return Contains(spec.hf_model_types, model_type);
           }));
    if (found != nullptr) return found;
  }
  return Fail(ErrorKind::kUnsupported, "unknown-family",
              fmt::format("no family for architectures [{}], model_type '{}'",
                          fmt::join(architectures, ", "), model_type),
              "config.json",
              "`weighbridge families list` shows what is known; --family FILE adds one "
              "(docs/families.md)");
}

Status FamilyLibrary::CheckModelType(const FamilySpec& family, const nlohmann::json& config) const {
  const std::string type = ModelTypeOf(config);
  const auto& own = family.hf_model_types;
  if (type.empty() || own.empty() || Contains(own, type) || config.contains("auto_map")) return {};
  WB_TRY(const FamilySpec* other, FirstWith(type, [&](const FamilySpec& spec) {
           return Contains(spec.hf_model_types, type);
         }));
  if (other == nullptr || other->name == family.name) return {};
  // Kimi K2's configs name DeepSeek-V3's class.
  if (other->variant_of == family.name || family.variant_of == other->name) return {};
  return Corrupt(
      "config-contradiction",
      fmt::format("architectures say that the model is of family {}, and model_type '{}' "
                  "that it is of family {}, which transformers' AutoModel would build",
                  family.name, type, other->name),
      "config.json: model_type",
      fmt::format("set model_type to '{}', or correct architectures; --family NAME says "
                  "which one counts here",
                  own.front()));
}

}  // namespace weighbridge
