#include "engine/compare_sources.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "base/scratch_folder.h"
#include "base/strings.h"
#include "engine/recording.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostShown = 32;  // token ids of a prompt, in the report

enum class SourceKind { kNative, kLive, kFile };

SourceKind KindOf(const std::string& source, std::string_view live) {
  if (source.empty() || source == "native") return SourceKind::kNative;
  return source == live ? SourceKind::kLive : SourceKind::kFile;
}

// Rows of one length together, in the order in which the lengths come.
std::vector<TokenRows> ByLength(const TokenRows& rows) {
  std::vector<TokenRows> batches;
  for (const std::vector<int64_t>& row : rows) {
    const auto same = std::find_if(batches.begin(), batches.end(), [&](const TokenRows& batch) {
      return batch.front().size() == row.size();
    });
    (same == batches.end() ? batches.emplace_back() : *same).push_back(row);
  }
  return batches;
}

class SourcesRun {
 public:
  SourcesRun(const Model& model, const Checkpoint& hf, const MegatronCheckpoint* megatron,
             const CompareRequest& request)
      : model_(model),
        hf_(hf),
        megatron_(megatron),
        request_(request),
        reference_(KindOf(request.options.reference, "transformers")),
        candidate_(KindOf(request.options.candidate, "megatron-core")) {}

  Result<Report> Run() {
    WB_RETURN_IF_ERROR(ChooseRows());
    if (batches_.size() > 1 && !request_.options.record.empty()) {
      return Fail(ErrorKind::kUsage, "usage", "a recording holds rows of one length", "--record",
                  "run the command once for each length");
    }
    std::string reference_name, candidate_name;
    WB_RETURN_IF_ERROR(RunOriginals(reference_name, candidate_name));
    std::vector<LabelledReport> parts;
    for (size_t i = 0; i < batches_.size(); ++i) {
      CompareOptions options = request_.options;
      options.token_ids = batches_[i];
      options.reference = FileOf(reference_, options.reference, "reference", i);
      options.candidate = FileOf(candidate_, options.candidate, "candidate", i);
      options.reference_name = reference_name;
      options.candidate_name = candidate_name;
      WB_TRY(Report part, CompareModels(model_, hf_, megatron_, options));
      parts.push_back(
          {fmt::format("rows of {} tokens", batches_[i].front().size()), std::move(part)});
    }
    Report report = JoinByWorst(std::move(parts));
    ShowPrompts(report);
    return report;
  }

 private:
  Status ChooseRows() {
    const CompareOptions& options = request_.options;
    TokenRows rows = options.token_ids;
    if (!request_.prompts.empty()) {
      WB_TRY(tokenized_, Tokenize(request_.folder, request_.prompts));
      rows.insert(rows.end(), tokenized_.ids.begin(), tokenized_.ids.end());
    }
    // A recording brings its own.
    for (const auto& [kind, path, of_hf] : {std::tuple(reference_, options.reference, true),
                                            std::tuple(candidate_, options.candidate, false)}) {
      if (kind != SourceKind::kFile || !rows.empty()) continue;
      WB_TRY(const Recording recording, Recording::Open(path, model_, of_hf));
      rows = recording.token_ids();
    }
    if (rows.empty()) {
      WB_TRY(rows, RandomTokenIds(model_, options));
    }
    if (Status fits = CheckTokenIds(model_, rows); !fits) {
      Error error = std::move(fits).error();
      if (!request_.prompts.empty()) PutToPrompts(error);
      return Fail(std::move(error));
    }
    batches_ = ByLength(rows);
    return {};
  }

  // Who gives text has not chosen the ids, nor their number.
  static void PutToPrompts(Error& error) {
    if (error.kind == ErrorKind::kUsage) {
      error.at = "--prompt";
      error.hint = "does the tokenizer belong to this model?";
    } else if (error.hint.starts_with("--seq-len")) {
      error.hint = "a shorter prompt";
    }
  }

  fs::path Live(const char* side, size_t batch) const {
    return scratch_->path() / fmt::format("{}-{}.safetensors", side, batch);
  }

  std::string FileOf(SourceKind kind, const std::string& given, const char* side,
                     size_t batch) const {
    if (kind == SourceKind::kNative) return "";
    return kind == SourceKind::kFile ? given : Live(side, batch).string();
  }

  std::vector<RecordingJob> Jobs(const char* side) const {
    std::vector<RecordingJob> jobs;
    for (size_t i = 0; i < batches_.size(); ++i) jobs.push_back({batches_[i], Live(side, i)});
    return jobs;
  }

  Status RunOriginals(std::string& reference_name, std::string& candidate_name) {
    if (candidate_ == SourceKind::kLive && megatron_ == nullptr) {
      return Fail(ErrorKind::kUsage, "usage",
                  "megatron-core runs a Megatron checkpoint, and none is given",
                  "--candidate megatron-core", "`weighbridge import` writes one");
    }
    if (reference_ != SourceKind::kLive && candidate_ != SourceKind::kLive) return {};
    WB_TRY(scratch_, ScratchFolder::Create("compare"));
    const int threads = request_.options.threads;
    if (reference_ == SourceKind::kLive) {
      WB_TRY(reference_name, RecordTransformers(request_.folder, Jobs("reference"), threads));
    }
    if (candidate_ == SourceKind::kLive) {
      WB_TRY(candidate_name, RecordMegatronCore(model_, *megatron_, Jobs("candidate"), threads));
    }
    return {};
  }

  void ShowPrompts(Report& report) const {
    if (!tokenized_.made_by.empty()) report.details.emplace_back("tokenizer", tokenized_.made_by);
    for (size_t i = 0; i < tokenized_.ids.size(); ++i) {
      const std::vector<int64_t>& ids = tokenized_.ids[i];
      const std::span shown = std::span(ids).first(std::min(ids.size(), kMostShown));
      report.details.emplace_back(
          fmt::format("prompt {}", i + 1),
          fmt::format("\"{}\": {} tokens, {}{}", CutMiddle(ToPrintable(request_.prompts[i]), 60),
                      ids.size(), fmt::join(shown, " "), shown.size() < ids.size() ? " ..." : ""));
    }
  }

  const Model& model_;
  const Checkpoint& hf_;
  const MegatronCheckpoint* megatron_;
  const CompareRequest& request_;
  SourceKind reference_, candidate_;
  Tokenized tokenized_;
  std::vector<TokenRows> batches_;
  std::unique_ptr<ScratchFolder> scratch_;
};

bool IsWorse(const ResultRow& row, const ResultRow& than) {
  if (Passed(row.status) != Passed(than.status)) return !Passed(row.status);
  if (!row.noise || !than.noise) return false;
  return std::isnan(row.noise->ratio) || row.noise->ratio > than.noise->ratio;
}

// A module has a row for each dtype that it was computed in.
using RowPlaces = std::map<std::pair<std::string, std::optional<DType>>, size_t>;

void JoinRows(std::vector<ResultRow> rows, RowPlaces& places, Report& all) {
  for (ResultRow& row : rows) {
    const auto [place, added] =
        places.try_emplace({row.megatron.name, row.megatron.dtype}, all.results.size());
    if (added) {
      all.results.push_back(std::move(row));
    } else if (IsWorse(row, all.results[place->second])) {
      all.results[place->second] = std::move(row);
    }
  }
}

// Notes and details are pairs of texts; what not all have is `labelled`.
template <typename Pair, typename Member, typename Label>
void JoinPairs(const std::vector<LabelledReport>& parts, Member member, Label labelled,
               std::vector<Pair>& out) {
  const auto has = [](const std::vector<Pair>& list, const Pair& pair) {
    return std::any_of(list.begin(), list.end(), [&](const Pair& other) {
      const auto& [a, b] = pair;
      const auto& [c, d] = other;
      return a == c && b == d;
    });
  };
  for (const LabelledReport& part : parts) {
    for (const Pair& pair : part.report.*member) {
      const bool common = std::all_of(parts.begin(), parts.end(), [&](const LabelledReport& other) {
        return has(other.report.*member, pair);
      });
      if (!common) {
        out.push_back(labelled(part.label, pair));
      } else if (!has(out, pair)) {
        out.push_back(pair);
      }
    }
  }
}

}  // namespace

Report JoinByWorst(std::vector<LabelledReport> parts) {
  if (parts.size() == 1) return std::move(parts.front().report);
  Report all;
  const Report& first = parts.front().report;
  all.command = first.command;
  all.level = first.level;
  all.tolerances = first.tolerances;
  JoinPairs(
      parts, &Report::notes,
      [](const std::string& label, const Note& note) {
        return Note{note.id, fmt::format("{}: {}", label, note.message)};
      },
      all.notes);
  using Detail = std::pair<std::string, std::string>;
  JoinPairs(
      parts, &Report::details,
      [](const std::string& label, const Detail& detail) {
        return Detail(fmt::format("{}, {}", detail.first, label), detail.second);
      },
      all.details);
  RowPlaces places;
  for (LabelledReport& part : parts) {
    Report& report = part.report;
    JoinRows(std::move(report.results), places, all);
    for (Cause& cause : report.causes) AddCause(std::move(cause), all);
    for (std::string& text : report.unproven) {
      const bool said =
          std::find(all.unproven.begin(), all.unproven.end(), text) != all.unproven.end();
      if (!said) all.unproven.push_back(std::move(text));
    }
    all.bytes += report.bytes;
    all.wall_s += report.wall_s;
    all.peak_anonymous_bytes = std::max(all.peak_anonymous_bytes, report.peak_anonymous_bytes);
  }
  return all;
}

Result<Report> CompareSources(const Model& model, const Checkpoint& hf,
                              const MegatronCheckpoint* megatron, const CompareRequest& request) {
  return SourcesRun(model, hf, megatron, request).Run();
}

}  // namespace weighbridge
