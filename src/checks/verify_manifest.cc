#include "checks/verify_manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <map>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "base/strings.h"
#include "base/threads.h"
#include "checks/left_out.h"
#include "checks/make_manifest.h"
#include "checks/scales.h"
#include "checks/tensor_hash.h"

namespace weighbridge {
namespace {

constexpr size_t kShown = 8;  // names in a cause

// A tensor that both sides have in one shape.
struct Pair {
  const CanonicalTensor* found = nullptr;
  const ManifestTensor* wanted = nullptr;
  const ManifestEntry* entry = nullptr;  // of `wanted`: the one to compare with
  std::optional<Xxh3Digest> digest;      // of `found` in entry->dtype; nullopt: it does not fit
  bool same_codes = false;               // both are quantized, and codes and scales are equal
};

// The entry in the dtype as stored, else the widest that the stored dtype holds, else the narrowest
// that holds the stored one; nullptr when there is none.
const ManifestEntry* EntryFor(const ManifestTensor& wanted, DType stored) {
  const ManifestEntry *narrower = nullptr, *wider = nullptr;
  for (const ManifestEntry& entry : wanted.entries) {
    if (entry.dtype == stored) return &entry;
    if (!Comparable(entry.dtype, stored)) continue;
    const int bits = BitsOf(entry.dtype);
    if (bits < BitsOf(stored)) {
      if (narrower == nullptr || bits > BitsOf(narrower->dtype)) narrower = &entry;
    } else if (wider == nullptr || bits < BitsOf(wider->dtype)) {
      wider = &entry;
    }
  }
  return narrower != nullptr ? narrower : wider;
}

// `name` with the digits after `key` replaced: "model.layers.*.mlp" for "layers.".
std::string Without(std::string_view name, std::string_view key) {
  const size_t at = name.find(key);
  if (at == std::string_view::npos) return std::string(name);
  size_t end = at + key.size();
  while (end < name.size() && std::isdigit(static_cast<unsigned char>(name[end]))) ++end;
  return fmt::format("{}*{}", name.substr(0, at + key.size()), name.substr(end));
}

std::string_view CauseOfSwap(const std::string& a, const std::string& b) {
  if (Without(a, "experts.") == Without(b, "experts.")) return "expert-order";
  if (Without(a, "layers.") == Without(b, "layers.")) return "layer-offset";
  return "stale";
}

class ManifestVerifier {
 public:
  ManifestVerifier(const CanonicalTensors& tensors, const Manifest& manifest,
                   const VerifyManifestOptions& options)
      : tensors_(tensors), manifest_(manifest), options_(options) {}

  Result<Report> Run() {
    report_.command = "verify";
    report_.level = options_.headers_only ? "L0" : "L1";
    report_.results = tensors_.rows();
    report_.causes = tensors_.causes();
    report_.notes = tensors_.notes();
    for (const ResultRow& row : report_.results) {
      if (Passed(row.status)) continue;
      for (const TensorRef& hf : row.hf) explained_.insert(hf.name);
    }
    Match();
    if (!options_.headers_only) WB_RETURN_IF_ERROR(HashAll());
    for (const Pair& pair : pairs_) Judge(pair);
    Finish();
    return std::move(report_);
  }

 private:
  static TensorRef Ref(const ManifestTensor& t) { return {t.name, t.shape, t.entries[0].dtype}; }
  static TensorRef Ref(const CanonicalTensor& t) { return {t.name, t.shape, t.stored}; }

  // Both lists are sorted by name.
  void Match() {
    auto found = tensors_.tensors().begin();
    const auto end = tensors_.tensors().end();
    for (const ManifestTensor& wanted : manifest_.tensors) {
      for (; found != end && found->name < wanted.name; ++found) Extra(*found);
      if (found == end || found->name != wanted.name) {
        Missing(wanted);
        continue;
      }
      if (found->shape == wanted.shape) {
        pairs_.push_back({&*found, &wanted, EntryFor(wanted, found->stored), std::nullopt});
      } else {
        WrongShape(*found, wanted);
      }
      ++found;
    }
    for (; found != end; ++found) Extra(*found);
  }

  void Extra(const CanonicalTensor& found) {
    for (const ManifestGap& gap : manifest_.not_held) {
      if (!GlobMatch(gap.pattern, found.name)) continue;
      AddLeftOut("checkpoint", {gap.pattern, gap.why}, found.bytes(), beyond_);
      return;
    }
    ResultRow row;
    row.megatron = Ref(found);
    row.status = RowStatus::kExtra;
    row.metrics = NotCompared();
    row.why = "tensor-extra: the manifest does not list it";
    Add(std::move(row), "tensor-extra", found.name);
  }

  void Missing(const ManifestTensor& wanted) {
    if (explained_.contains(wanted.name)) return;  // the checkpoint's own row says why
    ResultRow row;
    row.hf.push_back(Ref(wanted));
    row.status = RowStatus::kMissing;
    row.metrics = NotCompared();
    row.why = "tensor-missing: the manifest lists it, the checkpoint does not have it";
    Add(std::move(row), "tensor-missing", wanted.name);
  }

  void WrongShape(const CanonicalTensor& found, const ManifestTensor& wanted) {
    ResultRow row = RowOf(found, wanted);
    row.status = RowStatus::kMismatch;
    row.metrics = NotCompared();
    row.why = fmt::format("shape {}, the manifest says {}", ToString(found.shape),
                          ToString(wanted.shape));
    Add(std::move(row), "shape-mismatch",
        fmt::format("{}: {}, expected {}", found.name, ToString(found.shape),
                    ToString(wanted.shape)));
  }

  static ResultRow RowOf(const CanonicalTensor& found, const ManifestTensor& wanted) {
    ResultRow row;
    row.hf.push_back(Ref(wanted));
    row.megatron = Ref(found);
    return row;
  }

  void Add(ResultRow row, const std::string& cause, std::string where) {
    report_.results.push_back(std::move(row));
    where_[cause].push_back(std::move(where));
  }

  Status HashAll() {
    const std::vector<size_t> order =
        LargestFirst(pairs_.size(), [&](size_t i) { return pairs_[i].found->bytes(); });
    return TryParallelFor(order.size(), options_.threads, [&](size_t i) -> Status {
      Pair& pair = pairs_[order[i]];
      if (pair.entry == nullptr) return {};
      const std::array dtypes = {pair.entry->dtype};
      WB_TRY(const auto digests, HashOf(tensors_, *pair.found, dtypes, options_.progress));
      pair.digest = digests[0];
      const auto& stored = pair.wanted->stored;
      pair.same_codes = !stored.empty() && HashStored(tensors_, *pair.found) == stored;
      return {};
    });
  }

  void Judge(const Pair& pair) {
    const CanonicalTensor& found = *pair.found;
    ResultRow row = RowOf(found, *pair.wanted);
    if (pair.entry != nullptr) row.hf[0].dtype = pair.entry->dtype;
    row.op = OpText(tensors_.Quantized(found), Op::kNone, found.stored,
                    pair.entry != nullptr ? pair.entry->dtype : found.stored);
    row.bytes = found.bytes();
    if (options_.headers_only) {
      row.metrics = NotCompared();
      return JudgeHeader(pair, std::move(row));
    }
    report_.bytes += row.bytes;
    if (pair.digest) row.xxh3 = *pair.digest;
    if (pair.digest && *pair.digest == pair.entry->xxh3) return Matched(pair, std::move(row));
    row.status = RowStatus::kMismatch;
    row.metrics = NotCompared();
    Differs(pair, std::move(row));
  }

  // Whether the checkpoint's dtype can hold the values at all.
  static bool Narrower(const Pair& pair) {
    return pair.entry == nullptr || BitsOf(pair.found->stored) < BitsOf(pair.entry->dtype);
  }

  void JudgeHeader(const Pair& pair, ResultRow row) {
    if (!Narrower(pair)) return Matched(pair, std::move(row));
    row.status = RowStatus::kMismatch;
    row.why = NarrowerText(pair);
    const std::string where = row.megatron.name;
    Add(std::move(row), "dtype-rounded", where);
  }

  static std::string NarrowerText(const Pair& pair) {
    return fmt::format("stored as {}, the manifest has it as {}", ShortName(pair.found->stored),
                       ShortName(pair.wanted->entries[0].dtype));
  }

  // Says which entry it was, where that is not plain.
  void Matched(const Pair& pair, ResultRow row) {
    const DType stored = pair.found->stored, dtype = pair.entry->dtype;
    std::string how = "as stored";
    if (BitsOf(stored) > BitsOf(dtype)) {
      row.status = RowStatus::kMatchWidened;
      how = "narrowed without loss";
    } else if (BitsOf(stored) < BitsOf(dtype)) {
      how = "widened";
    }
    const std::string quantized = HowQuantized(pair);
    if (!quantized.empty()) how = quantized;
    ++matched_[how];
    if (pair.wanted->entries.size() > 1 || stored != dtype || !quantized.empty()) {
      row.why = fmt::format("matched the manifest's entry in {}, {}", ShortName(dtype), how);
    }
    report_.results.push_back(std::move(row));
  }

  // Which of the two entries of a quantized weight it was; "" where neither side has one.
  std::string HowQuantized(const Pair& pair) const {
    const bool found = tensors_.Quantized(*pair.found) != nullptr;
    const bool wanted = !pair.wanted->stored.empty();
    if (!found && !wanted) return "";
    if (pair.same_codes) return fmt::format("and as stored in {}", pair.wanted->scheme);
    if (options_.headers_only || !found || !wanted) return "dequantized";
    return "dequantized; its codes or scales differ";
  }

  void Differs(const Pair& pair, ResultRow row) {
    const std::string& name = pair.found->name;
    if (!pair.digest) {
      row.why = pair.entry == nullptr
                    ? NarrowerText(pair)
                    : fmt::format(
                          "stored as {}; its values are not all values of {}, as which the "
                          "manifest has it",
                          ShortName(pair.found->stored), ShortName(pair.entry->dtype));
      return Add(std::move(row), pair.entry == nullptr ? "dtype-rounded" : "unexplained", name);
    }
    row.why = fmt::format("its XXH3-128 is {}, the manifest says {}", pair.digest->Hex(),
                          pair.entry->xxh3.Hex());
    if (const ManifestTensor* other = Owner(pair)) {
      row.why = fmt::format("it holds the bytes of {}", other->name);
      return Add(std::move(row), std::string(CauseOfSwap(name, other->name)),
                 fmt::format("{}: holds {}", name, other->name));
    }
    if (!Narrower(pair)) return Add(std::move(row), "unexplained", name);
    row.why = NarrowerText(pair) + ", and the values differ";
    Add(std::move(row), "dtype-rounded", name);
  }

  // Another tensor of the manifest that has this shape and hash.
  const ManifestTensor* Owner(const Pair& pair) {
    if (owners_.empty()) {
      for (const ManifestTensor& t : manifest_.tensors) {
        for (const ManifestEntry& e : t.entries) owners_[{e.xxh3.high, e.xxh3.low}] = &t;
      }
    }
    const auto it = owners_.find({pair.digest->high, pair.digest->low});
    return it != owners_.end() && it->second->shape == pair.found->shape ? it->second : nullptr;
  }

  void Finish() {
    for (auto& [id, names] : where_) AddCause(id, std::move(names));
    std::stable_sort(report_.results.begin(), report_.results.end(),
                     [](const ResultRow& a, const ResultRow& b) { return NameOf(a) < NameOf(b); });
    report_.details.emplace_back("family of the manifest", manifest_.family);
    report_.details.emplace_back("tensors of the manifest",
                                 fmt::format("{}", manifest_.tensors.size()));
    for (const auto& [how, count] : matched_) {
      report_.details.emplace_back(fmt::format("matched {}", how), fmt::format("{}", count));
      if (how == "widened") {
        report_.notes.push_back(
            {"dtype-narrower", fmt::format("{} tensor(s) are stored narrower than in the "
                                           "manifest, and every value is equal",
                                           count)});
      }
    }
    for (const LeftOut& group : beyond_) {
      report_.notes.push_back({"not-in-manifest", fmt::format("of what the manifest says that it "
                                                              "does not hold, {}",
                                                              Describe(group).message)});
      report_.unproven.push_back(
          fmt::format("{} tensor(s) of {} were not compared: the manifest does not hold them",
                      group.tensors, group.pattern));
    }
    report_.unproven.push_back(options_.headers_only
                                   ? "no tensor data was read: --level L1 compares every hash"
                                   : "equal weights are not an equal model: a manifest holds no "
                                     "config");
  }

  static const std::string& NameOf(const ResultRow& row) {
    return row.megatron.name.empty() && !row.hf.empty() ? row.hf[0].name : row.megatron.name;
  }

  void AddCause(const std::string& id, std::vector<std::string> names) {
    const size_t count = names.size();
    Cause cause{id, Proof::kStructural, Origin::kCheckpoint, std::move(names), "", "", ""};
    cause.evidence = cause.where.front();
    if (count > kShown) {
      cause.where.resize(kShown);
      cause.where.push_back(fmt::format("... {} more", count - kShown));
    }
    if (id == "tensor-missing") {
      cause.message = fmt::format("{} tensor(s) of the manifest are not in the checkpoint", count);
    } else if (id == "tensor-extra") {
      cause.message = fmt::format("{} tensor(s) are not in the manifest", count);
    } else if (id == "shape-mismatch") {
      cause.message = fmt::format("{} tensor(s) have another shape than in the manifest", count);
    } else if (id == "dtype-rounded") {
      cause.message = fmt::format(
          "{} tensor(s) are stored in a dtype that does not hold the manifest's", count);
    } else if (id == "unexplained") {
      cause.message =
          fmt::format("{} tensor(s) hold other values than those of the manifest", count);
      cause.hint =
          "a hash tells that values differ, not where: `diff` or `verify HF MEGATRON` tell it when "
          "both checkpoints are at hand";
    } else {
      cause.proof = Proof::kExact;
      cause.message =
          fmt::format("{} tensor(s) hold the bytes of another tensor of the manifest", count);
    }
    report_.causes.push_back(std::move(cause));
  }

  const CanonicalTensors& tensors_;
  const Manifest& manifest_;
  const VerifyManifestOptions& options_;
  std::set<std::string> explained_;
  std::vector<Pair> pairs_;
  std::map<std::pair<uint64_t, uint64_t>, const ManifestTensor*> owners_;
  std::map<std::string, std::vector<std::string>> where_;  // cause -> tensors
  std::map<std::string, int64_t> matched_;                 // how -> tensors
  std::vector<LeftOut> beyond_;  // tensors that the manifest says it does not hold
  Report report_;
};

}  // namespace

Result<Report> VerifyManifest(const CanonicalTensors& tensors, const Manifest& manifest,
                              const VerifyManifestOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  WB_TRY(Report report, ManifestVerifier(tensors, manifest, options).Run());
  report.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace weighbridge
