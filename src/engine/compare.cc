#include "engine/compare.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <utility>

#include "base/atomic_output.h"
#include "base/memory.h"
#include "base/strings.h"
#include "checks/bridge_config.h"
#include "checks/effect_check.h"
#include "checks/inventory.h"
#include "checks/parameter_source.h"
#include "engine/component.h"
#include "engine/describe.h"
#include "engine/record.h"
#include "engine/stage_weights.h"
#include "family/config.h"
#include "family/effects/effects.h"
#include "formats/megatron_config/megatron_config.h"
#include "formats/megatron_config/yaml.h"

namespace weighbridge {
namespace {

using nlohmann::json;

constexpr int64_t kDefaultLength = 512;
constexpr size_t kLongest = 16384;  // the Megatron side holds a score for each pair of positions

// -- what is compared --

// Megatron's config as `import` would write it; where no class of the Bridge is known, the fields
// that the family gives.
Result<MegatronConfig> PredictedConfig(const Model& model) {
  const auto document = BridgeRunConfig(model, {});
  if (document) {
    WB_TRY(const RunConfig parsed, ParseRunConfig(DumpYaml(*document), kRunConfigName));
    MegatronConfig config = ConfigOfRunConfig(parsed);
    config.origin = "the config that `import` writes";
    return config;
  }
  MegatronConfig config;
  for (const Field& field : model.config()) config.fields[field.name] = field.value;
  config.origin = "Megatron's fields of the family";
  return config;
}

Result<MegatronConfig> ConfigOf(const Model& model, const MegatronCheckpoint* megatron) {
  if (megatron == nullptr) return PredictedConfig(model);
  WB_TRY(auto config, ReadMegatronConfig(*megatron));
  if (config) return *std::move(config);
  return Fail(ErrorKind::kUnsupported, "megatron-config",
              "the Megatron checkpoint does not say how its model is built",
              megatron->path().string(), "it needs a run_config.yaml or the args of Megatron-LM");
}

Result<std::unique_ptr<ParameterSource>> SourceOf(const Model& model, const Checkpoint& hf,
                                                  const MegatronCheckpoint* megatron,
                                                  bool without_mtp) {
  if (megatron == nullptr) {
    WB_TRY(HfParameters parameters, HfParameters::Create(model, hf));
    return std::make_unique<HfParameters>(std::move(parameters));
  }
  WB_TRY(MegatronParameters parameters, MegatronParameters::Create(model, *megatron, without_mtp));
  return std::make_unique<MegatronParameters>(std::move(parameters));
}

// Past every window, so that a wrong one shows.
int64_t DefaultLength(const EffectSide& side) {
  const json longest = side.fields.value("seq_length", json());
  int64_t length = kDefaultLength;
  if (longest.is_number_integer() && longest > 0) {
    length = std::min(length, longest.get<int64_t>());
  }
  return std::max<int64_t>(length, 2);
}

std::vector<int64_t> RandomIds(int64_t length, int64_t vocab, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int64_t> ids(static_cast<size_t>(length));
  for (int64_t& id : ids) {
    id = static_cast<int64_t>(random() % static_cast<uint64_t>(std::max<int64_t>(vocab, 1)));
  }
  return ids;
}

// What transformers computes otherwise beyond a length is not computed here, so no such length
// runs.
Status CheckLength(const json& config, int64_t length) {
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
  return Fail(ErrorKind::kUnsupported, "engine-unsupported",
              fmt::format("beyond {} positions this model computes otherwise, which the engine "
                          "does not know",
                          Describe(*original)),
              "config.json", fmt::format("--seq-len {}", Describe(*original)));
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
    WB_TRY(session_, EngineSession::Open({{"ids", ids_}, {"threads", options_.threads}}));
    if (!options_.record.empty()) {
      WB_TRY(recorder_, ActivationWriter::Create(options_.record, options_.overwrite));
      recorder_->AddIds(ids_);
    }
    WB_RETURN_IF_ERROR(Stage({StageKind::kEmbedding}));
    for (int64_t layer = 0; layer < model_.layers(); ++layer) {
      WB_RETURN_IF_ERROR(Stage({StageKind::kLayer, layer}));
    }
    WB_RETURN_IF_ERROR(Stage({StageKind::kOutput}));
    if (recorder_ != nullptr) WB_RETURN_IF_ERROR(recorder_->Finish());
    Explain();
    Describe(megatron);
    report_.wall_s =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(report_);
  }

 private:
  Status Prepare(const MegatronCheckpoint* megatron) {
    WB_TRY(config_, ConfigOf(model_, megatron));
    WB_TRY(const RuntimeTable* runtime, BuiltInRuntime());
    WB_TRY(hf_side_, HfSide(model_));
    WB_TRY(megatron_side_,
           MegatronSide(config_.fields, model_, hf_side_, *runtime, options_.runtime));
    WB_RETURN_IF_ERROR(RequireComplete(model_, hf_));
    WB_TRY(source_, SourceOf(model_, hf_, megatron, options_.without_mtp));
    ids_ = options_.token_ids;
    WB_RETURN_IF_ERROR(OpenRecording(options_.reference, true, reference_));
    WB_RETURN_IF_ERROR(OpenRecording(options_.candidate, false, candidate_));
    if (ids_.empty()) {
      const int64_t length = options_.seq_len > 0 ? options_.seq_len : DefaultLength(hf_side_);
      ids_ = {RandomIds(length, model_.vocab(), options_.seed)};
    }
    if (ids_.front().size() > kLongest) {
      return Fail(ErrorKind::kUsage, "usage",
                  fmt::format("{} tokens in a row, and the engine takes {}", ids_.front().size(),
                              kLongest));
    }
    WB_RETURN_IF_ERROR(CheckLength(model_.hf_config(), static_cast<int64_t>(ids_.front().size())));
    for (const std::vector<int64_t>& row : ids_) {
      for (const int64_t id : row) {
        if (id < 0 || id >= model_.vocab()) {
          return Fail(
              ErrorKind::kUsage, "usage",
              fmt::format("token {} is outside of the vocabulary of {}", id, model_.vocab()),
              "--token-ids");
        }
      }
    }
    return {};
  }

  Status OpenRecording(const std::string& path, bool of_hf, std::optional<Recording>& recording) {
    if (path.empty()) return {};
    WB_TRY(recording, Recording::Open(path, model_, of_hf));
    if (!ids_.empty() && ids_ != recording->token_ids()) {
      return Fail(ErrorKind::kInvalid, "token-mismatch",
                  "the recording was made with other token ids", path,
                  "give the same ids to both sides, or leave --token-ids out");
    }
    ids_ = recording->token_ids();
    return {};
  }

  Status Stage(StageId stage) {
    StageTensors& tensors = tensors_;
    tensors.Clear();
    json request = {{"stage", stage.kind == StageKind::kEmbedding ? "embedding"
                              : stage.kind == StageKind::kLayer   ? "layer"
                                                                  : "output"},
                    {"keep", recorder_ != nullptr}};
    WB_TRY(json reference, DescribeStage(hf_side_, model_, stage));
    WB_RETURN_IF_ERROR(AddHfTensors(model_, hf_, stage, "reference", reference, tensors));
    WB_TRY(json candidate, DescribeStage(megatron_side_, model_, stage));
    WB_RETURN_IF_ERROR(AddMegatronTensors(model_, *source_, stage, "candidate", tensors));
    request["reference"] = {{"model", "hf"}, {"spec", std::move(reference)}};
    request["candidate"] = {{"model", "megatron"}, {"spec", std::move(candidate)}};
    AddRecorded(reference_, stage, "reference", request, tensors);
    AddRecorded(candidate_, stage, "candidate", request, tensors);
    uint64_t bytes = 0;
    for (const NamedTensor& tensor : tensors.tensors) bytes += tensor.view.bytes.size();
    WB_TRY(const json answer, session_->Call(request, tensors.tensors));
    report_.bytes += bytes;
    if (options_.progress) options_.progress(bytes);
    Take(stage, answer);
    return Record(stage);
  }

  void AddRecorded(const std::optional<Recording>& recording, StageId stage, const char* side,
                   json& request, StageTensors& tensors) const {
    if (!recording) return;
    recording->Add(stage, model_.layers(), side, tensors);
    request[side]["sequence_first"] = recording->sequence_first();
  }

  // -- rows --

  bool HasRecording() const { return reference_.has_value() || candidate_.has_value(); }

  std::string NameOf(StageId stage, const std::string& module) const {
    if (stage.kind != StageKind::kLayer) return module;
    return fmt::format("decoder.layers.{}{}{}", stage.layer, module.empty() ? "" : ".", module);
  }

  std::string HfNameOf(StageId stage) const {
    if (stage.kind != StageKind::kLayer) return "";
    for (const Parameter& p : model_.parameters()) {
      if (p.stack == nullptr || p.stack->is_tower() || p.place != Place::kDecoder) continue;
      const auto prefix = model_.HfPrefix(*p.stack, stage.layer);
      if (!prefix) break;
      return prefix->substr(0, prefix->find_last_not_of('.') + 1);
    }
    return "";
  }

  static double NumberIn(const json& figures, const char* key) {
    const json value = figures.value(key, json());
    return value.is_number() ? value.get<double>() : std::nan("");
  }

  static Noise NoiseOf(const json& figures) {
    return {NumberIn(figures, "candidate_error"), NumberIn(figures, "reference_error"),
            NumberIn(figures, "ratio"), NumberIn(figures, "max_ratio")};
  }

  // A ratio that is no number passes nothing.
  static bool Within(const Noise& noise) {
    return noise.ratio <= kMostRatio && noise.max_ratio <= kMostMaxRatio;
  }

  ResultRow RowOf(StageId stage, const std::string& module, const json& figures) const {
    ResultRow row;
    const Shape shape = figures.value("shape", Shape());
    if (const std::string hf = HfNameOf(stage); !hf.empty()) row.hf = {{hf, shape, DType::kF32}};
    row.megatron = {NameOf(stage, module), shape, DType::kF32};
    row.noise = NoiseOf(figures);
    row.status = Within(*row.noise) ? RowStatus::kMatch : RowStatus::kMismatch;
    row.metrics.max_diff = NumberIn(figures, "max_diff");
    row.metrics.mean_diff = NumberIn(figures, "mean_diff");
    row.metrics.cosine = NumberIn(figures, "cosine");
    row.metrics.nan_count = figures.value("nan_count", int64_t{0});
    row.metrics.inf_count = figures.value("inf_count", int64_t{0});
    const std::string only = figures.value("only", "");
    row.why = fmt::format(
        "error {:.3g} x {} ({:.3g} against {:.3g}), the largest {:.3g} x{}", row.noise->ratio,
        row.noise->reference < NumberIn(figures, "floor") ? "one ULP" : "the reference's own",
        row.noise->candidate, NumberIn(figures, "floor"), row.noise->max_ratio,
        only.empty()          ? ""
        : only == "reference" ? "; Megatron has no such module"
                              : "; Hugging Face has no such module");
    return row;
  }

  void Take(StageId stage, const json& answer) {
    for (const json& figures : answer.at("modules")) {
      ResultRow row = RowOf(stage, figures.at("name"), figures);
      // Beside a recording the modules are evidence: they say which of them the layer's fault is.
      (HasRecording() ? evidence_ : report_.results).push_back(std::move(row));
    }
    if (answer.contains("whole")) {
      const char* module = stage.kind == StageKind::kLayer ? "" : "output_layer";
      json figures = answer.at("whole");
      for (json& extent : figures.at("shape")) {
        if (extent == -1) extent = model_.vocab();
      }
      report_.results.push_back(RowOf(stage, module, figures));
      if (answer.contains("explained")) TakeExplained(stage, answer.at("explained"));
    }
    if (answer.contains("free")) growth_.push_back(answer.at("free"));
    if (answer.contains("routing")) TakeRouting(answer.at("routing"));
    if (answer.contains("tokens")) tokens_ = answer.at("tokens");
  }

  // Whether the recording is what our model of its library computes.
  void TakeExplained(StageId stage, const json& figures) {
    if (!Within(NoiseOf(figures))) unexplained_.insert(NameOf(stage, ""));
  }

  void TakeRouting(const json& routing) {
    routed_ += routing.value("tokens", int64_t{0});
    flipped_ += routing.value("flipped", int64_t{0});
    near_ties_ += routing.value("near_ties", int64_t{0});
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
    const int64_t index = stage.kind == StageKind::kLayer ? stage.layer + 1 : 0;
    // transformers shows no state between the last layer and the final norm.
    if (index < model_.layers()) {
      WB_RETURN_IF_ERROR(add(fmt::format("hf_hidden_{}", index), "reference.hidden", false));
    }
    return add(fmt::format("meg_hidden_{}_sbh", index), "candidate.hidden", true);
  }

  // -- causes --

  // Modules under which an effect may show besides the one that it names.
  static bool Covers(const std::string& where, const std::string& row) {
    const auto module = [](const std::string& name) {
      if (!name.starts_with("decoder.layers.")) return name;
      const size_t dot = name.find('.', std::string("decoder.layers.").size());
      return dot == std::string::npos ? std::string() : name.substr(dot + 1);
    };
    const std::string of_effect = module(where), of_row = module(row);
    if (of_row.empty() || of_effect.empty()) return true;  // a whole layer
    if (of_effect == of_row || of_row.starts_with(of_effect + ".")) return true;
    if (of_effect.starts_with(of_row + ".")) return true;
    return of_effect.starts_with("self_attention.linear_kv_up_proj") &&
           of_row == "self_attention.linear_qkv";
  }

  static bool OfLayer(const std::string& where, const std::string& row) {
    const std::string prefix = "decoder.layers.";
    if (!where.starts_with(prefix) || !row.starts_with(prefix)) return true;
    const std::string layers =
        where.substr(prefix.size(), where.find('.', prefix.size()) - prefix.size());
    const int64_t layer = std::atoll(row.c_str() + prefix.size());
    if (layers == "*") return true;
    for (const std::string& part : SplitText(layers)) {
      const size_t dash = part.find('-');
      const int64_t first = std::atoll(part.c_str());
      const int64_t last = dash == std::string::npos ? first : std::atoll(part.c_str() + dash + 1);
      if (layer >= first && layer <= last) return true;
    }
    return false;
  }

  static std::vector<std::string> SplitText(const std::string& list) {
    std::vector<std::string> parts;
    for (size_t begin = 0; begin <= list.size();) {
      const size_t comma = std::min(list.find(',', begin), list.size());
      parts.push_back(list.substr(begin, comma - begin));
      begin = comma + 1;
    }
    return parts;
  }

  // The effects in which the configs differ explain the modules that failed there; what is left is
  // a module that differs.
  void Explain() {
    Report effects;
    CompareEffects(model_, config_, options_.runtime, options_.without_mtp, effects);
    std::vector<const ResultRow*> failed;
    for (const ResultRow& row : report_.results) {
      if (!Passed(row.status)) failed.push_back(&row);
    }
    // Of a recording the modules that our own model of its library fails at say more.
    std::vector<const ResultRow*> shown = failed;
    for (const ResultRow& row : evidence_) {
      if (!Passed(row.status) && !failed.empty()) shown.push_back(&row);
    }
    std::vector<const ResultRow*> left = failed;
    for (Cause& cause : effects.causes) {
      std::vector<std::string> where;
      for (const std::string& place : cause.where) {
        const auto explains = [&](const ResultRow* row) {
          const std::string& name = row->megatron.name;
          return Covers(place, name) && OfLayer(place, name) && !unexplained_.contains(name);
        };
        if (std::any_of(shown.begin(), shown.end(), explains)) where.push_back(place);
        std::erase_if(left, explains);
      }
      if (where.empty()) {
        report_.notes.push_back({"no-effect", cause.message + "; these tokens do not show it"});
        continue;
      }
      cause.where = std::move(where);
      AddCause(std::move(cause), report_);
    }
    for (Note& note : effects.notes) report_.notes.push_back(std::move(note));
    for (std::string& text : effects.unproven) report_.unproven.push_back(std::move(text));
    AddModuleCause(left);
    AddTokenCause();
  }

  void AddModuleCause(const std::vector<const ResultRow*>& rows) {
    if (rows.empty()) return;
    Cause cause;
    cause.id = "module-differs";
    cause.proof = Proof::kExact;
    cause.origin = HasRecording() ? Origin::kRuntime : Origin::kCheckpoint;
    for (const ResultRow* row : rows) cause.where.push_back(row->megatron.name);
    const ResultRow& first = *rows.front();
    cause.message = fmt::format("{} with the same input gives another output, and {} more after it",
                                first.megatron.name, rows.size() - 1);
    if (rows.size() == 1) {
      cause.message = first.megatron.name + " with the same input gives another output";
    }
    cause.evidence = first.why;
    cause.hint = "`weighbridge verify` says whether the weights of this module differ";
    if (HasRecording()) {
      cause.hint = unexplained_.contains(first.megatron.name)
                       ? "Megatron's config and weights do not give what was recorded: look at how "
                         "the run was made"
                       : "the first layer in this list is the one to look at";
    }
    AddCause(std::move(cause), report_);
  }

  void AddTokenCause() {
    if (tokens_.is_null() || tokens_.value("beyond_noise", int64_t{0}) == 0) return;
    if (!report_.causes.empty()) return;
    const json& first = tokens_.at("first_beyond");
    AddCause({"next-token",
              Proof::kExact,
              Origin::kCheckpoint,
              {"output_layer"},
              fmt::format("{} of {} next tokens differ by more than the reference's noise",
                          tokens_.value("beyond_noise", int64_t{0}),
                          tokens_.value("positions", int64_t{0})),
              fmt::format("position {}: token {} of the reference, {} of the candidate; margin "
                          "{:.3g}, noise {:.3g}",
                          first.value("position", int64_t{0}), first.value("reference", int64_t{0}),
                          first.value("candidate", int64_t{0}), NumberIn(first, "margin"),
                          NumberIn(first, "noise")),
              ""},
             report_);
  }

  // -- what is shown besides --

  void Describe(const MegatronCheckpoint* megatron) {
    const auto detail = [&](const char* key, std::string value) {
      report_.details.emplace_back(key, std::move(value));
    };
    detail("family", model_.spec().name);
    detail("reference", reference_ ? options_.reference : "transformers' computation, ours");
    detail("candidate", candidate_ ? options_.candidate : "Megatron-Core's computation, ours");
    detail("tokens", fmt::format("{} x {}", ids_.size(), ids_.front().size()));
    detail("megatron config", config_.origin);
    std::vector<std::string> growth;
    for (const json& figures : growth_) {
      growth.push_back(fmt::format("{:.2g}", NumberIn(figures, "max_diff")));
    }
    detail("difference after each layer, both on their own",
           fmt::format("{}", fmt::join(growth, " ")));
    report_.tolerances = {{"ratio", kMostRatio}, {"max_ratio", kMostMaxRatio}};
    if (megatron == nullptr) {
      report_.unproven.emplace_back(
          "no Megatron checkpoint was read: its weights are those of HF through our own mapping");
    }
    NoteWorst();
    NoteTokens();
    if (routed_ > 0 && flipped_ > 0) {
      report_.notes.push_back(
          {"route-flip", fmt::format("{} of {} tokens choose other experts, {} of them where the "
                                     "scores are as good as tied",
                                     flipped_, routed_, near_ties_)});
    }
    report_.peak_anonymous_bytes = PeakAnonymousBytes();
  }

  void NoteWorst() {
    const auto by_ratio = [](const ResultRow& a, const ResultRow& b) {
      return a.noise->ratio < b.noise->ratio;
    };
    const auto worst = std::max_element(report_.results.begin(), report_.results.end(), by_ratio);
    if (worst == report_.results.end()) return;
    report_.notes.push_back(
        {"precision-noise", fmt::format("the largest error is {:.3g} x the reference's own, at {}",
                                        worst->noise->ratio, worst->megatron.name)});
  }

  void NoteTokens() {
    if (tokens_.is_null() || growth_.empty()) return;
    const auto count = [&](const char* key) { return tokens_.value(key, int64_t{0}); };
    const json& logits = growth_.back();
    report_.notes.push_back(
        {"next-tokens",
         fmt::format("{} of {} next tokens are equal{}; logits differ by at most {:.3g} (cosine "
                     "{:.9g}), KL divergence at most {:.3g}",
                     count("positions") - count("differ"), count("positions"),
                     count("differ") > 0
                         ? fmt::format(", {} of the others within the reference's noise",
                                       count("differ") - count("beyond_noise"))
                         : "",
                     NumberIn(logits, "max_diff"), NumberIn(logits, "cosine"),
                     NumberIn(tokens_, "kl_max"))});
  }

  const Model& model_;
  const Checkpoint& hf_;
  const CompareOptions& options_;
  Report report_;
  MegatronConfig config_;
  EffectSide hf_side_, megatron_side_;
  std::unique_ptr<ParameterSource> source_;
  StageTensors tensors_;
  std::optional<Recording> reference_, candidate_;
  std::vector<std::vector<int64_t>> ids_;
  std::unique_ptr<EngineSession> session_;
  std::unique_ptr<ActivationWriter> recorder_;
  std::vector<ResultRow> evidence_;
  std::vector<json> growth_;           // of the states that each side computed from its own
  std::set<std::string> unexplained_;  // layers of a recording that our model of it does not give
  json tokens_;
  int64_t routed_ = 0, flipped_ = 0, near_ties_ = 0;
};

}  // namespace

Result<Report> CompareModels(const Model& model, const Checkpoint& hf,
                             const MegatronCheckpoint* megatron, const CompareOptions& options) {
  return Comparison(model, hf, options).Run(megatron);
}

}  // namespace weighbridge
