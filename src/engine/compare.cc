#include "engine/compare.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>

#include "base/atomic_output.h"
#include "base/memory.h"
#include "base/strings.h"
#include "checks/bridge_config.h"
#include "checks/effect_check.h"
#include "checks/inventory.h"
#include "checks/megatron_config_check.h"
#include "checks/parameter_source.h"
#include "engine/compare_causes.h"
#include "engine/compare_findings.h"
#include "engine/compare_report.h"
#include "engine/compare_rows.h"
#include "engine/component.h"
#include "engine/describe.h"
#include "engine/rank_share.h"
#include "engine/record.h"
#include "engine/recording.h"
#include "engine/stage_weights.h"
#include "engine/team_run.h"
#include "family/config.h"
#include "family/effects/effects.h"
#include "family/shards.h"
#include "formats/megatron_config/megatron_config.h"

namespace weighbridge {
namespace {

using nlohmann::json;

constexpr int64_t kDefaultLength = 512;
// Of the RMS of a module's outputs; float32 leaves a millionth of it, and a hundredth of that in
// sums that cancel.
constexpr double kMostReferenceError = 1e-2;
// Of a recording of the reference: its error by that of our computation of the same library.
constexpr double kMostRecordedRatio = 8;
constexpr size_t kLongest = 16384;  // the Megatron side holds a score for each pair of positions

// -- what is compared --

// Megatron's config as `import` would write it; where no class of the Bridge is known, the fields
// that the family gives.
Result<MegatronConfig> PredictedConfig(const Model& model) {
  const auto document = BridgeRunConfig(model, {});
  if (document) {
    WB_TRY(const RunConfig run_config, RunConfigOf(*document, kRunConfigName));
    MegatronConfig config = ConfigOfRunConfig(run_config);
    config.origin = "the config that `import` writes";
    return config;
  }
  MegatronConfig config;
  for (const Field& field : model.config()) config.fields[field.name] = field.value;
  config.origin = "what the family says of Megatron's fields";
  return config;
}

// Past every window, so that a wrong one shows, and a second token to look back from where it runs.
Result<int64_t> DefaultLength(const EffectSide& side) {
  const json longest = side.fields.value("seq_length", json());
  int64_t length = kDefaultLength;
  if (longest.is_number_integer() && longest > 0) {
    length = std::min(length, longest.get<int64_t>());
  }
  WB_TRY(const auto most, LongestKnown(side));
  length = std::max<int64_t>(length, 2);
  return std::min(length, most.value_or(length));
}

std::vector<int64_t> RandomIds(int64_t length, int64_t vocab, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int64_t> ids(static_cast<size_t>(length));
  for (int64_t& id : ids) {
    id = static_cast<int64_t>(random() % static_cast<uint64_t>(std::max<int64_t>(vocab, 1)));
  }
  return ids;
}

tl::unexpected<Error> OtherBeyond(const json& length) {
  const std::string runs =
      length.is_number_integer() && length > 0 ? "--seq-len " + Describe(length) : "";
  return Fail(ErrorKind::kUnsupported, "engine-unsupported",
              fmt::format("beyond {} positions this model computes otherwise, which the engine "
                          "does not know",
                          Describe(length)),
              "config.json", runs);
}

// What transformers computes otherwise beyond a length is not computed here, so no such length
// runs.
Status CheckLength(const json& config, const EffectSide& side, int64_t length) {
  WB_TRY(const auto most, LongestKnown(side));
  if (most && *most < length) return OtherBeyond(*most);
  const json* scaling = FirstKey(config, {"rope_scaling", "rope_parameters"});
  if (scaling == nullptr || !scaling->is_object()) return {};
  const json* kind = FirstKey(*scaling, {"rope_type", "type"});
  const bool changes = scaling->contains("llama_4_scaling_beta") ||
                       (kind != nullptr && (*kind == "longrope" || *kind == "dynamic"));
  const json* original = FirstKey(*scaling, {"original_max_position_embeddings"});
  if (original == nullptr) {
    original = FirstKey(config, {"original_max_position_embeddings", "max_position_embeddings"});
  }
  if (!changes || original == nullptr || !original->is_number() || *original >= length) return {};
  return OtherBeyond(*original);
}

// "bf16" or "fp16"; null: there is no verdict in a narrow dtype.
json NarrowDType(const std::string& precision, const Checkpoint& hf) {
  if (precision == "none") return {};
  if (precision != "auto") return precision;
  std::map<DType, uint64_t> bytes;
  for (const TensorInfo& info : hf.tensors()) bytes[info.dtype] += info.nbytes;
  const auto most = std::max_element(
      bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most == bytes.end()) return {};
  if (most->first == DType::kBF16) return "bf16";
  return most->first == DType::kF16 ? json("fp16") : json();
}

// -- the walk --

class Comparison {
 public:
  Comparison(const Model& model, const Checkpoint& hf, const CompareOptions& options)
      : model_(model), hf_(hf), options_(options) {}

  Result<Report> Run(const MegatronCheckpoint* megatron) {
    const auto start = std::chrono::steady_clock::now();
    PeakAnonymousBytes();
    report_.command = "compare";
    report_.level = "L2";
    WB_RETURN_IF_ERROR(Prepare(megatron));
    narrow_ = NarrowDType(options_.precision, hf_);
    WB_TRY(session_, EngineSession::Open({{"ids", ids_},
                                          {"threads", options_.threads},
                                          {"device", options_.device},
                                          {"free_run", options_.free_run},
                                          {"narrow", narrow_}}));
    if (!options_.thresholds.empty()) {
      WB_TRY(const json modules, session_->Call({{"stage", "modules"}}, {}));
      WB_RETURN_IF_ERROR(
          CheckThresholds(options_.thresholds, modules, model_.layers(), mtp_.count));
    }
    if (!options_.record.empty()) {
      WB_TRY(recorder_, ActivationWriter::Create(options_.record, options_.overwrite));
      recorder_->AddIds(ids_);
    }
    WB_RETURN_IF_ERROR(Walk());
    if (recorder_ != nullptr && !findings_.ended) WB_RETURN_IF_ERROR(recorder_->Finish());
    WB_RETURN_IF_ERROR(ApplyThresholds(options_.thresholds, findings_.judged));
    for (const JudgedModule& judged : findings_.judged) report_.results.push_back(judged.row);
    WB_RETURN_IF_ERROR(Explain(megatron));
    Describe(megatron);
    report_.wall_s =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(report_);
  }

 private:
  // A value that says nothing must not be computed with as if it were the usual one.
  static Status RequireFields(const EffectSide& side, const std::string& origin) {
    const auto odd = OddFields(side);
    if (odd.empty()) return {};
    return Fail(ErrorKind::kUnsupported, "config-unsupported",
                ToPrintable(odd.begin()->second + ", no value of its kind"), origin);
  }

  Status Prepare(const MegatronCheckpoint* megatron) {
    WB_RETURN_IF_ERROR(ReadConfig(megatron));
    WB_TRY(const RuntimeTable* runtime, BuiltInRuntime());
    WB_TRY(hf_side_, HfSide(model_));
    effects_ = FindEffectDifferences(model_, config_, options_.runtime, options_.without_mtp);
    if (own_config_) CheckMegatronConfig(model_, config_, effects_.compared, report_);
    WB_TRY(megatron_side_,
           MegatronSide(effects_.as_stored.fields, model_, hf_side_, *runtime, options_.runtime));
    WB_RETURN_IF_ERROR(RequireFields(hf_side_, "config.json"));
    WB_RETURN_IF_ERROR(RequireFields(megatron_side_, config_.origin));
    WB_RETURN_IF_ERROR(RequireComplete(model_, hf_));
    WB_TRY(const Inventory inventory, TakeInventory(model_, hf_));
    for (const LeftOut& group : inventory.left_out) {
      report_.notes.push_back(weighbridge::Describe(group));
    }
    if (TeamSize(options_.grid) > 1) {
      WB_TRY(placement_, Placement::Create(model_, options_.grid));
      WB_RETURN_IF_ERROR(CheckRunsOnGrid());
    }
    if (!options_.without_mtp) mtp_ = MtpLayersOf(model_, hf_side_, megatron_side_);
    WB_RETURN_IF_ERROR(OpenSource(megatron));
    ids_ = options_.token_ids;
    WB_RETURN_IF_ERROR(OpenRecording(options_.reference, true, reference_));
    WB_RETURN_IF_ERROR(OpenRecording(options_.candidate, false, candidate_));
    findings_.recorded = reference_.has_value() || candidate_.has_value();
    if (ids_.empty()) {
      WB_TRY(ids_, RandomTokenIds(model_, options_));
    }
    WB_RETURN_IF_ERROR(CheckTokenIds(model_, ids_));
    return {};
  }

  // What the Megatron checkpoint says; else what the HF config predicts.
  Status ReadConfig(const MegatronCheckpoint* megatron) {
    if (megatron != nullptr) {
      WB_TRY(auto own, ReadMegatronConfig(*megatron));
      own_config_ = own.has_value();
      if (own_config_) {
        config_ = *std::move(own);
        return {};
      }
    }
    WB_TRY(config_, PredictedConfig(model_));
    if (megatron != nullptr) {
      report_.unproven.push_back(
          fmt::format("the Megatron checkpoint does not say how its model is built: taken was {}",
                      config_.origin));
    }
    return {};
  }

  // What megatron-core refuses to run; layouts are judged all the same, by other commands.
  Status CheckRunsOnGrid() {
    const ParallelGrid& grid = options_.grid;
    for (const GridNote& note : placement_->notes()) {
      if (note.id == "moe-bias-etp") {
        return Fail(ErrorKind::kUsage, "grid",
                    "megatron-core refuses this grid: experts with biases that several ranks cut",
                    "", "leave --etp out");
      }
    }
    const bool experts = std::any_of(model_.parameters().begin(), model_.parameters().end(),
                                     [](const Parameter& p) { return p.is_expert(); });
    if (experts && grid.tp > 1 && !options_.sequence_parallel) {
      report_.notes.push_back({"moe-without-sequence-parallel",
                               "megatron-core trains experts on tensor-parallel ranks with "
                               "--sequence-parallel only; this is what it computes without"});
    }
    return {};
  }

  Status OpenSource(const MegatronCheckpoint* megatron) {
    if (megatron == nullptr) {
      WB_TRY(HfParameters parameters, HfParameters::Create(model_, hf_));
      source_ = std::make_unique<HfParameters>(std::move(parameters));
      return {};
    }
    WB_TRY(MegatronParameters parameters,
           MegatronParameters::Create(model_, *megatron, options_.without_mtp));
    auto stored = std::make_unique<MegatronParameters>(std::move(parameters));
    binding_ = &stored->binding();
    source_ = std::move(stored);
    return {};
  }

  Status OpenRecording(const std::string& path, bool of_hf, std::optional<Recording>& recording) {
    if (path.empty()) return {};
    WB_TRY(recording, Recording::Open(path, model_, of_hf));
    if (std::string lacking = recording->Lacking(); !lacking.empty()) {
      report_.unproven.push_back(std::move(lacking));
    }
    if (!ids_.empty() && ids_ != recording->token_ids()) {
      return Fail(ErrorKind::kInvalid, "token-mismatch",
                  "the recording was made with other token ids", path,
                  "give the same ids to both sides, or leave --token-ids out");
    }
    ids_ = recording->token_ids();
    return {};
  }

  Status Walk() {
    Status walked = Stage({StageKind::kEmbedding});
    for (int64_t layer = 0; walked && layer < model_.layers(); ++layer) {
      walked = Stage({StageKind::kLayer, layer});
    }
    for (int64_t layer = 0; walked && layer < mtp_.count; ++layer) {
      walked = Stage({StageKind::kMtp, layer});
    }
    if (walked) walked = Stage({StageKind::kOutput});
    // A config that is wrong enough builds what no block computes, and its causes are known.
    const bool known = !effects_.causes.empty() || !report_.causes.empty();
    if (walked || !known || walked.error().kind != ErrorKind::kUnsupported) return walked;
    findings_.ended = walked.error();
    report_.unproven.push_back(
        fmt::format("the forward pass ended where the Megatron config asks "
                    "for what is not computed here: {}{}{}",
                    walked.error().what, walked.error().at.empty() ? "" : ", ", walked.error().at));
    return {};
  }

  // That of the Hugging Face side was looked at before anything ran.
  Status CheckMegatronLength() const {
    WB_TRY(const auto most, LongestKnown(megatron_side_, config_.origin));
    for (const auto& row : ids_) {
      if (most && *most < static_cast<int64_t>(row.size())) {
        return Fail(ErrorKind::kUnsupported, "engine-unsupported",
                    fmt::format("beyond {} positions Megatron's config means what the engine does "
                                "not know",
                                *most),
                    config_.origin, fmt::format("--seq-len {}", *most));
      }
    }
    return {};
  }

  Status Stage(StageId stage) {
    StageTensors& tensors = tensors_;
    tensors.Clear();
    json request = {{"stage", stage.kind == StageKind::kEmbedding ? "embedding"
                              : stage.kind == StageKind::kLayer   ? "layer"
                              : stage.kind == StageKind::kMtp     ? "mtp"
                                                                  : "output"},
                    {"mtp_layers", mtp_.count},
                    {"keep", recorder_ != nullptr},
                    {"top", options_.top_k}};
    if (stage.kind == StageKind::kLayer || stage.kind == StageKind::kMtp) {
      WB_RETURN_IF_ERROR(CheckMegatronLength());
    }
    WB_TRY(json reference, DescribeStage(hf_side_, model_, stage));
    WB_RETURN_IF_ERROR(AddHfTensors(model_, hf_, stage, "reference", reference, tensors));
    WB_TRY(json candidate, DescribeStage(megatron_side_, model_, stage));
    request["reference"] = {{"model", "hf"}, {"spec", std::move(reference)}};
    request["candidate"] = {{"model", "megatron"}, {"spec", std::move(candidate)}};
    WB_RETURN_IF_ERROR(AddCandidate(stage, request, tensors));
    AddRecorded(reference_, stage, "reference", request, tensors);
    AddRecorded(candidate_, stage, "candidate", request, tensors);
    uint64_t bytes = 0;
    for (const NamedTensor& tensor : tensors.tensors) bytes += tensor.view.bytes.size();
    WB_TRY(const json answer, session_->Call(request, tensors.tensors));
    WB_RETURN_IF_ERROR(Certify(stage, answer, candidate_.has_value()));
    report_.bytes += bytes;
    if (options_.progress) options_.progress(bytes);
    Take(stage, answer);
    if (candidate_ && stage.kind != StageKind::kEmbedding && HasFailed(stage)) {
      WB_RETURN_IF_ERROR(ExplainRecorded(stage, request, tensors));
    }
    return Record(stage);
  }

  // The Megatron side's tensors: all of the stage, or what this rank holds of it.
  Status AddCandidate(StageId stage, json& request, StageTensors& tensors) const {
    if (!placement_) return AddMegatronTensors(model_, *source_, stage, "candidate", tensors);
    const int pp = PipelineRankOf(*placement_, stage);
    json& candidate = request["candidate"];
    WB_RETURN_IF_ERROR(CheckDivides(candidate.at("spec"), options_.grid));
    candidate["spec"]["cuts"] = CutsOf(model_, stage);
    candidate["team"] = {{"stage", request.at("stage")}, {"layer", stage.layer}, {"pp", pp}};
    if (pp != 0) return {};
    return AddShards(model_, *source_, stage, options_.grid, RankOf(options_.grid, 0), "candidate",
                     tensors);
  }

  bool HasFailed(StageId stage) const {
    return std::any_of(
        findings_.judged.begin(), findings_.judged.end(),
        [&](const JudgedModule& j) { return j.stage == stage && !Passed(j.row.status); });
  }

  // Nothing can be concluded from a reference that fails its own check.
  static Status Certify(StageId stage, const json& answer, bool candidate_teaches) {
    const auto broken = [&](std::string what) {
      return Fail(ErrorKind::kInvalid, "reference-broken", std::move(what),
                  stage.kind == StageKind::kLayer ? fmt::format("layer {}", stage.layer) : "",
                  "`weighbridge inspect` shows values that are not finite");
    };
    if (!answer.value("repeats", true)) return broken("the reference does not repeat itself");
    if (answer.contains("recorded_reference")) {
      const json& figures = answer.at("recorded_reference");
      if (!(NumberIn(figures, "ratio") <= kMostRecordedRatio)) {
        return broken(
            fmt::format("what was recorded of the reference is {:.3g} x further from "
                        "float64 than what its config and weights compute",
                        NumberIn(figures, "ratio")));
      }
    }
    // A recorded candidate's states are the teacher: what is wrong in them is its own fault.
    if (candidate_teaches) return {};
    for (const json& figures : answer.at("modules")) {
      const double error = NumberIn(figures, "reference_error"), rms = NumberIn(figures, "rms");
      if (error <= kMostReferenceError * rms || rms == 0) continue;
      return broken(
          fmt::format("{} of the reference in float32 is {:.3g} from float64, at outputs "
                      "of {:.3g}",
                      figures.value("name", ""), error, rms));
    }
    return {};
  }

  void TakeSeconds(const json& answer) {
    for (const auto& [pass, seconds] : answer.at("seconds").items()) {
      findings_.seconds[pass] += seconds.get<double>();
    }
  }

  Status Explain(const MegatronCheckpoint* megatron) {
    if (binding_ == nullptr) {
      return ExplainFailures(findings_, std::move(effects_), nullptr, report_);
    }
    const ComparedWeights weights{
        model_, hf_, *megatron, *binding_, placement_ ? &*placement_ : nullptr, options_.threads};
    return ExplainFailures(findings_, std::move(effects_), &weights, report_);
  }

  Status ExplainRecorded(StageId stage, const json& request, const StageTensors& tensors) {
    const json& candidate = request.at("candidate");
    RecordedStage recorded{stage, candidate.at("spec"), {}, ids_};
    for (const JudgedModule& judged : findings_.evidence) {
      if (judged.stage == stage) recorded.modules.insert(judged.module);
    }
    const auto ask = [&](const json& tries) {
      return session_->Call({{"stage", "hypotheses"},
                             {"of", request.at("stage")},
                             {"reference", {{"model", "hf"}, {"spec", json::object()}}},
                             {"candidate", candidate},
                             {"tries", tries}},
                            tensors.tensors);
    };
    return findings_.of_recording.Explain(recorded, ask);
  }

  void AddRecorded(const std::optional<Recording>& recording, StageId stage, const char* side,
                   json& request, StageTensors& tensors) const {
    if (!recording) return;
    recording->Add(stage, side, tensors);
    request[side]["sequence_first"] = recording->sequence_first();
  }

  void Take(StageId stage, const json& answer) {
    TakeSeconds(answer);
    // Beside a recording the modules are evidence: they say which of them the layer's fault is.
    std::vector<JudgedModule>& modules = findings_.recorded ? findings_.evidence : findings_.judged;
    for (const json& figures : answer.at("modules")) {
      const std::string name = figures.at("name");
      modules.push_back(JudgeModule(model_, stage, name, figures, DType::kF32));
      if (!figures.contains("narrow")) continue;
      json narrow = figures.at("narrow");
      narrow["shape"] = figures.at("shape");
      const DType dtype = narrow_ == "bf16" ? DType::kBF16 : DType::kF16;
      modules.push_back(JudgeModule(model_, stage, name, narrow, dtype));
    }
    if (answer.contains("last")) {
      findings_.judged.push_back(JudgeModule(model_, {StageKind::kLayer, model_.layers() - 1}, "",
                                             answer.at("last"), DType::kF32));
    }
    if (answer.contains("final")) {
      findings_.judged.push_back(
          JudgeModule(model_, stage, "decoder.final_layernorm", answer.at("final"), DType::kF32));
    }
    if (answer.contains("whole")) {
      findings_.judged.push_back(JudgeModule(model_, stage, "", answer.at("whole"), DType::kF32));
    }
    if (answer.contains("explained") && stage.kind == StageKind::kLayer &&
        !MeetsFunctionRule(answer.at("explained"))) {
      findings_.unexplained.insert(stage.layer);
    }
    if (answer.contains("free")) findings_.growth.push_back(answer.at("free"));
    if (answer.contains("routing")) TakeRouting(answer.at("routing"));
    TakeIdle(stage, answer);
    if (answer.contains("tokens")) findings_.tokens = answer.at("tokens");
    findings_.own_flips += answer.value("own_flips", int64_t{0});
    if (answer.contains("replayed")) findings_.replayed = answer.at("replayed");
    if (answer.contains("top")) findings_.top = answer.at("top");
  }

  void TakeIdle(StageId stage, const json& answer) {
    if (!answer.contains("experts") || answer.at("experts").at("idle") == 0) return;
    const json& experts = answer.at("experts");
    findings_.idle.push_back(
        {fmt::format("{} {}", stage.kind == StageKind::kMtp ? "MTP layer" : "layer", stage.layer),
         experts.at("idle"), experts.at("all")});
  }

  void TakeRouting(const json& routing) {
    findings_.routed += routing.value("tokens", int64_t{0});
    findings_.flipped += routing.value("flipped", int64_t{0});
    findings_.near_ties += routing.value("near_ties", int64_t{0});
  }

  Status Record(StageId stage) {
    if (recorder_ == nullptr) return {};
    const auto add = [&](const std::string& name, const char* state,
                         bool sequence_first) -> Status {
      WB_TRY(const EngineSession::State values, session_->Read(state));
      return recorder_->Add(name, values, sequence_first);
    };
    if (stage.kind == StageKind::kOutput) {
      WB_RETURN_IF_ERROR(
          add(fmt::format("hf_hidden_{}", model_.layers()), "reference.final", false));
      WB_RETURN_IF_ERROR(add("meg_final_sbh", "candidate.final", true));
      WB_RETURN_IF_ERROR(add("hf_logits", "reference.logits", false));
      return add("meg_logits", "candidate.logits", false);
    }
    if (stage.kind == StageKind::kMtp) {
      WB_RETURN_IF_ERROR(add(fmt::format("hf_mtp_{}", stage.layer + 1), "reference.mtp", false));
      return add(fmt::format("meg_mtp_{}_sbh", stage.layer + 1), "candidate.mtp", true);
    }
    const int64_t index = stage.kind == StageKind::kLayer ? stage.layer + 1 : 0;
    // transformers shows no state between the last layer and the final norm.
    if (index < model_.layers()) {
      WB_RETURN_IF_ERROR(add(fmt::format("hf_hidden_{}", index), "reference.hidden", false));
    }
    return add(fmt::format("meg_hidden_{}_sbh", index), "candidate.hidden", true);
  }

  void Describe(const MegatronCheckpoint* megatron) {
    const auto detail = [&](const char* key, std::string value) {
      report_.details.emplace_back(key, std::move(value));
    };
    detail("family", model_.spec().name);
    const auto recorded = [](const std::string& name, const std::string& path) {
      return name.empty() ? path : name;
    };
    detail("reference", reference_ ? recorded(options_.reference_name, options_.reference)
                                   : "transformers' computation, ours");
    detail("candidate", candidate_ ? recorded(options_.candidate_name, options_.candidate)
                                   : "Megatron-Core's computation, ours");
    detail("dtypes", narrow_.is_null() ? "float32"
                                       : fmt::format("float32; rounding of {} over a prefix",
                                                     narrow_.get<std::string>()));
    if (placement_) {
      detail("ranks", fmt::format("{}{}, {}", ToString(options_.grid),
                                  options_.sequence_parallel ? ", sequence parallel" : "",
                                  options_.backend == "nccl" ? "NCCL" : "Gloo"));
      for (const GridNote& note : placement_->notes())
        report_.notes.push_back({note.id, note.message});
    }
    detail("tokens", fmt::format("{} x {}", ids_.size(), ids_.front().size()));
    detail("megatron config", config_.origin);
    if (megatron == nullptr) {
      report_.unproven.emplace_back(
          "no Megatron checkpoint was read: its weights are those of HF through our own mapping");
    }
    if (HasIndexers(model_)) {
      report_.unproven.emplace_back(
          "the indexers were not run: of so few tokens they leave no key out (`verify` compares "
          "their weights)");
    }
    if (const OtherParts parts = OtherPartsOf(model_); parts.tensors > 0) {
      report_.unproven.push_back(
          fmt::format("{} tensors of other parts ({}) were not run (`verify` compares them)",
                      parts.tensors, fmt::join(parts.names, ", ")));
    }
    if (!mtp_.left_out.empty()) {
      report_.unproven.push_back("the MTP layers were not run: " + mtp_.left_out);
    }
    DescribeFindings(findings_, report_);
    report_.peak_anonymous_bytes = PeakAnonymousBytes();
  }

  const Model& model_;
  const Checkpoint& hf_;
  const CompareOptions& options_;
  Report report_;
  MegatronConfig config_;
  bool own_config_ = false;  // the Megatron checkpoint's
  EffectFindings effects_;
  EffectSide hf_side_, megatron_side_;
  MtpLayers mtp_;
  std::optional<Placement> placement_;  // of the ranks that run the Megatron side
  std::unique_ptr<ParameterSource> source_;
  const MegatronBinding* binding_ = nullptr;  // of it; nullptr: both sides have the weights of HF
  StageTensors tensors_;
  std::optional<Recording> reference_, candidate_;
  std::vector<std::vector<int64_t>> ids_;
  std::unique_ptr<EngineSession> session_;
  std::unique_ptr<ActivationWriter> recorder_;
  CompareFindings findings_;
  json narrow_;
};

}  // namespace

Result<std::vector<std::vector<int64_t>>> RandomTokenIds(const Model& model,
                                                         const CompareOptions& options) {
  WB_TRY(const EffectSide side, HfSide(model));
  WB_TRY(const int64_t fitting, DefaultLength(side));
  const int64_t length = options.seq_len > 0 ? options.seq_len : fitting;
  return std::vector<std::vector<int64_t>>{RandomIds(length, model.vocab(), options.seed)};
}

Status CheckTokenIds(const Model& model, const std::vector<std::vector<int64_t>>& ids) {
  WB_TRY(const EffectSide side, HfSide(model));
  WB_TRY(const auto most, LongestKnown(side));
  if (HasIndexers(model) && !most) {
    return Fail(ErrorKind::kUnsupported, "engine-unsupported",
                "nothing says up to how many tokens the indexers leave no key out", "",
                "`[effects]` of the family says it: every_key_up_to");
  }
  for (const std::vector<int64_t>& row : ids) {
    if (row.empty() || row.size() > kLongest) {
      return Fail(
          ErrorKind::kUsage, "usage",
          fmt::format("{} tokens in a row, and the engine takes 1 to {}", row.size(), kLongest));
    }
    WB_RETURN_IF_ERROR(CheckLength(model.hf_config(), side, static_cast<int64_t>(row.size())));
    const auto outside = std::find_if(row.begin(), row.end(),
                                      [&](int64_t id) { return id < 0 || id >= model.vocab(); });
    if (outside != row.end()) {
      return Fail(
          ErrorKind::kUsage, "usage",
          fmt::format("token {} is outside of the vocabulary of {}", *outside, model.vocab()),
          "--token-ids");
    }
  }
  return {};
}

Result<Report> CompareModels(const Model& model, const Checkpoint& hf,
                             const MegatronCheckpoint* megatron, const CompareOptions& options) {
  return Comparison(model, hf, options).Run(megatron);
}

}  // namespace weighbridge
