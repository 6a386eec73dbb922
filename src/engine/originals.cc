#include "engine/originals.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <system_error>

#include "base/strings.h"
#include "engine/python.h"
#include "formats/megatron_config/megatron_config.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr double kTokenizeSeconds = 300, kModelSeconds = 6 * 3600;

json Batches(const std::vector<RecordingJob>& jobs) {
  json batches = json::array();
  for (const RecordingJob& job : jobs) {
    batches.push_back({{"ids", job.ids}, {"file", job.file.string()}});
  }
  return batches;
}

// The name under which a field of a config refers to code.
std::string TargetOf(const json& fields, const char* key) {
  const auto it = fields.find(key);
  if (it == fields.end()) return "";
  const json target = it->is_object() ? it->value("_target_", json()) : *it;
  return target.is_string() ? target.get<std::string>() : "";
}

std::string MadeBy(const json& reply, const std::string& library) {
  const json by = reply.value("made_by", json());
  return fmt::format("{} ({})", VersionsOf(reply, library),
                     by.is_string() ? ToPrintable(by.get<std::string>()) : "");
}

Error NoIds(std::string what) {
  return {ErrorKind::kInvalid, "original-failed", std::move(what), "", ""};
}

}  // namespace

Result<Tokenized> Tokenize(const fs::path& folder, const std::vector<std::string>& texts) {
  for (const std::string& text : texts) {
    if (text.empty() || ToValidUtf8(text) != text) {
      return Fail(ErrorKind::kUsage, "usage",
                  text.empty() ? "a prompt without text" : "a prompt that is not UTF-8",
                  ToPrintable(text));
    }
  }
  std::error_code error;
  if (!fs::is_regular_file(folder / "tokenizer.json", error)) {
    return Fail(ErrorKind::kNotFound, "tokenizer-missing",
                "the model has no tokenizer.json, and text needs one",
                (folder / "tokenizer.json").string(),
                "give the ids with --token-ids, or put the model's tokenizer beside its weights");
  }
  WB_TRY(const json reply,
         CallPython("tokenize", {{"model", folder.string()}, {"texts", texts}}, kTokenizeSeconds));
  Tokenized out;
  out.made_by = VersionsOf(reply, "tokenizers");
  const auto ids = reply.find("ids");
  if (ids == reply.end() || !ids->is_array() || ids->size() != texts.size()) {
    return Fail(NoIds("the tokenizer gave no ids"));
  }
  for (const json& row : *ids) {
    std::vector<int64_t>& out_row = out.ids.emplace_back();
    for (const json& id : row) {
      if (!id.is_number_integer()) return Fail(NoIds("the tokenizer gave an id that is no number"));
      out_row.push_back(id.get<int64_t>());
    }
    if (!out_row.empty()) continue;
    return Fail(ErrorKind::kUsage, "usage", "a prompt gives no token",
                ToPrintable(texts[out.ids.size() - 1]));
  }
  return out;
}

Result<std::string> RecordTransformers(const fs::path& folder,
                                       const std::vector<RecordingJob>& jobs, int threads) {
  WB_TRY(const json reply, CallPython("transformers_states",
                                      {{"model", fs::absolute(folder).string()},
                                       {"batches", Batches(jobs)},
                                       {"threads", threads}},
                                      kModelSeconds));
  return MadeBy(reply, "transformers");
}

Result<std::string> RecordMegatronCore(const Model& model, const MegatronCheckpoint& megatron,
                                       const std::vector<RecordingJob>& jobs, int threads) {
  if (megatron.format() != "torch_dist") {
    return Fail(
        ErrorKind::kUnsupported, "original-unsupported",
        fmt::format("megatron-core runs here from torch_dist, and this is {}", megatron.format()),
        megatron.path().string(), "`weighbridge convert` makes one of it");
  }
  WB_TRY(const auto config, ReadMegatronConfig(megatron));
  if (!config) {
    return Fail(ErrorKind::kUnsupported, "megatron-config",
                "the Megatron checkpoint does not say how its model is built",
                megatron.path().string(), "it needs a run_config.yaml or the args of Megatron-LM");
  }
  WB_TRY(const json reply,
         CallPython("megatron_states",
                    {{"checkpoint", fs::absolute(megatron.path()).string()},
                     {"fields", config->fields},
                     {"provider", config->provider},
                     {"layers", TargetOf(config->fields, "transformer_layer_spec")},
                     {"vocabulary", model.padded_vocab()},
                     {"output", model.vocab()},
                     {"batches", Batches(jobs)},
                     {"threads", threads}},
                    kModelSeconds));
  return MadeBy(reply, "megatron-core");
}

}  // namespace weighbridge
