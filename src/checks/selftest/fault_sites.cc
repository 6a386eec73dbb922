#include "checks/selftest/fault_sites.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace weighbridge {
namespace {

// What a layer consists of: layers that are equal in this can stand in each other's place.
using LayerForm = std::vector<std::tuple<const ParamRule*, int64_t, Shape>>;

}  // namespace

FaultSites::FaultSites(const Model& model, const HeldCheckpoint& clean)
    : model_(model), clean_(clean) {
  std::map<const ParamRule*, int> numbers;
  for (size_t i = 0; i < model.parameters().size(); ++i) {
    const Parameter& p = parameter(i);
    rows_.push_back(std::make_shared<const LabelledRows>(LabelRows(model, p)));
    const int rule = numbers.try_emplace(p.rule, static_cast<int>(numbers.size())).first->second;
    std::set<std::string_view> causes;
    for (const TensorFlaw& fault : FaultsOf(i)) causes.insert(fault.cause);
    for (const std::string_view cause : causes) sites_[cause][rule].push_back(i);
  }
}

std::vector<TensorFlaw> FaultSites::FaultsOf(size_t i) const {
  return TensorFlaws({parameter(i), rows_[i], clean_.Held(i).dtype});
}

std::vector<std::string_view> FaultSites::Causes() const {
  std::set<std::string_view> causes;
  for (const auto& [cause, rules] : sites_) causes.insert(cause);
  for (const ModelFault& fault : ModelFaults()) {
    HeldCheckpoint copy = clean_;
    Random random(1);
    if (!causes.contains(fault.cause) && fault.inject(*this, copy, random)) {
      causes.insert(fault.cause);
    }
  }
  return {causes.begin(), causes.end()};
}

std::optional<std::string> FaultSites::Inject(std::string_view cause, HeldCheckpoint& checkpoint,
                                              Random& random) const {
  std::vector<const ModelFault*> others;
  for (const ModelFault& fault : ModelFaults()) {
    if (fault.cause == cause) others.push_back(&fault);
  }
  const auto choices = static_cast<int64_t>(others.size()) + (sites_.contains(cause) ? 1 : 0);
  if (choices == 0) return std::nullopt;
  const auto choice = static_cast<size_t>(Pick(random, choices));
  if (choice < others.size()) return others[choice]->inject(*this, checkpoint, random);
  return InjectTensorFault(cause, checkpoint, random);
}

std::optional<std::string> FaultSites::InjectTensorFault(std::string_view cause,
                                                         HeldCheckpoint& checkpoint,
                                                         Random& random) const {
  const auto& rules = sites_.at(cause);
  const auto& of_rule = std::next(rules.begin(), Pick(random, std::ssize(rules)))->second;
  const size_t at = of_rule[static_cast<size_t>(Pick(random, std::ssize(of_rule)))];
  std::vector<TensorFlaw> faults = FaultsOf(at);
  std::erase_if(faults, [&](const TensorFlaw& fault) { return fault.cause != cause; });
  const TensorFlaw& fault = faults[static_cast<size_t>(Pick(random, std::ssize(faults)))];
  const bool everywhere = of_rule.size() > 1 && Pick(random, 2) == 0;
  bool done = false;
  for (const size_t i : everywhere ? of_rule : std::vector<size_t>{at}) {
    if (!checkpoint.IsWhole(i)) continue;
    for (const TensorFlaw& same : FaultsOf(i)) {
      if (same.cause != cause || same.what != fault.what) continue;
      checkpoint.Hold(i, same.apply(checkpoint.Held(i), random));
      done = true;
      break;
    }
  }
  if (!done) return std::nullopt;
  return fmt::format("{}: {}",
                     everywhere ? model_.MegatronPattern(parameter(at), Dialect::kTe)
                                : model_.MegatronName(parameter(at), Dialect::kTe),
                     fault.what);
}

std::vector<size_t> FaultSites::Where(const std::function<bool(const Parameter&)>& accepts) const {
  std::vector<size_t> out;
  for (size_t i = 0; i < model_.parameters().size(); ++i) {
    if (accepts(parameter(i))) out.push_back(i);
  }
  return out;
}

std::vector<Displacement> FaultSites::LayerDisplacements(const StackRule* stack) const {
  std::map<int64_t, LayerForm> forms;
  for (const Parameter& p : model_.parameters()) {
    if (p.stack == stack) forms[p.layer].emplace_back(p.rule, p.expert, p.shape);
  }
  std::map<LayerForm, std::vector<int64_t>> alike;
  for (const auto& [layer, form] : forms) alike[form].push_back(layer);
  std::vector<Displacement> out;
  for (const auto& [form, layers] : alike) {
    const size_t n = layers.size();
    for (size_t a = 0; a < n; ++a) {
      for (size_t b = 0; b < n; ++b) {
        const int64_t i = layers[a], j = layers[b];
        if (a < b) {
          out.push_back(
              {"layer-offset", fmt::format("layers {} and {} swapped", i, j), {{i, j}, {j, i}}});
        }
        if (a != b) {
          out.push_back(
              {"layer-duplicated", fmt::format("layer {} holds layer {}", i, j), {{i, j}}});
        }
      }
    }
    if (n < 3) continue;
    Displacement on{"layer-offset", "layers moved on by one", {}}, back = on, restart = on;
    for (size_t a = 0; a < n; ++a) {
      on.source_of[layers[a]] = layers[(a + 1) % n];
      back.source_of[layers[a]] = layers[(a + n - 1) % n];
      if (a >= n / 2) restart.source_of[layers[a]] = layers[a - n / 2];
    }
    back.what = "layers moved back by one";
    restart.what = "the second stage's layers counted from 0";
    out.push_back(std::move(on));
    out.push_back(std::move(back));
    if (n % 2 == 0) out.push_back(std::move(restart));
  }
  return out;
}

std::vector<Displacement> FaultSites::ExpertDisplacements(int64_t experts) {
  std::vector<Displacement> out;
  constexpr int64_t kMost = 16;  // of which pairs are tried
  for (int64_t i = 0; i < std::min(experts, kMost); ++i) {
    for (int64_t j = i + 1; j < std::min(experts, kMost); ++j) {
      out.push_back(
          {"expert-order", fmt::format("experts {} and {} swapped", i, j), {{i, j}, {j, i}}});
    }
  }
  Displacement reversed{"expert-order", "experts in reverse", {}}, moved = reversed, local = moved;
  for (int64_t e = 0; e < experts; ++e) {
    reversed.source_of[e] = experts - 1 - e;
    moved.source_of[e] = (e + experts / 2) % experts;
    if (e >= experts / 2) local.source_of[e] = e - experts / 2;
  }
  moved.what = "experts moved on by half of them";
  local.what = "the second rank's experts counted from 0";
  out.push_back(std::move(reversed));
  out.push_back(std::move(moved));
  if (experts % 2 == 0 && experts > 1) out.push_back(std::move(local));
  return out;
}

std::vector<const StackRule*> FaultSites::MovableStacks() const {
  std::vector<const StackRule*> out;
  for (const Parameter& p : model_.parameters()) {
    if (p.stack == nullptr || std::find(out.begin(), out.end(), p.stack) != out.end()) continue;
    if (!LayerDisplacements(p.stack).empty()) out.push_back(p.stack);
  }
  return out;
}

bool FaultSites::Displace(const Displacement& displacement, const std::vector<size_t>& indexes,
                          bool experts, const HeldCheckpoint& before, HeldCheckpoint& after) const {
  const auto key = [](const Parameter& p, int64_t layer, int64_t expert) {
    return std::tuple(p.rule, p.stack, layer, expert);
  };
  std::map<std::tuple<const ParamRule*, const StackRule*, int64_t, int64_t>, size_t> by_place;
  for (const size_t i : indexes) {
    by_place[key(parameter(i), parameter(i).layer, parameter(i).expert)] = i;
  }
  bool moved = false;
  for (const size_t i : indexes) {
    const Parameter& p = parameter(i);
    const auto source = displacement.source_of.find(experts ? p.expert : p.layer);
    if (source == displacement.source_of.end()) continue;
    const auto from =
        by_place.find(experts ? key(p, p.layer, source->second) : key(p, source->second, p.expert));
    if (from == by_place.end() || !before.IsWhole(i) || !before.IsWhole(from->second)) continue;
    if (before.Held(i).shape != before.Held(from->second).shape) continue;
    after.Hold(i, before.Held(from->second));
    moved = true;
  }
  return moved;
}

bool FaultSites::CanGive(std::string_view cause, const HeldCheckpoint& before,
                         const HeldCheckpoint& after) const {
  const std::vector<size_t> changed = after.ChangedSince(before);
  return !changed.empty() && (TensorFaultGives(cause, changed, before, after) ||
                              DisplacementGives(cause, changed, before, after));
}

bool FaultSites::TensorFaultGives(std::string_view cause, const std::vector<size_t>& changed,
                                  const HeldCheckpoint& before, const HeldCheckpoint& after) const {
  Random unused(0);
  return std::all_of(changed.begin(), changed.end(), [&](size_t i) {
    const std::vector<TensorFlaw> faults = FaultsOf(i);
    return std::any_of(faults.begin(), faults.end(), [&](const TensorFlaw& fault) {
      return fault.cause == cause && !fault.random &&
             fault.apply(before.Held(i), unused) == after.Held(i);
    });
  });
}

bool FaultSites::DisplacementGives(std::string_view cause, const std::vector<size_t>& changed,
                                   const HeldCheckpoint& before,
                                   const HeldCheckpoint& after) const {
  const Parameter& first = parameter(changed[0]);
  std::vector<std::pair<Displacement, bool>> all;
  if (cause == "expert-order" && first.is_expert()) {
    for (Displacement& d : ExpertDisplacements(first.experts)) all.emplace_back(std::move(d), true);
  } else if (first.stack != nullptr) {
    for (Displacement& d : LayerDisplacements(first.stack)) {
      if (d.cause == cause) all.emplace_back(std::move(d), false);
    }
  }
  for (const auto& [displacement, experts] : all) {
    HeldCheckpoint other = before;
    const auto same_stack = Where([&](const Parameter& p) {
      return p.stack == first.stack && (!experts || p.is_expert()) &&
             (!experts || p.layer == first.layer);
    });
    if (Displace(displacement, same_stack, experts, before, other) && other.SameAs(after)) {
      return true;
    }
  }
  return false;
}

bool SameEvidence(std::string_view a, std::string_view b) {
  const auto of_adapters = [](std::string_view cause) {
    return cause == "adapter-unmerged" || cause == "adapter-scale";
  };
  return a == b || (of_adapters(a) && of_adapters(b));
}

}  // namespace weighbridge
