#include "family/library.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "base/strings.h"
#include "family/embedded.h"
#include "family/lint.h"

namespace weighbridge {
namespace {
constexpr char kBuiltInPrefix[] = "families/";
}  // namespace

Result<FamilyLibrary> FamilyLibrary::BuiltIn() {
  std::map<std::string, std::string> texts;
  for (const EmbeddedFile& file : EmbeddedFamilies()) {
    texts.emplace(std::string(file.name), std::string(file.text));
  }
  FamilyLibrary library;
  WB_RETURN_IF_ERROR(library.Add(texts, kBuiltInPrefix));
  return library;
}

Status FamilyLibrary::Add(const std::map<std::string, std::string>& texts,
                          const std::string& origin_prefix) {
  const auto before = texts_;
  Status added = AddAll(texts, origin_prefix);
  if (!added) texts_ = before;
  return added;
}

Status FamilyLibrary::AddAll(const std::map<std::string, std::string>& texts,
                             const std::string& origin_prefix) {
  for (const auto& [name, text] : texts) {
    const bool has_ending = name.ends_with(".toml");
    const std::string stem = has_ending ? name.substr(0, name.size() - 5) : name;
    texts_[stem] = {text, fmt::format("{}{}.toml", origin_prefix, stem)};
  }
  // Children of a replaced parent change with it, so everything is read again; it is small.
  std::map<std::string, FamilySpec> families;
  for (const auto& [name, entry] : texts_) {
    WB_TRY(FamilySpec spec, Read(name));
    if (spec.name != name && origin_prefix == kBuiltInPrefix) {
      return Fail(ErrorKind::kInvalid, "family-file",
                  fmt::format("the file is named '{}', its family '{}'", name, spec.name),
                  entry.second);
    }
    if (spec.abstract) continue;
    WB_RETURN_IF_ERROR(LintFamily(spec));
    families[spec.name] = std::move(spec);
  }
  families_ = std::move(families);
  return {};
}

Result<FamilySpec> FamilyLibrary::Read(const std::string& name) const {
  const auto& [text, origin] = texts_.at(name);
  WB_TRY(const std::vector<std::string> extends, ParentsOf(text, origin));
  std::optional<FamilySpec> sum;
  for (const std::string& parent : extends) {
    const auto it = texts_.find(parent);
    if (it == texts_.end()) {
      return Fail(ErrorKind::kInvalid, "family-file",
                  fmt::format("extends '{}', which is not a family", parent), origin);
    }
    WB_TRY(const std::vector<std::string> grandparents,
           ParentsOf(it->second.first, it->second.second));
    if (!grandparents.empty()) {
      return Fail(ErrorKind::kInvalid, "family-file",
                  fmt::format("extends '{}', which itself extends '{}': one level only", parent,
                              grandparents[0]),
                  origin);
    }
    WB_TRY(FamilySpec next,
           ParseFamily(it->second.first, it->second.second, sum ? &*sum : nullptr));
    sum = std::move(next);
  }
  return ParseFamily(text, origin, sum ? &*sum : nullptr);
}

Result<const FamilySpec*> FamilyLibrary::Find(std::string_view name) const {
  const auto it = families_.find(std::string(name));
  if (it != families_.end()) return &it->second;
  std::vector<std::string> names;
  for (const auto& [known, spec] : families_) names.push_back(known);
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
  for (const auto& [name, spec] : families_) {
    for (const std::string& a : spec.hf_architectures) {
      if (architectures.contains(a)) return &spec;
    }
  }
  std::string model_type;
  if (config.is_object() && config.contains("model_type") && config["model_type"].is_string()) {
    model_type = config["model_type"].get<std::string>();
  }
  // The architecture decides; the model type only where none is named.
  if (architectures.empty() && !model_type.empty()) {
    for (const auto& [name, spec] : families_) {
      const auto& types = spec.hf_model_types;
      if (std::find(types.begin(), types.end(), model_type) != types.end()) return &spec;
    }
  }
  return Fail(ErrorKind::kUnsupported, "unknown-family",
              fmt::format("no family for architectures [{}], model_type '{}'",
                          fmt::join(architectures, ", "), model_type),
              "config.json",
              "`weighbridge families list` shows what is known; --family FILE adds one "
              "(docs/families.md)");
}

}  // namespace weighbridge
