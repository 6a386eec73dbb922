// Faults across tensors: tensors in each other's place, and what the inventory shows.
#include <fmt/format.h>

#include <algorithm>

#include "checks/selftest/fault_sites.h"
#include "family/disk_names.h"

namespace weighbridge {
namespace {

using Injected = std::optional<std::string>;

bool Has(const Parameter& p, std::string_view text) {
  return p.rule->megatron.find(text) != std::string::npos;
}

std::string KeyOf(const FaultSites& sites, size_t i) {
  return WrittenName(sites.model(), sites.parameter(i), Dialect::kTe).key;
}

// -- in each other's place --

Injected MoveLayers(const FaultSites& sites, HeldCheckpoint& checkpoint, Random& random,
                    std::string_view cause) {
  const auto stacks = sites.MovableStacks();
  if (stacks.empty()) return std::nullopt;
  const StackRule* stack = OneOf(stacks, random);
  std::vector<Displacement> all = sites.LayerDisplacements(stack);
  std::erase_if(all, [&](const Displacement& d) { return d.cause != cause; });
  const Displacement& displacement = OneOf(all, random);
  const auto of_stack = sites.Where([&](const Parameter& p) { return p.stack == stack; });
  const HeldCheckpoint before = checkpoint;
  // One kind of tensor only, now and then; of a duplicate that would be `stale`.
  std::vector<size_t> moved = of_stack;
  if (cause == "layer-offset" && Pick(random, 3) == 0) {
    const ParamRule* rule = sites.parameter(OneOf(of_stack, random)).rule;
    std::erase_if(moved, [&](size_t i) { return sites.parameter(i).rule != rule; });
  }
  if (!sites.Displace(displacement, moved, false, before, checkpoint)) return std::nullopt;
  return fmt::format(
      "{}{}", displacement.what,
      moved.size() < of_stack.size() ? ", only " + sites.parameter(moved[0]).rule->megatron : "");
}

Injected LayerOffset(const FaultSites& sites, HeldCheckpoint& checkpoint, Random& random) {
  return MoveLayers(sites, checkpoint, random, "layer-offset");
}

Injected LayerDuplicated(const FaultSites& sites, HeldCheckpoint& checkpoint, Random& random) {
  return MoveLayers(sites, checkpoint, random, "layer-duplicated");
}

// The experts of one layer, or of all layers; all their tensors, or those of one rule.
std::vector<size_t> SomeExperts(const FaultSites& sites, Random& random, bool one_rule) {
  const auto all = sites.Where([](const Parameter& p) { return p.is_expert() && p.experts > 1; });
  if (all.empty()) return {};
  const Parameter& one = sites.parameter(OneOf(all, random));
  const bool every_layer = Pick(random, 2) == 0;
  one_rule = one_rule || Pick(random, 3) == 0;
  return sites.Where([&](const Parameter& p) {
    return p.is_expert() && p.stack == one.stack && p.experts == one.experts &&
           (every_layer || p.layer == one.layer) && (!one_rule || p.rule == one.rule);
  });
}

std::string ExpertsText(const FaultSites& sites, const std::vector<size_t>& some) {
  return fmt::format("{} tensor(s) from {} on", some.size(),
                     sites.model().MegatronName(sites.parameter(some[0]), Dialect::kTe));
}

Injected ExpertOrder(const FaultSites& sites, HeldCheckpoint& checkpoint, Random& random) {
  const auto some = SomeExperts(sites, random, false);
  if (some.empty()) return std::nullopt;
  const auto all = FaultSites::ExpertDisplacements(sites.parameter(some[0]).experts);
  const Displacement& displacement = OneOf(all, random);
  const HeldCheckpoint before = checkpoint;
  if (!sites.Displace(displacement, some, true, before, checkpoint)) return std::nullopt;
  return displacement.what + ", " + ExpertsText(sites, some);
}

// [experts, out, in] read as [out, experts, in].
Injected ExpertStacking(const FaultSites& sites, HeldCheckpoint& checkpoint, Random& random) {
  const auto some = SomeExperts(sites, random, true);
  if (some.empty() || sites.parameter(some[0]).shape.size() != 2) return std::nullopt;
  const HeldCheckpoint before = checkpoint;
  const int64_t experts = sites.parameter(some[0]).experts;
  for (const size_t i : some) {
    if (!before.IsWhole(i)) return std::nullopt;
    const Parameter& p = sites.parameter(i);
    std::vector<size_t> layer(static_cast<size_t>(experts), i);
    for (const size_t j : some) {
      const Parameter& q = sites.parameter(j);
      if (q.layer == p.layer) layer[static_cast<size_t>(q.expert)] = j;
    }
    HeldTensor out = before.Held(i);
    const int64_t n = out.rows(), k = out.columns();
    for (int64_t e = 0; e < out.numel(); ++e) {
      const int64_t flat = (e / k * experts + p.expert) * k + e % k;
      out.SetBits(e, before.Held(layer[static_cast<size_t>(flat / (n * k))]).Bits(flat % (n * k)));
    }
    checkpoint.Hold(i, std::move(out));
  }
  return ExpertsText(sites, some);
}

// All of a tensor, or one part of its rows, from another tensor of its shape.
Injected Stale(const FaultSites& sites, HeldCheckpoint& checkpoint, Random& random) {
  const auto all = sites.Where([](const Parameter& p) { return Numel(p.shape) >= 8; });
  for (int tried = 0; tried < 32 && !all.empty(); ++tried) {
    const size_t at = OneOf(all, random), from = OneOf(all, random);
    const Parameter &p = sites.parameter(at), &q = sites.parameter(from);
    const bool fits = at != from && p.shape == q.shape &&
                      checkpoint.Held(at).dtype == checkpoint.Held(from).dtype &&
                      (p.rule != q.rule || p.layer != q.layer) && checkpoint.IsWhole(at) &&
                      checkpoint.IsWhole(from);
    // Of one rule and layer, or an expert of another layer: that is expert-order, or both.
    if (!fits || (p.rule == q.rule && p.expert != q.expert)) continue;
    HeldTensor out = checkpoint.Held(at);
    const LabelledRows& rows = sites.rows(at);
    const bool some = p.rule == q.rule && rows.parts.size() > 1 && Pick(random, 3) == 0;
    const auto part = static_cast<int>(Pick(random, std::ssize(rows.parts)));
    if (some && rows.padding[static_cast<size_t>(part)]) continue;
    for (int64_t e = 0; e < out.numel(); ++e) {
      if (some && rows.rows[static_cast<size_t>(e / out.columns())].part != part) continue;
      out.SetBits(e, checkpoint.Held(from).Bits(e));
    }
    checkpoint.Hold(at, std::move(out));
    return fmt::format("{}{} holds {}", sites.model().MegatronName(p, Dialect::kTe),
                       some ? ", its " + rows.parts[static_cast<size_t>(part)] + "," : "",
                       sites.model().MegatronName(q, Dialect::kTe));
  }
  return std::nullopt;
}

// -- inventory --

enum class Sort { kPlain, kMtp, kExpert, kSharedExpert, kRouterBias, kBias, kHead };

Sort SortOf(const Parameter& p) {
  if (p.place == Place::kMtp) return Sort::kMtp;
  if (p.rule->megatron.ends_with("output_layer.weight")) return Sort::kHead;
  if (p.rule->megatron.ends_with("router.expert_bias")) return Sort::kRouterBias;
  if (Has(p, "shared_expert")) return Sort::kSharedExpert;
  if (p.rule->megatron.find("bias") != std::string::npos) return Sort::kBias;
  return p.is_expert() ? Sort::kExpert : Sort::kPlain;
}

// All tensors of one rule of that sort.
Injected RemoveRule(const FaultSites& sites, HeldCheckpoint& checkpoint, Random& random,
                    Sort sort) {
  const auto of_sort = sites.Where([&](const Parameter& p) { return SortOf(p) == sort; });
  if (of_sort.empty()) return std::nullopt;
  const ParamRule* rule = sites.parameter(OneOf(of_sort, random)).rule;
  const auto gone = sites.Where([&](const Parameter& p) { return p.rule == rule; });
  if (!checkpoint.IsWhole(gone[0])) return std::nullopt;
  checkpoint.Remove({gone.begin(), gone.end()});
  return rule->megatron + " removed";
}

template <Sort kSort>
Injected Missing(const FaultSites& sites, HeldCheckpoint& checkpoint, Random& random) {
  return RemoveRule(sites, checkpoint, random, kSort);
}

// All that is of that sort.
template <Sort kSort>
Injected AllMissing(const FaultSites& sites, HeldCheckpoint& checkpoint, Random&) {
  const auto gone = sites.Where([](const Parameter& p) { return SortOf(p) == kSort; });
  if (gone.empty() || !checkpoint.IsWhole(gone[0])) return std::nullopt;
  checkpoint.Remove({gone.begin(), gone.end()});
  return fmt::format("all {} tensors removed", gone.size());
}

Injected LastExpertMissing(const FaultSites& sites, HeldCheckpoint& checkpoint, Random&) {
  const auto gone = sites.Where([](const Parameter& p) {
    return p.is_expert() && p.place != Place::kMtp && p.experts > 1 && p.expert == p.experts - 1;
  });
  if (gone.empty() || !checkpoint.IsWhole(gone[0])) return std::nullopt;
  checkpoint.Remove({gone.begin(), gone.end()});
  return "the last expert of every layer removed";
}

Injected LastLayerMissing(const FaultSites& sites, HeldCheckpoint& checkpoint, Random&) {
  const int64_t last = sites.model().layers() - 1;
  const auto gone = sites.Where([&](const Parameter& p) {
    return p.place == Place::kDecoder && p.stack != nullptr && !p.stack->is_tower() &&
           p.layer == last;
  });
  if (gone.empty() || last < 1 || !checkpoint.IsWhole(gone[0])) return std::nullopt;
  checkpoint.Remove({gone.begin(), gone.end()});
  return "the last layer removed";
}

Injected Extra(const FaultSites& sites, HeldCheckpoint& checkpoint, Random& random) {
  const auto all = sites.Where([](const Parameter&) { return true; });
  const size_t like = OneOf(all, random);
  const std::string key = KeyOf(sites, like);
  const size_t dot = key.rfind('.');
  const std::string extra = key.substr(0, dot) + "_extra" + key.substr(dot);
  if (checkpoint.metadata().Find(extra) != nullptr) return std::nullopt;
  checkpoint.AddTensor(extra, checkpoint.Held(like));
  return extra + " added";
}

Injected TieMismatch(const FaultSites& sites, HeldCheckpoint& checkpoint, Random& random) {
  const Model& model = sites.model();
  if (!model.tied()) return RemoveRule(sites, checkpoint, random, Sort::kHead);
  const auto embedding = sites.Where(
      [](const Parameter& p) { return p.rule->megatron.ends_with("word_embeddings.weight"); });
  if (embedding.empty() || checkpoint.metadata().Find(model.tied_megatron()) != nullptr) {
    return std::nullopt;
  }
  HeldTensor head = checkpoint.Held(embedding[0]);
  for (int64_t e = 0; e < head.numel(); ++e) head.SetValue(e, 0.02 * PickNormal(random));
  checkpoint.AddTensor(model.tied_megatron(), std::move(head));
  return "an output layer of its own added";
}

// A row, or a column, too few.
Injected ShapeMismatch(const FaultSites& sites, HeldCheckpoint& checkpoint, Random& random) {
  const auto all = sites.Where([](const Parameter& p) {
    return !p.shape.empty() && *std::min_element(p.shape.begin(), p.shape.end()) > 1 &&
           !Has(p, "embedding") && !Has(p, "output_layer");
  });
  if (all.empty()) return std::nullopt;
  const size_t at = OneOf(all, random);
  const auto axis = static_cast<size_t>(Pick(random, std::ssize(sites.parameter(at).shape)));
  if (!checkpoint.IsWhole(at)) return std::nullopt;
  checkpoint.Rewrite(KeyOf(sites, at), [&](const HeldTensor& t) {
    HeldTensor out = t;
    --out.shape[axis];
    out.bytes.resize(static_cast<size_t>(out.numel()) * out.element_size());
    for (int64_t e = 0; e < out.numel(); ++e) {
      const std::vector<int64_t> index = MultiIndex(out.shape, e);
      int64_t source = 0;
      for (size_t i = 0; i < index.size(); ++i) source = source * t.shape[i] + index[i];
      out.SetBits(e, t.Bits(source));
    }
    return out;
  });
  return fmt::format("{}: axis {} one too short", KeyOf(sites, at), axis);
}

// Padded rows that are not zero, where zeros are asked for.
Injected VocabPadding(const FaultSites& sites, HeldCheckpoint& checkpoint, Random& random) {
  const auto all =
      sites.Where([](const Parameter& p) { return p.storage->transform == "pad_vocab"; });
  if (all.empty()) return std::nullopt;
  const int64_t more = 1 + Pick(random, 128);
  for (const size_t i : all) {
    if (!checkpoint.IsWhole(i)) return std::nullopt;
  }
  for (const size_t i : all) {
    checkpoint.Rewrite(KeyOf(sites, i), [&](const HeldTensor& t) {
      HeldTensor out = t;
      out.shape[0] += more;
      out.bytes.resize(static_cast<size_t>(out.numel()) * out.element_size());
      for (int64_t e = t.numel(); e < out.numel(); ++e) out.SetValue(e, 0.02 * PickNormal(random));
      return out;
    });
  }
  return fmt::format("{} rows that are not zero behind the vocabulary", more);
}

// Stored in a narrower dtype, not only rounded to it.
Injected StoredNarrower(const FaultSites& sites, HeldCheckpoint& checkpoint, Random& random) {
  const auto all = sites.Where([&](const Parameter& p) { return p.rule->dtype == DType::kF32; });
  if (all.empty()) return std::nullopt;
  const size_t at = OneOf(all, random);
  const DType to = DType::kBF16;
  if (checkpoint.Held(at).dtype != DType::kF32 || !checkpoint.IsWhole(at)) return std::nullopt;
  checkpoint.Rewrite(KeyOf(sites, at), [&](const HeldTensor& t) {
    HeldTensor out{to, t.shape, {}};
    out.bytes.resize(static_cast<size_t>(t.numel()) * out.element_size());
    for (int64_t e = 0; e < t.numel(); ++e) out.SetValue(e, t.Value(e));
    return out;
  });
  return KeyOf(sites, at) + " stored as " + std::string(ShortName(to));
}

// Codes of four bits where values are expected, two in a byte.
Injected PackedQuantized(const FaultSites& sites, HeldCheckpoint& checkpoint, Random& random) {
  const auto all = sites.Where([](const Parameter& p) {
    return p.shape.size() == 2 && p.shape[0] > 1 && p.shape[1] % 2 == 0;
  });
  if (all.empty()) return std::nullopt;
  const size_t at = OneOf(all, random);
  if (!checkpoint.IsWhole(at)) return std::nullopt;
  checkpoint.Rewrite(KeyOf(sites, at), [&](const HeldTensor& t) {
    HeldTensor out{DType::kU8, {t.shape[0], t.shape[1] / 2}, {}};
    for (int64_t e = 0; e < out.numel(); ++e) {
      out.bytes.push_back(static_cast<std::byte>(Pick(random, 256)));
    }
    return out;
  });
  return KeyOf(sites, at) + " as packed codes";
}

// One norm under the name that another module spec gives it, the others as they are.
Injected LayernormAlias(const FaultSites& sites, HeldCheckpoint& checkpoint, Random& random) {
  const auto other_name = [&](const Parameter& p) {
    return WrittenName(sites.model(), p, Dialect::kLocal).key;
  };
  const auto all = sites.Where([&](const Parameter& p) {
    return Has(p, "norm") && WrittenName(sites.model(), p, Dialect::kTe).key != other_name(p);
  });
  std::set<std::string> keys;
  for (const size_t i : all) keys.insert(KeyOf(sites, i));
  if (keys.size() < 2) return std::nullopt;  // all of them would be another spec's model
  const size_t at = OneOf(all, random);
  const std::string from = KeyOf(sites, at), to = other_name(sites.parameter(at));
  if (!checkpoint.IsWhole(at) || !checkpoint.Rename(from, to)) return std::nullopt;
  return fmt::format("{} under the name {}", from, to);
}

}  // namespace

const std::vector<ModelFault>& ModelFaults() {
  static const std::vector<ModelFault> kFaults = [] {
    std::vector<ModelFault> all = {
        {"layer-offset", LayerOffset},
        {"layer-duplicated", LayerDuplicated},
        {"expert-order", ExpertOrder},
        {"expert-stacking", ExpertStacking},
        {"stale", Stale},
        {"dtype-rounded", StoredNarrower},
        {"tensor-missing", Missing<Sort::kPlain>},
        {"bias-missing", Missing<Sort::kBias>},
        {"expert-missing", Missing<Sort::kExpert>},
        {"expert-missing", LastExpertMissing},
        {"shared-expert-missing", AllMissing<Sort::kSharedExpert>},
        {"router-bias-missing", Missing<Sort::kRouterBias>},
        {"mtp-missing", AllMissing<Sort::kMtp>},
        {"layer-missing", LastLayerMissing},
        {"tensor-extra", Extra},
        {"tie-mismatch", TieMismatch},
        {"shape-mismatch", ShapeMismatch},
        {"packed-quantized", PackedQuantized},
        {"layernorm-alias", LayernormAlias},
        {"vocab-padding", VocabPadding},
    };
    all.insert(all.end(), ConfigFaults().begin(), ConfigFaults().end());
    return all;
  }();
  return kFaults;
}

}  // namespace weighbridge
