#include "checks/source_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <optional>
#include <set>
#include <utility>

#include "base/strings.h"
#include "checks/megatron_binding.h"
#include "checks/megatron_config_check.h"
#include "family/derive.h"
#include "family/model.h"

namespace weighbridge {
namespace {

using nlohmann::json;

constexpr char kSayIt[] = "--like MODEL or --config FILE says which model it is";

// One family, tried.
struct Attempt {
  const FamilySpec* family = nullptr;
  json config;
  StoredModel stored;  // the config expanded
  std::vector<FieldDifference> differences;
};

std::string Letters(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
  }
  return out;
}

Result<Attempt> Try(const FamilySpec& family, const MegatronConfig& megatron,
                    const MegatronCheckpoint& checkpoint) {
  Attempt attempt;
  attempt.family = &family;
  WB_TRY(attempt.config, DeriveHfConfig(family, megatron.fields, megatron.from_bridge()));
  WB_TRY(attempt.stored, ExpandAsStored(family, attempt.config, {}, Borrowed(checkpoint)));
  attempt.differences = CompareFields(attempt.stored.model, megatron);
  return attempt;
}

// The config says what the family means, or what the bridge is known to say instead.
bool Means(const Attempt& attempt) {
  const auto& faults = attempt.family->bridge.faults;
  return std::all_of(attempt.differences.begin(), attempt.differences.end(),
                     [&](const FieldDifference& d) {
                       const auto fault = faults.find(d.field);
                       return fault != faults.end() && fault->second == d.found;
                     });
}

// Every parameter is there in its shape, and nothing else.
bool Binds(const Attempt& attempt, const MegatronCheckpoint& checkpoint) {
  const StoredModel& stored = attempt.stored;
  const MegatronCheckpoint& seen = stored.view != nullptr ? *stored.view : checkpoint;
  return seen.faults().empty() && BindMegatron(stored.model, seen.metadata(), false).causes.empty();
}

// Without those whose config leaves out what that of another says of the same Megatron fields: a
// Llama has no place for a window or for layers without RoPE. None is left where each leaves out
// something.
void KeepFullest(const MegatronConfig& megatron, std::vector<Attempt>& attempts) {
  std::vector<std::set<std::string>> shared;
  std::set<std::string> all;
  for (const Attempt& a : attempts) {
    shared.push_back(SharedFields(a.stored.model, megatron));
    all.insert(shared.back().begin(), shared.back().end());
  }
  size_t kept = 0;
  for (size_t i = 0; i < attempts.size(); ++i) {
    if (shared[i] != all) continue;
    if (kept != i) attempts[kept] = std::move(attempts[i]);
    ++kept;
  }
  attempts.erase(attempts.begin() + static_cast<std::ptrdiff_t>(kept), attempts.end());
}

// The one whose name the source has; of two, the longer: qwen3_moe before qwen3.
Attempt* NamedBySource(std::vector<Attempt>& attempts, const std::string& source) {
  const std::string name = Letters(source);
  Attempt* best = nullptr;
  for (Attempt& a : attempts) {
    const std::string family = Letters(a.family->name);
    if (name.find(family) == std::string::npos) continue;
    if (best == nullptr || family.size() > Letters(best->family->name).size()) best = &a;
  }
  return best;
}

// Both read the same HF tensors into the same parameters: what tells them apart is not in this
// checkpoint.
bool Interchangeable(const Model& a, const Model& b) {
  return std::equal(a.parameters().begin(), a.parameters().end(), b.parameters().begin(),
                    b.parameters().end(), [](const Parameter& x, const Parameter& y) {
                      return x.hf == y.hf && x.shape == y.shape && x.op == y.op &&
                             x.rule->megatron == y.rule->megatron &&
                             x.storage->transform == y.storage->transform;
                    });
}

// Of families that are interchangeable here, the one with the fewest rules: Llama before Mistral,
// which is a Llama with a window. nullptr where they are not.
Attempt* Plainest(const std::vector<Attempt*>& attempts) {
  Attempt* best = attempts[0];
  for (Attempt* a : attempts) {
    if (!Interchangeable(attempts[0]->stored.model, a->stored.model)) return nullptr;
    if (a->family->config.size() < best->family->config.size()) best = a;
  }
  return best;
}

// Without variants, where another family fits: a variant of Qwen2 without biases is a Llama too.
std::vector<Attempt*> Originals(std::vector<Attempt>& attempts) {
  std::vector<Attempt*> all, originals;
  for (Attempt& a : attempts) {
    all.push_back(&a);
    if (a.family->variant_of.empty()) originals.push_back(&a);
  }
  return originals.empty() ? all : originals;
}

std::string Names(const std::vector<Attempt>& attempts) {
  std::string names;
  for (const Attempt& a : attempts) names += (names.empty() ? "" : ", ") + a.family->name;
  return names;
}

SourceConfig Finish(Attempt attempt, const MegatronConfig& megatron) {
  SourceConfig source{attempt.family, std::move(attempt.config), {}};
  source.notes.push_back(
      fmt::format("config.json was derived from {} as family {}: token ids, and what else Megatron "
                  "does not record, are the defaults of Hugging Face",
                  megatron.origin, attempt.family->name));
  for (const FieldDifference& d : attempt.differences) {
    source.notes.push_back(Describe(d, megatron));
  }
  return source;
}

tl::unexpected<Error> Several(const std::string& names, const MegatronConfig& megatron) {
  return Fail(ErrorKind::kUsage, "usage",
              fmt::format("by {} the checkpoint may be of any of these families: {}",
                          megatron.origin, names),
              "", "--family NAME chooses one");
}

tl::unexpected<Error> NothingFits(const std::optional<Attempt>& nearest, const std::string& why,
                                  const MegatronConfig& megatron) {
  std::string text = fmt::format("no family fits {}", megatron.origin);
  if (nearest) {
    text += fmt::format("; the nearest is {}", nearest->family->name);
    for (size_t i = 0; i < std::min<size_t>(nearest->differences.size(), 3); ++i) {
      text += (i == 0 ? ": " : "; ") + Describe(nearest->differences[i], megatron);
    }
    if (nearest->differences.empty()) text += ", whose tensors are not those of the checkpoint";
  } else if (!why.empty()) {
    text += ": " + why;
  }
  return Fail(ErrorKind::kUsage, "unknown-family", std::move(text), "", kSayIt);
}

}  // namespace

Result<SourceConfig> DeriveSourceConfig(const FamilyLibrary& library, const FamilySpec* chosen,
                                        const MegatronConfig& megatron,
                                        const MegatronCheckpoint& checkpoint) {
  if (chosen != nullptr) {
    Result<Attempt> attempt = Try(*chosen, megatron, checkpoint);
    if (attempt) return Finish(std::move(*attempt), megatron);
    Error error = std::move(attempt).error();
    error.what = fmt::format("no config.json of family {} follows from {}: {}", chosen->name,
                             megatron.origin, error.what);
    if (error.hint.empty()) error.hint = kSayIt;
    return Fail(std::move(error));
  }
  WB_TRY(const auto* families, library.All());
  std::vector<Attempt> fitting;
  std::optional<Attempt> nearest;
  std::string why;
  for (const auto& [name, family] : *families) {
    if (megatron.from_bridge() && family.bridge.provider != megatron.provider) continue;
    Result<Attempt> attempt = Try(family, megatron, checkpoint);
    if (!attempt) {
      why = fmt::format("family {}: {}", name, attempt.error().what);
      continue;
    }
    if (Means(*attempt) && Binds(*attempt, checkpoint)) {
      fitting.push_back(std::move(*attempt));
    } else if (!nearest || attempt->differences.size() < nearest->differences.size()) {
      nearest = std::move(*attempt);
      nearest->stored = {};
    }
  }
  if (fitting.empty()) return NothingFits(nearest, why, megatron);
  const std::string all_names = Names(fitting);
  KeepFullest(megatron, fitting);
  if (fitting.empty()) return Several(all_names, megatron);
  if (fitting.size() == 1) return Finish(std::move(fitting[0]), megatron);
  if (Attempt* named = NamedBySource(fitting, megatron.hf_model)) {
    return Finish(std::move(*named), megatron);
  }
  const std::string names = Names(fitting);
  if (Attempt* plainest = Plainest(Originals(fitting))) {
    SourceConfig source = Finish(std::move(*plainest), megatron);
    source.notes.push_back(
        fmt::format("families that fit equally: {}; --family NAME chooses another", names));
    return source;
  }
  return Several(names, megatron);
}

}  // namespace weighbridge
