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
#include "checks/selftest/file_faults.h"
#include "checks/selftest/trials.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

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

void KeepChosen(const SelftestOptions& options, Bench& bench) {
  if (options.causes.empty()) return;
  std::erase_if(bench.causes, [&](std::string_view cause) {
    return std::find(options.causes.begin(), options.causes.end(), cause) == options.causes.end();
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
    std::erase_if(left, ComesAlone);
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
  for (const FileFault& fault : FileFaults()) causes.insert(fault.cause);
  for (const std::string_view cause : CodedModel::AllCauses()) causes.insert(cause);
  return {causes.begin(), causes.end()};
}

Result<Report> Selftest(const std::vector<SelftestSubject>& subjects,
                        const SelftestOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  WB_RETURN_IF_ERROR(CheckCauses(options));
  std::vector<Bench> benches(subjects.size());
  WB_RETURN_IF_ERROR(TryParallelFor(subjects.size(), options.threads, [&](size_t i) {
    return Prepare(subjects[i], options.folder / fmt::format("subject-{}", i), benches[i]);
  }));
  for (Bench& bench : benches) KeepChosen(options, bench);
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
    const fs::path folder = options.folder / fmt::format("trial-{}", i);
    if (i < benches.size()) {
      const auto report = JudgeClean(benches[i], folder);
      if (!report) {
        alarms[i] = report.error().what;
      } else if (report->verdict != Verdict::kPass) {
        alarms[i] = fmt::format("{}", fmt::join(CauseIds(*report), ", "));
      }
    } else {
      outcomes[i - benches.size()] = RunTrial(trials[i - benches.size()], folder);
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
