#include "checks/selftest/selftest.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "base/threads.h"
#include "checks/inventory.h"
#include "checks/megatron_binding.h"
#include "checks/selftest/fault_sites.h"
#include "checks/selftest/held_checkpoint.h"
#include "checks/verify.h"

namespace weighbridge {
namespace {

constexpr int kDraws = 16;  // until a fault changes anything

// Known to TensorFlaws; a list, since which of them a model has a place for is its own.
constexpr std::string_view kTensorCauses[] = {
    "adapter-scale",  "adapter-unmerged", "bit-flip",        "conv-layout",
    "dtype-rounded",  "gate-up-swapped",  "kv-latent-order", "gate-up-interleaved",
    "norm-offset",    "not-finite",       "packed-order",    "qkv-concatenated",
    "qkv-head-order", "qkv-order",        "rope-permuted",   "router-bias-rounded",
    "scaled",         "sign-flipped",     "stale",           "tp-axis",
    "tp-gate-up",     "tp-order",         "tp-packed",       "transposed",
    "uninitialized",  "vocab-shifted",    "zero-filled",
};

uint64_t SeedOf(uint64_t seed, std::string_view subject, std::string_view fault) {
  uint64_t hash = 14695981039346656037ULL ^ (seed * 0x9e3779b97f4a7c15ULL);
  for (const std::string_view text : {subject, std::string_view("/"), fault}) {
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  }
  return hash;
}

// A subject made ready: the right Megatron side, and where it can be wrong.
struct Bench {
  const SelftestSubject* subject = nullptr;
  std::optional<Model> model;
  std::optional<HeldCheckpoint> clean;
  std::optional<FaultSites> sites;
  std::vector<std::string_view> causes;  // of those that were asked for
  uint64_t bytes = 0;
};

Result<Model> ExpandSubject(const SelftestSubject& subject, int64_t pad_vocab) {
  ExpandOptions expand;
  ChooseStorageBy(*subject.hf, expand);
  expand.pad_vocab = pad_vocab;
  return Model::Expand(*subject.family, subject.config, expand);
}

Status Prepare(const SelftestSubject& subject, const SelftestOptions& options, Bench& bench) {
  bench.subject = &subject;
  WB_TRY(bench.model, ExpandSubject(subject, 0));
  WB_TRY(bench.clean, HeldCheckpoint::Create(*bench.model, *subject.hf, options.folder));
  bench.sites.emplace(*bench.model, *bench.clean);
  bench.causes = bench.sites->Causes();
  for (const TensorInfo& t : subject.hf->tensors()) bench.bytes += t.nbytes;
  if (options.causes.empty()) return {};
  std::erase_if(bench.causes, [&](std::string_view cause) {
    return std::find(options.causes.begin(), options.causes.end(), cause) == options.causes.end();
  });
  return {};
}

// What `verify` says of it, concluded.
Result<Report> Judge(const Bench& bench, const HeldCheckpoint& checkpoint) {
  VerifyOptions options;
  options.threads = 1;
  options.strict_padding = true;
  const auto verify = [&](const Model& model) {
    return Verify(model, *bench.subject->hf, checkpoint, options);
  };
  const int64_t stored = StoredVocab(*bench.model, checkpoint.metadata());
  const auto judge = [&]() -> Result<Report> {
    if (stored <= bench.model->padded_vocab()) return verify(*bench.model);
    WB_TRY(const Model padded, ExpandSubject(*bench.subject, stored));
    return verify(padded);
  };
  Result<Report> report = judge();
  if (!report && report.error().kind == ErrorKind::kCorrupt) {
    report = Report();
    report->causes.push_back(
        {report.error().id, Proof::kStructural, Origin::kCheckpoint, {}, "", "", ""});
  }
  if (report) Conclude(*report);
  return report;
}

std::vector<std::string> CauseIds(const Report& report) {
  std::vector<std::string> ids;
  for (const Cause& cause : report.causes) ids.push_back(cause.id);
  return ids;
}

struct Trial {
  const Bench* bench = nullptr;
  uint64_t seed = 0;
  std::vector<std::string_view> causes;
};

// A fault as it was injected: the checkpoint before and after it.
struct Injection {
  std::string_view cause;
  std::string what;
  HeldCheckpoint before, after;
};

// What is kept of a trial.
struct Outcome {
  struct Fault {
    std::string_view cause;
    std::string what;
    bool named = false;
  };
  std::vector<Fault> faults;  // empty: none could be injected
  int64_t inert = 0;
  bool detected = false;
  std::vector<std::string> found;   // causes of the report
  std::vector<std::string> strays;  // of them, those that no fault accounts for
};

// The trial's faults one after another; empty when one of them has no place.
std::vector<Injection> InjectAll(const Trial& trial, uint64_t draw, size_t without) {
  std::vector<Injection> out;
  const HeldCheckpoint* at = &*trial.bench->clean;
  out.reserve(trial.causes.size());
  for (size_t i = 0; i < trial.causes.size(); ++i) {
    if (i == without) continue;
    Random random(SeedOf(trial.seed * kDraws + draw, trial.bench->subject->name, trial.causes[i]));
    HeldCheckpoint after = *at;
    auto what = trial.bench->sites->Inject(trial.causes[i], after, random);
    if (!what) return {};
    out.push_back({trial.causes[i], *std::move(what), *at, std::move(after)});
    at = &out.back().after;
  }
  return out;
}

// Whether each fault shows in the end: without it the checkpoint would be another one.
bool AllShow(const Trial& trial, uint64_t draw, const std::vector<Injection>& faults) {
  for (const Injection& fault : faults) {
    if (fault.before.SameAs(fault.after)) return false;
  }
  for (size_t i = 0; faults.size() > 1 && i < faults.size(); ++i) {
    const auto others = InjectAll(trial, draw, i);
    if (others.empty() || others.back().after.SameAs(faults.back().after)) return false;
  }
  return true;
}

// Whether `cause` is a right name of the fault.
bool Names(const std::string& cause, const FaultSites& sites, const Injection& fault) {
  return SameEvidence(cause, fault.cause) || sites.CanGive(cause, fault.before, fault.after);
}

// The first draw that shows.
std::vector<Injection> Draw(const Trial& trial, int64_t& inert) {
  for (uint64_t draw = 0; draw < kDraws; ++draw) {
    std::vector<Injection> faults = InjectAll(trial, draw, trial.causes.size());
    if (faults.empty()) continue;
    if (AllShow(trial, draw, faults)) return faults;
    ++inert;
  }
  return {};
}

void Run(const Trial& trial, Outcome& out) {
  const std::vector<Injection> faults = Draw(trial, out.inert);
  if (faults.empty()) return;
  const auto report = Judge(*trial.bench, faults.back().after);
  if (report) {
    out.detected = report->verdict == Verdict::kFail;
    out.found = CauseIds(*report);
  } else {
    out.found = {"error: " + report.error().what};
  }
  const FaultSites& sites = *trial.bench->sites;
  for (const Injection& fault : faults) {
    const bool named =
        out.detected && std::any_of(out.found.begin(), out.found.end(),
                                    [&](const auto& cause) { return Names(cause, sites, fault); });
    out.faults.push_back({fault.cause, fault.what, named});
  }
  std::copy_if(out.found.begin(), out.found.end(), std::back_inserter(out.strays),
               [&](const std::string& cause) {
                 return std::none_of(faults.begin(), faults.end(), [&](const Injection& fault) {
                   return Names(cause, sites, fault);
                 });
               });
}

std::vector<Trial> PlanTrials(const std::vector<Bench>& benches, const SelftestOptions& options) {
  std::vector<Trial> trials;
  if (options.faults == 1) {
    for (const Bench& bench : benches) {
      for (const std::string_view cause : bench.causes) {
        for (int64_t i = 0; i < options.seeds; ++i) {
          trials.push_back({&bench, options.first_seed + static_cast<uint64_t>(i), {cause}});
        }
      }
    }
    return trials;
  }
  Random random(options.first_seed);
  for (int64_t i = 0; i < options.combinations; ++i) {
    Trial trial{&benches[static_cast<size_t>(Pick(random, std::ssize(benches)))],
                options.first_seed + static_cast<uint64_t>(i),
                {}};
    std::vector<std::string_view> left = trial.bench->causes;
    while (!left.empty() && trial.causes.size() < static_cast<size_t>(options.faults)) {
      const auto at = Pick(random, std::ssize(left));
      trial.causes.push_back(left[static_cast<size_t>(at)]);
      left.erase(left.begin() + at);
    }
    if (trial.causes.size() == static_cast<size_t>(options.faults)) {
      trials.push_back(std::move(trial));
    }
  }
  return trials;
}

void Count(const Trial& trial, const Outcome& outcome,
           std::map<std::string_view, SelftestCounts>& causes, SelftestFigures& figures) {
  for (const std::string_view cause : trial.causes) causes[cause].inert += outcome.inert;
  for (size_t i = 0; i < outcome.faults.size(); ++i) {
    const Outcome::Fault& fault = outcome.faults[i];
    SelftestCounts& counts = causes[fault.cause];
    ++counts.injected;
    counts.detected += outcome.detected ? 1 : 0;
    counts.named += fault.named ? 1 : 0;
    if (fault.named && outcome.strays.empty()) continue;
    std::string what = fault.what;
    for (const Outcome::Fault& other : outcome.faults) {
      if (&other != &fault) what += fmt::format("; with {} ({})", other.cause, other.what);
    }
    SelftestMiss miss{trial.bench->subject->name, trial.seed, std::string(fault.cause),
                      std::move(what), outcome.found};
    if (!fault.named) figures.misses.push_back(miss);
    if (outcome.strays.empty()) continue;
    ++counts.strays;
    miss.found = outcome.strays;
    if (i == 0) figures.strays.push_back(std::move(miss));
  }
}

double Share(const SelftestCounts& counts) {
  return counts.injected == 0
             ? 1
             : static_cast<double>(counts.named) / static_cast<double>(counts.injected);
}

ResultRow RowNamed(const std::string& name, bool good, std::string why) {
  ResultRow row;
  row.megatron = {name, {}, std::nullopt};
  row.status = good ? RowStatus::kMatch : RowStatus::kMismatch;
  row.transform = "selftest";
  if (!good) row.metrics = NotCompared();
  row.why = std::move(why);
  return row;
}

void AddRows(const SelftestOptions& options, Report& report) {
  const SelftestFigures& figures = *report.selftest;
  const bool enough = options.faults == 1 || Share(figures.total) >= kNamedTogether;
  for (const auto& [cause, counts] : figures.causes) {
    if (counts.injected == 0) continue;
    const bool good = counts.detected == counts.injected &&
                      (options.faults == 1 ? Share(counts) >= kNamedAlone : enough);
    const std::string why = fmt::format("{} injected, {} detected, {} named", counts.injected,
                                        counts.detected, counts.named);
    report.results.push_back(RowNamed(cause, good, why));
    if (!good) {
      AddCause({cause, Proof::kExact, Origin::kRuntime, {cause}, "selftest: " + why, "", ""},
               report);
    }
  }
  const std::string why = fmt::format("{} of {} pairs without a fault gave an alarm",
                                      figures.false_alarms, figures.clean);
  report.results.push_back(RowNamed("pairs without a fault", figures.false_alarms == 0, why));
  if (figures.false_alarms > 0) {
    AddCause({"unexplained", Proof::kExact, Origin::kRuntime, {}, "selftest: " + why, "", ""},
             report);
  }
}

Status CheckCauses(const SelftestOptions& options) {
  const auto known = InjectedCauses();
  for (const std::string& cause : options.causes) {
    if (std::find(known.begin(), known.end(), cause) != known.end()) continue;
    return Fail(ErrorKind::kUsage, "usage", fmt::format("no fault of cause '{}' is known", cause),
                "--causes", fmt::format("one of: {}", fmt::join(known, ", ")));
  }
  return {};
}

}  // namespace

std::vector<std::string_view> InjectedCauses() {
  std::set<std::string_view> causes(std::begin(kTensorCauses), std::end(kTensorCauses));
  for (const ModelFault& fault : ModelFaults()) causes.insert(fault.cause);
  return {causes.begin(), causes.end()};
}

Result<Report> Selftest(const std::vector<SelftestSubject>& subjects,
                        const SelftestOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  WB_RETURN_IF_ERROR(CheckCauses(options));
  std::vector<Bench> benches(subjects.size());
  WB_RETURN_IF_ERROR(TryParallelFor(subjects.size(), options.threads, [&](size_t i) {
    return Prepare(subjects[i], options, benches[i]);
  }));
  const std::vector<Trial> trials = PlanTrials(benches, options);
  const auto bytes_of = [&](size_t i) {
    return i < benches.size() ? benches[i].bytes : trials[i - benches.size()].bench->bytes;
  };
  uint64_t total = 0;
  for (size_t i = 0; i < benches.size() + trials.size(); ++i) total += bytes_of(i);
  if (options.began) options.began(total);

  std::vector<Outcome> outcomes(trials.size());
  std::vector<std::string> alarms(benches.size());
  const auto step = [&](size_t i) {
    if (i < benches.size()) {
      const auto report = Judge(benches[i], *benches[i].clean);
      if (!report) {
        alarms[i] = report.error().what;
      } else if (report->verdict != Verdict::kPass) {
        alarms[i] = fmt::format("{}", fmt::join(CauseIds(*report), ", "));
      }
    } else {
      Run(trials[i - benches.size()], outcomes[i - benches.size()]);
    }
    if (options.progress) options.progress(bytes_of(i));
  };
  ParallelFor(benches.size() + trials.size(), options.threads, step);

  Report report;
  report.command = "selftest";
  report.level = "L1";
  SelftestFigures figures;
  figures.clean = static_cast<int64_t>(benches.size());
  for (size_t i = 0; i < benches.size(); ++i) {
    if (alarms[i].empty()) continue;
    ++figures.false_alarms;
    report.notes.push_back({"false-alarm", benches[i].subject->name + ": " + alarms[i]});
  }
  std::map<std::string_view, SelftestCounts> causes;
  for (size_t i = 0; i < trials.size(); ++i) Count(trials[i], outcomes[i], causes, figures);
  for (const auto& [cause, counts] : causes) {
    figures.causes.emplace_back(cause, counts);
    figures.total.injected += counts.injected;
    figures.total.detected += counts.detected;
    figures.total.named += counts.named;
    figures.total.strays += counts.strays;
    figures.total.inert += counts.inert;
  }
  for (const std::string& cause : options.causes) {
    const auto it = causes.find(cause);
    if (it != causes.end() && it->second.injected > 0) continue;
    report.notes.push_back({"not-injected", cause + ": no model has a place for it"});
  }
  if (figures.total.injected == 0) {
    return Fail(ErrorKind::kUsage, "nothing-compared", "no fault could be injected",
                fmt::format("{}", fmt::join(options.causes, ", ")),
                "choose a model with a place for these faults, or other causes");
  }
  report.selftest = std::move(figures);
  AddRows(options, report);
  report.details.emplace_back("models", fmt::format("{}", benches.size()));
  report.details.emplace_back(
      "faults at once",
      options.faults == 1
          ? fmt::format("1, {} seed(s) from {} on", options.seeds, options.first_seed)
          : fmt::format("{}, {} combinations", options.faults, trials.size()));
  report.bytes = total;
  report.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace weighbridge
