#include "checks/selftest/trials.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <set>
#include <system_error>
#include <utility>

#include "base/json.h"
#include "checks/inventory.h"
#include "checks/megatron_binding.h"
#include "checks/verify.h"
#include "formats/quantized/checkpoint.h"
#include "formats/quantized/config.h"
#include "formats/torch_dist/reader.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

constexpr int kDraws = 16;  // until a fault changes anything

uint64_t SeedOf(uint64_t seed, std::string_view subject, std::string_view fault) {
  uint64_t hash = 14695981039346656037ULL ^ (seed * 0x9e3779b97f4a7c15ULL);
  for (const std::string_view text : {subject, std::string_view("/"), fault}) {
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  }
  return hash;
}

Result<Model> ExpandSubject(const SelftestSubject& subject, const Checkpoint& hf,
                            int64_t pad_vocab) {
  ExpandOptions expand;
  ChooseStorageBy(hf, expand);
  expand.pad_vocab = pad_vocab;
  return Model::Expand(*subject.family, subject.config, expand);
}

// A folder that goes when the trial does.
class TrialFolder {
 public:
  explicit TrialFolder(fs::path path) : path_(std::move(path)) {}
  ~TrialFolder() {
    std::error_code error;
    fs::remove_all(path_, error);
  }
  TrialFolder(const TrialFolder&) = delete;
  TrialFolder& operator=(const TrialFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

Status MakeFolder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error) return {};
  return Fail(ErrorKind::kIo, "io", "cannot create a temporary folder: " + error.message(),
              folder.string());
}

// What has the checkpoint under judgement broken is its cause; concluded.
Result<Report> Judged(Result<Report> report) {
  if (!report && report.error().kind == ErrorKind::kCorrupt) {
    Report broken;
    broken.causes.push_back(
        {report.error().id, Proof::kStructural, Origin::kCheckpoint, {}, "", "", ""});
    report = std::move(broken);
  }
  if (report) Conclude(*report);
  return report;
}

// Hidden behaviour of the runtime is no fault of either side.
Result<Report> VerifyPair(const SelftestSubject& subject, const Checkpoint& hf,
                          const MegatronCheckpoint& megatron) {
  VerifyOptions options;
  options.threads = 1;
  options.strict_padding = true;
  options.effects = RuntimeChoice{.hidden = false, .version = ""};
  WB_TRY(Model model, ExpandSubject(subject, hf, 0));
  const int64_t stored = StoredVocab(model, megatron.metadata());
  if (stored > model.padded_vocab()) {
    WB_TRY(model, ExpandSubject(subject, hf, stored));
  }
  return Verify(model, hf, megatron, options);
}

Result<Report> Judge(const Bench& bench, HeldCheckpoint checkpoint, const fs::path& folder) {
  const TrialFolder scratch(folder);
  WB_RETURN_IF_ERROR(MakeFolder(folder));
  WB_RETURN_IF_ERROR(checkpoint.SettleIn(folder));
  return Judged(VerifyPair(*bench.subject, *bench.subject->hf, checkpoint));
}

Result<Report> VerifyFiles(const SelftestSubject& subject, const PairOnDisk& pair) {
  WB_TRY(const auto hf, OpenCheckpoint(pair.hf));
  WB_TRY(const MegatronFolder folder, FindMegatronFolder(pair.megatron));
  WB_TRY(const auto megatron, TorchDistCheckpoint::Open(folder.iteration));
  return VerifyPair(subject, *hf, *megatron);
}

// A fault as it was injected: the checkpoint before and after it.
struct Injection {
  std::string_view cause;
  std::string what;
  HeldCheckpoint before, after;
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

const FileFault* FindFileFault(std::string_view cause) {
  for (const FileFault& fault : FileFaults()) {
    if (fault.cause == cause) return &fault;
  }
  return nullptr;
}

void Note(const Result<Report>& report, Outcome& out) {
  if (report) {
    out.detected = report->verdict == Verdict::kFail;
    out.found = CauseIds(*report);
  } else {
    out.found = {"error: " + report.error().what};
  }
}

bool IsOfCodes(std::string_view cause) {
  const auto causes = CodedModel::AllCauses();
  return std::find(causes.begin(), causes.end(), cause) != causes.end();
}

// The Megatron side of quantized weights with these values.
Result<Report> JudgeCoded(const Bench& bench, const CodedSubject& coded, const CodedValues& values,
                          const fs::path& folder) {
  coded.model.WritePlain(values, folder);
  WB_TRY(const auto plain, OpenCheckpoint(folder));
  WB_TRY(const Model model, ExpandSubject(*bench.subject, *plain, 0));
  WB_TRY(HeldCheckpoint megatron, HeldCheckpoint::Create(model, *plain));
  WB_RETURN_IF_ERROR(megatron.SettleIn(folder));
  return VerifyPair(*bench.subject, *coded.hf, megatron);
}

void NameAlone(std::string_view cause, std::string what, Outcome& out) {
  const auto is_cause = [&](const std::string& found) { return found == cause; };
  const bool named = std::any_of(out.found.begin(), out.found.end(), is_cause);
  out.faults.push_back({cause, std::move(what), out.detected && named});
  std::remove_copy_if(out.found.begin(), out.found.end(), std::back_inserter(out.strays), is_cause);
}

Outcome RunOnCodes(const Trial& trial, std::string_view cause, const fs::path& folder) {
  Outcome out;
  std::vector<const CodedSubject*> able;
  for (const CodedSubject& coded : trial.bench->coded) {
    const auto causes = coded.model.Causes();
    if (std::find(causes.begin(), causes.end(), cause) != causes.end()) able.push_back(&coded);
  }
  if (able.empty()) return out;
  for (uint64_t draw = 0; draw < kDraws; ++draw) {
    Random random(SeedOf(trial.seed * kDraws + draw, trial.bench->subject->name, cause));
    const CodedSubject& coded = *able[static_cast<size_t>(Pick(random, std::ssize(able)))];
    CodedValues values = coded.values;
    const auto what = coded.model.Inject(cause, values, random);
    if (!what) continue;
    const TrialFolder scratch(folder);
    Note(Judged(JudgeCoded(*trial.bench, coded, values, folder)), out);
    NameAlone(cause, *what, out);
    break;
  }
  return out;
}

Result<std::unique_ptr<Checkpoint>> OpenCoded(const fs::path& folder) {
  WB_TRY(const nlohmann::json config, ReadJsonFile(folder / "config.json"));
  WB_TRY(const QuantizationConfig quantization, ReadQuantizationConfig(config));
  WB_TRY(auto stored, OpenCheckpoint(folder));
  return ShowValues(std::move(stored), quantization);
}

Outcome RunInMemory(const Trial& trial, const fs::path& folder) {
  Outcome out;
  const std::vector<Injection> faults = Draw(trial, out.inert);
  if (faults.empty()) return out;
  Note(Judge(*trial.bench, faults.back().after, folder), out);
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
  return out;
}

Outcome RunOnFiles(const Trial& trial, const FileFault& fault, const fs::path& folder) {
  Outcome out;
  if (!trial.bench->files) return out;
  const TrialFolder scratch(folder);
  const auto copy = CopyPair(*trial.bench->files, folder);
  Random random(SeedOf(trial.seed, trial.bench->subject->name, fault.cause));
  const auto what = copy ? fault.inject(*copy, random) : std::nullopt;
  if (!what) return out;
  Note(Judged(VerifyFiles(*trial.bench->subject, *copy)), out);
  NameAlone(fault.cause, *what, out);
  return out;
}

}  // namespace

std::vector<std::string> CauseIds(const Report& report) {
  std::vector<std::string> ids;
  for (const Cause& cause : report.causes) ids.push_back(cause.id);
  return ids;
}

bool ComesAlone(std::string_view cause) {
  return FindFileFault(cause) != nullptr || IsOfCodes(cause);
}

Status Prepare(const SelftestSubject& subject, const fs::path& folder, Bench& bench) {
  bench.subject = &subject;
  WB_TRY(bench.model, ExpandSubject(subject, *subject.hf, 0));
  WB_TRY(bench.clean, HeldCheckpoint::Create(*bench.model, *subject.hf));
  bench.sites.emplace(*bench.model, *bench.clean);
  bench.causes = bench.sites->Causes();
  for (const TensorInfo& t : subject.hf->tensors()) bench.bytes += t.nbytes;
  if (subject.folder.empty()) return {};
  bench.files = {subject.folder, folder / "megatron"};
  WB_RETURN_IF_ERROR(WriteMegatronSide(*bench.model, *subject.hf, bench.files->megatron));
  for (const FileFault& fault : FileFaults()) bench.causes.push_back(fault.cause);
  std::set<std::string_view> of_codes;
  for (const CodeScheme scheme : {CodeScheme::kFp8Blocks, CodeScheme::kInt4}) {
    const fs::path target = folder / std::to_string(static_cast<int>(scheme));
    Random random(SeedOf(0, subject.name, "codes"));
    auto model = CodedModel::Write(scheme, subject.folder, target, random);
    if (!model) continue;
    WB_TRY(auto hf, OpenCoded(target));
    for (const std::string_view cause : model->Causes()) of_codes.insert(cause);
    CodedValues values = model->Values();
    bench.coded.push_back({*std::move(model), std::move(values), std::move(hf)});
  }
  bench.causes.insert(bench.causes.end(), of_codes.begin(), of_codes.end());
  std::sort(bench.causes.begin(), bench.causes.end());
  return {};
}

Result<Report> JudgeClean(const Bench& bench, const fs::path& folder) {
  auto report = Judge(bench, *bench.clean, folder);
  if (!report || report->verdict != Verdict::kPass || !bench.files) return report;
  report = Judged(VerifyFiles(*bench.subject, *bench.files));
  for (const CodedSubject& coded : bench.coded) {
    if (!report || report->verdict != Verdict::kPass) break;
    const TrialFolder scratch(folder);
    report = Judged(JudgeCoded(bench, coded, coded.values, folder));
  }
  return report;
}

Outcome RunTrial(const Trial& trial, const fs::path& folder) {
  if (trial.causes.size() == 1) {
    const FileFault* fault = FindFileFault(trial.causes[0]);
    if (fault != nullptr) return RunOnFiles(trial, *fault, folder);
    if (IsOfCodes(trial.causes[0])) return RunOnCodes(trial, trial.causes[0], folder);
  }
  return RunInMemory(trial, folder);
}

}  // namespace weighbridge
